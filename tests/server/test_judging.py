from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from dp_risk import wire
from dp_risk.privacy import keys
from dp_risk.privacy.release import CONTEXT, Release, arrays_digest, receipt
from server import judging

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = keys.public_hex(KEY)
ASKED: dict[str, Any] = {"run": "run-1", "purpose": "training", "round": 4}
SHAPES = {"w": (2, 3), "b": (1,)}


def arrays() -> dict[str, np.ndarray]:
    return {"w": np.ones((2, 3)), "b": np.ones(1)}


def release(key: Ed25519PrivateKey = KEY, **changes: Any) -> Release:
    values: dict[str, Any] = {**ASKED, "arrays": arrays(), "ledger_head": "0" * 64, **changes}
    digest = arrays_digest(values["arrays"])
    said = receipt(values["run"], values["purpose"], values["round"], digest, values["ledger_head"])
    return Release(**values, digest=digest, signature=keys.sign(key, CONTEXT, said))


def test_an_answer_that_is_asked_for_is_taken() -> None:
    found = judging.read(wire.release_record(release()))
    assert isinstance(found, Release)
    assert judging.misplaced(found, PUBLIC, **ASKED) is None
    assert judging.misfit(found.arrays, SHAPES) is None


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (release(Ed25519PrivateKey.generate()), "key"),
        (replace(release(), ledger_head="1" * 64), "key"),
        (replace(release(), round=5), "key"),
        (release(run="run-0"), "another run"),
        (release(purpose="counts"), "another purpose"),
        (release(round=3), "stale"),
    ],
)
def test_an_answer_to_another_question_is_said_to_be_one(wrong: Release, reason: str) -> None:
    assert reason in str(judging.misplaced(wrong, PUBLIC, **ASKED))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"more": np.ones(1)}, "names"),
        ({"w": np.ones((3, 2))}, "shape"),
        ({"w": np.ones(6)}, "shape"),
        ({"w": np.ones((2, 3), np.float32)}, "type"),
        ({"w": np.ones((2, 3), object)}, "type"),
        ({"b": np.array([np.nan])}, "finite"),
        ({"b": np.array([-np.inf])}, "finite"),
        ({"b": np.array([-1e13])}, "too large"),
        ({"b": np.array([11.0])}, "longer"),
    ],
)
def test_arrays_that_cannot_be_honest_are_told_apart(changes: Any, reason: str) -> None:
    found = judging.misfit({**arrays(), **changes}, SHAPES, longest=10.0)
    assert found is not None
    assert reason in found


def test_masked_words_are_judged_by_their_form() -> None:
    words = {"masked": np.full(3, 2**64 - 1, np.uint64)}
    assert judging.misfit(words, {"masked": (3,)}, kind=np.uint64) is None
    assert judging.misfit(words, {"masked": (4,)}, kind=np.uint64) == "arrays of another shape"
    floats = {"masked": np.ones(3)}
    assert judging.misfit(floats, {"masked": (3,)}, kind=np.uint64) == "numbers of another type"


def test_a_refusal_is_called_one() -> None:
    assert judging.read(wire.refusal_record()) == judging.REFUSED


def odd(data: bytes, stype: str = "numpy.ndarray") -> RecordDict:
    content = wire.release_record(release())
    array = Array(dtype="float64", shape=(2,), stype=stype, data=data)
    content[wire.ARRAYS] = ArrayRecord({"w": array})
    return content


HUGE = (
    b"\x93NUMPY\x01\x00v\x00"
    + b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(117)
    + b"\n"
)


@pytest.mark.parametrize(
    "content",
    [
        RecordDict({}),
        RecordDict({"receipt": ConfigRecord({}), "arrays": ArrayRecord({})}),
        RecordDict({"receipt": ArrayRecord({}), "arrays": ConfigRecord({})}),
        wire.statement_record({"site": "a"}),
        odd(b""),
        odd(b"no array"),
        odd(b"PK\x03\x04 no archive"),
        odd(b"", stype="pickle"),
        odd(HUGE),
    ],
)
def test_what_is_no_release_is_no_exception(content: RecordDict) -> None:
    assert judging.read(content) == "no release, or not what its digest says"


@given(st.binary(max_size=300))
def test_any_bytes_in_place_of_an_array_are_judged(data: bytes) -> None:
    assert isinstance(judging.read(odd(data)), str)


def test_no_reason_holds_what_was_sent() -> None:
    secret = {"w": np.full((2, 3), 123456.789), "b": np.array([np.nan])}
    assert "123456" not in str(judging.misfit(secret, SHAPES))
    assert "hunter2" not in str(judging.misplaced(release(run="hunter2"), PUBLIC, **ASKED))
