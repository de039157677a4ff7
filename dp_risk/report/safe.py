"""Reads JSON of which nothing is certain: what does not fit is left out, never an error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def mapping(value: Any) -> dict[str, Any]:
    """Return a mapping, or an empty one."""
    return dict(value) if isinstance(value, Mapping) else {}


def items(value: Any) -> list[Any]:
    """Return a list, or an empty one."""
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []


def mappings(value: Any) -> list[Mapping[str, Any]]:
    """Return the mappings in a list."""
    return [item for item in items(value) if isinstance(item, Mapping)]


def finite(value: Any) -> float | None:
    """Return a finite number as float, anything else as None; never the words NaN or infinity."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        value = float(value)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def count(value: Any) -> int | None:
    """Return a finite number as int, anything else as None."""
    number = finite(value)
    return None if number is None else int(number)
