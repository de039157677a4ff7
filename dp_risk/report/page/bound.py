"""Facts that know their place: every leaf of a report carries its JSON pointer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_INDEX = re.compile("[0-9]{1,9}")
Leaf = str | int | float


class Number(float):
    """A float at a place of ``report.json``."""

    pointer: str


class Count(int):
    """An integer at a place of ``report.json``."""

    pointer: str


class Text(str):
    """A string at a place of ``report.json``."""

    __slots__ = ("pointer",)
    pointer: str


def bind(value: Any, pointer: str = "") -> Any:
    """Return a copy of JSON facts whose numbers and strings know where they are.

    Parameters
    ----------
    value : JSON value
        Of ``report.json``, or all of it. None, true and false stay what they are.
    pointer : str
        Where it is (RFC 6901).
    """
    if isinstance(value, Mapping):
        return {key: bind(item, f"{pointer}/{escaped(str(key))}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [bind(item, f"{pointer}/{i}") for i, item in enumerate(value)]
    if value is None or isinstance(value, bool):
        return value
    for plain, placed in ((int, Count), (float, Number), (str, Text)):
        if isinstance(value, plain):
            out = placed(value)
            out.pointer = pointer
            return out
    return value


def escaped(key: str) -> str:
    """Return a key as one step of a JSON pointer."""
    return key.replace("~", "~0").replace("/", "~1")


def pointer_of(value: object) -> str | None:
    """Return where a value stands in ``report.json``; None for what was made elsewhere."""
    return value.pointer if isinstance(value, Number | Count | Text) else None


def resolve(report: Any, pointer: str) -> Any:
    """Return what a JSON pointer leads to.

    Raises
    ------
    KeyError
        If it leads nowhere.
    """
    for step in pointer.split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(report, Mapping):
            report = report[key]
        elif isinstance(report, list) and _INDEX.fullmatch(key) and int(key) < len(report):
            report = report[int(key)]
        else:
            raise KeyError(pointer)
    return report
