"""Plans, requests and releases as Flower records: the only file of the library that knows Flower.

A request is one `ConfigRecord` of JSON text and, for training, one `ArrayRecord` of weights. A
reply is a release (arrays and their receipt), a statement (JSON built from policy and ledger
alone), or the refusal, which is always the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from numpy.typing import NDArray

from dp_risk.privacy.release import Release, arrays_digest, canonical, digest

REQUEST, WEIGHTS = "request", "weights"
RECEIPT, ARRAYS = "receipt", "arrays"
STATEMENT, REFUSAL = "statement", "refusal"
_MAX_REQUEST = 1_000_000

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """What a server asks of a site: JSON values and, for training, weights."""

    values: Mapping[str, Any]
    weights: Arrays

    @property
    def about(self) -> tuple[str | None, int | None]:
        """The run and the ledger entry that a statement is asked about."""
        run, entry = self.values.get("run"), self.values.get("entry")
        return (
            run if isinstance(run, str) else None,
            entry if type(entry) is int and 0 <= entry < 2**62 else None,
        )

    @property
    def digest(self) -> str:
        """SHA-256 over everything that the request says."""
        return digest({"values": dict(self.values), "weights": arrays_digest(self.weights)})


def arrays_to_record(arrays: Arrays) -> ArrayRecord:
    """Encode named arrays."""
    return ArrayRecord({name: Array(np.ascontiguousarray(a)) for name, a in sorted(arrays.items())})


def record_to_arrays(record: ArrayRecord) -> dict[str, NDArray[Any]]:
    """Decode named arrays; Flower never unpickles here (numpy's own format, no objects)."""
    return {name: array.numpy() for name, array in record.items()}


def request_record(values: Mapping[str, Any], weights: Arrays | None = None) -> RecordDict:
    """Encode a request."""
    content = RecordDict({REQUEST: ConfigRecord({"json": canonical(dict(values)).decode()})})
    if weights is not None:
        content[WEIGHTS] = arrays_to_record(weights)
    return content


def read_request(message: Message) -> Request:
    """Decode a request.

    Raises
    ------
    ValueError
        If it has another form.
    """
    content = message.content
    if not set(content) <= {REQUEST, WEIGHTS} or REQUEST not in content:
        raise ValueError("not a request")
    text = content.config_records[REQUEST]["json"]
    if not isinstance(text, str) or len(text) > _MAX_REQUEST:
        raise ValueError("not a request")
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("not a request")
    weights = record_to_arrays(content.array_records[WEIGHTS]) if WEIGHTS in content else {}
    return Request(values=values, weights=weights)


def release_record(release: Release) -> RecordDict:
    """Encode a release."""
    receipt = ConfigRecord(
        {
            "run": release.run,
            "purpose": release.purpose,
            "round": release.round,
            "digest": release.digest,
            "ledger_head": release.ledger_head,
            "signature": release.signature,
        }
    )
    return RecordDict({ARRAYS: arrays_to_record(release.arrays), RECEIPT: receipt})


def read_release(content: RecordDict) -> Release:
    """Decode a release, recomputing its digest.

    Raises
    ------
    ValueError
        If the record is anything else than a release.
    """
    if set(content) != {ARRAYS, RECEIPT}:
        raise ValueError("not a release")
    receipt = dict(content.config_records[RECEIPT])
    if set(receipt) != {"run", "purpose", "round", "digest", "ledger_head", "signature"}:
        raise ValueError("not a release")
    arrays = record_to_arrays(content.array_records[ARRAYS])
    if arrays_digest(arrays) != receipt["digest"]:
        raise ValueError("the release does not match its digest")
    return Release(
        run=str(receipt["run"]),
        purpose=str(receipt["purpose"]),
        round=int(str(receipt["round"])),
        arrays=arrays,
        digest=str(receipt["digest"]),
        ledger_head=str(receipt["ledger_head"]),
        signature=str(receipt["signature"]),
    )


def statement_record(statement: Mapping[str, Any]) -> RecordDict:
    """Encode a statement."""
    return RecordDict({STATEMENT: ConfigRecord({"json": canonical(dict(statement)).decode()})})


def read_statement(content: RecordDict) -> dict[str, Any]:
    """Decode a statement.

    Raises
    ------
    ValueError
        If the record is anything else.
    """
    if set(content) != {STATEMENT} or set(content.config_records[STATEMENT]) != {"json"}:
        raise ValueError("not a statement")
    try:
        values = json.loads(str(content.config_records[STATEMENT]["json"]))
    except RecursionError:
        raise ValueError("not a statement") from None
    if not isinstance(values, dict):
        raise ValueError("not a statement")
    return values


def refusal_record() -> RecordDict:
    """Return the one refusal: it says nothing but that it is one."""
    return RecordDict({REFUSAL: ConfigRecord({"refused": True})})


def is_refusal(content: RecordDict) -> bool:
    """Whether a reply is the refusal."""
    return set(content) == {REFUSAL}
