"""What a site may state of itself: everything else is no statement."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from dp_risk.privacy.entries import Entry
from dp_risk.privacy.run_statement import CLOSING
from dp_risk.types import Adjacency, Split, Trust, Unit

_HEX, _HALF = re.compile(r"[0-9a-f]+"), re.compile("[\ud800-\udfff]")
_LONGEST_ENTRY, _SHORT = 20_000, ("time", "kind", "previous", "hash", "signature")
_LONGEST, _MOST_UNITS, _MOST_ENTRIES, _MOST_TEXTS = 200, 10**12, 10**12, 10


def checked(said: Mapping[str, Any], *, closing: bool = False) -> dict[str, Any]:
    """Return a statement whose every field has its type and range.

    Parameters
    ----------
    said : mapping
        What a site sent, decoded from JSON.
    closing : bool
        Whether to keep what it says of a run that is over, as it came: `server.ledgers` judges it.

    Raises
    ------
    ValueError
        Naming the first field that is missing or impossible.
    """
    for name, good in _FIELDS.items():
        if name not in said or not good(said[name]):
            raise ValueError(f"{name} is missing or impossible")
    # What else it says stays out of every file.
    kept = {name: said[name] for name in _FIELDS}
    return {**kept, CLOSING: said.get(CLOSING)} if closing else kept


def _text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST and value.isprintable()


def _words(value: Any) -> bool:
    # Half of a character cannot be written to a page.
    return isinstance(value, str) and len(value) <= 500 and not _HALF.search(value)


def _hex(length: int) -> Any:
    def good(value: Any) -> bool:
        return isinstance(value, str) and len(value) == length and bool(_HEX.fullmatch(value))

    return good


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _whole(low: int, high: int) -> Any:
    return lambda value: type(value) is int and low <= value <= high


def _number(low: float, high: float) -> Any:
    def good(value: Any) -> bool:
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        # Whole numbers first: one of 400 digits is no float.
        return plain and low <= value <= high and math.isfinite(value)

    return good


def _units(value: Any) -> bool:
    return value is None or bool(_whole(0, _MOST_UNITS)(value))


def _accounts(value: Any) -> bool:
    names = ("spent_epsilon", "left_epsilon", "used")
    return isinstance(value, dict) and all(
        split in list(Split)
        and isinstance(balance, dict)
        and set(balance) == set(names)
        and all(_number(0, 1e9)(balance[name]) for name in names)
        for split, balance in value.items()
    )


def _amendments(value: Any) -> bool:
    if not isinstance(value, list) or len(value) > 1000:
        return False
    texts = ("kind", "by", "reason", "time")
    return all(
        isinstance(one, dict)
        and all(_words(one.get(name)) for name in texts)
        and _number(0, 1e9)(one.get("lifetime_epsilon"))
        for one in value
    )


def _rekeys(value: Any) -> bool:
    names = {field.name for field in dataclasses.fields(Entry)}
    return (
        isinstance(value, list)
        and len(value) <= 1000
        and all(
            isinstance(one, dict)
            and set(one) == names
            and _whole(1, _MOST_ENTRIES)(one["sequence"])
            and isinstance(one["text"], str)
            and len(one["text"]) <= _LONGEST_ENTRY
            and all(isinstance(one[name], str) and len(one[name]) <= 200 for name in _SHORT)
            for one in value
        )
    )


def _entry(value: Any) -> bool:
    if not isinstance(value, dict) or set(value) != {"sequence", "hash"}:
        return False
    number, found = value["sequence"], value["hash"]
    return (number is None or _whole(0, 2**62)(number)) and (found is None or _hex(64)(found))


def _run(value: Any) -> bool:
    if not isinstance(value, dict) or set(value) != {"id", "epsilon_spent", "rounds"}:
        return False
    costs, rounds = value["epsilon_spent"], value["rounds"]
    return (
        (value["id"] is None or _text(value["id"]))
        and isinstance(costs, dict)
        and all(split in list(Split) and _number(0, 1e9)(cost) for split, cost in costs.items())
        and isinstance(rounds, dict)
        and all(_text(name) and _whole(0, _MOST_ENTRIES)(n) for name, n in rounds.items())
    )


def _open_run(value: Any) -> bool:
    return value is None or _text(value)


def _trusts(value: Any) -> bool:
    return isinstance(value, list) and all(one in list(Trust) for one in value)


def _enrolment(value: Any) -> bool:
    # What is in it is for the other sites to check.
    texts = isinstance(value, dict) and len(value) <= _MOST_TEXTS
    return value is None or (
        texts and all(isinstance(t, str) and len(t) <= _LONGEST for t in (*value, *value.values()))
    )


_FIELDS = {
    "site": _text,
    "key": _hex(64),
    "dataset": _text,
    "schema": _hex(64),
    "unit": lambda value: value in list(Unit),
    "adjacency": lambda value: value in list(Adjacency),
    "stable_ids": _flag,
    "holdout": _number(0, 1),
    "delta": _number(0, 1),
    "public": _flag,
    "units": _units,
    "min_sites": _whole(1, _MOST_UNITS),
    "max_sites_per_unit": _whole(1, _MOST_UNITS),
    "max_records_per_account": _whole(1, _MOST_UNITS),
    "trusts": _trusts,
    "run_epsilon": _number(0, 1e9),
    "lifetime_epsilon": _number(0, 1e9),
    "spent_epsilon": _number(0, 1e9),
    "left_epsilon": _number(0, 1e9),
    "lifetime_used": _number(0, 1e9),
    "accounts": _accounts,
    "amendments": _amendments,
    "rekeys": _rekeys,
    "retired": _flag,
    "ledger_head": _hex(64),
    "ledger_signature": _hex(128),
    "ledger_entries": _whole(1, _MOST_ENTRIES),
    "entry": _entry,
    "run": _run,
    "open_run": _open_run,
    "enrolment": _enrolment,
}
