"""Private arrays that may hold anything, read one entry at a time.

Whether an entry can be read depends on that entry alone: one bad unit costs nobody else, and
nothing that a row holds raises.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LARGEST_EXACT = 2.0**53


def numbers(entries: Any) -> NDArray[np.float64]:
    """Return entries as numbers.

    Parameters
    ----------
    entries : array or sequence, shape (n,)
        Private. Whole numbers and booleans are numbers; text, dates and complex numbers are not.

    Returns
    -------
    ndarray of float64, shape (n,)
        NaN where an entry is not a number; empty where `entries` is not one axis of entries.
    """
    array = _entries(entries)
    if isinstance(array, list):
        return np.array([_number(entry) for entry in array], dtype=np.float64)
    return _as_floats(array) if array.ndim == 1 else np.empty(0)


def rows(entries: Any, width: int) -> NDArray[np.float64]:
    """Return entries as rows of `width` numbers.

    Parameters
    ----------
    entries : array or sequence of rows, shape (n, width)
        Private.
    width : int
        At least 1.

    Returns
    -------
    ndarray of float64, shape (n, width)
        NaN throughout a row of another length; no row where `entries` is not a sequence of rows.
    """
    array = _entries(entries)
    if isinstance(array, list):
        out = np.full((len(array), width), np.nan)
        for row, entry in zip(out, array, strict=True):
            found = numbers(entry)
            if len(found) == width:
                row[:] = found
        return out
    fits = array.ndim == 2 and array.shape[1] == width
    return _as_floats(array) if fits else np.empty((0, width))


def groups(ids: Any) -> NDArray[np.int64]:
    """Return a number for each row's id, equal where the ids are.

    Parameters
    ----------
    ids : array or sequence of whole numbers, shape (n,)
        Private: the unit of each row.

    Returns
    -------
    ndarray of int64, shape (n,)
        From 0; -1 where an id is not a whole number. Empty where `ids` is not one axis of ids.
    """
    array = _entries(ids)
    if isinstance(array, list):
        seen: dict[Hashable, int] = {}
        keys = [_whole(entry) for entry in array]
        return np.array([-1 if k is None else seen.setdefault(k, len(seen)) for k in keys], int)
    if array.ndim != 1:
        return np.empty(0, dtype=np.int64)
    whole = np.ones(len(array), dtype=np.bool_)
    if array.dtype.kind not in "iub":
        array = _as_floats(array)
        whole = (np.abs(array) <= _LARGEST_EXACT) & (np.floor(array) == array)
    out = np.full(len(array), -1, dtype=np.int64)
    out[whole] = np.unique(array[whole], return_inverse=True)[1]
    return out


def _entries(value: Any) -> list[Any] | NDArray[Any]:
    """Return an array of one dtype, or a list of entries that each have their own."""
    if isinstance(value, list | tuple):
        return list(value)
    try:
        array = np.asarray(value)
    except Exception:
        return []
    return list(array) if array.dtype.kind == "O" and array.ndim else array


def _as_floats(array: NDArray[Any]) -> NDArray[np.float64]:
    if array.dtype.kind not in "iufb":
        return np.full(array.shape, np.nan)
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(np.float64)


def _number(entry: Any) -> float:
    if not isinstance(entry, int | float | np.integer | np.floating | np.bool_):
        return math.nan
    try:
        return float(entry)
    except Exception:
        return math.nan


def _whole(entry: Any) -> int | None:
    if isinstance(entry, int | np.integer | np.bool_):
        return int(entry)
    number = _number(entry)
    return int(number) if abs(number) <= _LARGEST_EXACT and number.is_integer() else None
