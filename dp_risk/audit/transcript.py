"""Fields that give one unit away: the spy on everything that leaves.

A field that never changes over runs on D, never changes over runs on D and one unit more, and
differs between the two, was released without noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dp_risk.audit.findings import Check

Message: TypeAlias = Mapping[str, Any]
Transcript: TypeAlias = Sequence[Message]
_NAMED = 3


def flatten(content: Mapping[str, Any]) -> dict[str, Any]:
    """Name every value in nested content.

    Parameters
    ----------
    content : mapping
        JSON values, bytes and arrays, in mappings and sequences.

    Returns
    -------
    dict
        Values by path, parts joined by `/` (`~` and `/` inside a part become `~0` and `~1`).
        Beside each container its keys in order (`#keys`) or length (`#length`), beside text and
        bytes their length in bytes (`#bytes`), beside an array its type and shape (`#dtype`,
        `#shape`). Arrays stay whole.
    """
    fields: dict[str, Any] = {}
    _collect("", content, fields)
    return fields


def _collect(path: str, value: Any, fields: dict[str, Any]) -> None:
    if isinstance(value, Mapping):
        fields[f"{path}#keys"] = tuple(str(key) for key in value)
        for key, inner in value.items():
            part = str(key).replace("~", "~0").replace("/", "~1")
            _collect(f"{path}/{part}" if path else part, inner, fields)
    elif isinstance(value, list | tuple):
        fields[f"{path}#length"] = len(value)
        for index, inner in enumerate(value):
            _collect(f"{path}/{index}", inner, fields)
    elif isinstance(value, np.ndarray) and value.dtype != object:
        fields[f"{path}#dtype"], fields[f"{path}#shape"] = value.dtype.str, value.shape
        fields[path] = value
    else:
        if isinstance(value, str | bytes):
            raw = value.encode(errors="surrogatepass") if isinstance(value, str) else value
            fields[f"{path}#bytes"] = len(raw)
        fields[path] = value


def _bits(arrays: Sequence[NDArray[Any]]) -> NDArray[np.uint8]:
    """Stack the bytes of each coordinate, shape (runs, coordinates, bytes): -0.0 is not 0.0."""
    size = min(array.size for array in arrays)
    rows = [np.ascontiguousarray(array).reshape(-1)[:size] for array in arrays]
    return np.stack([row.view(np.uint8).reshape(size, -1) for row in rows])


def _leaking_coordinates(
    without: Sequence[NDArray[Any]], with_unit: Sequence[NDArray[Any]]
) -> NDArray[np.int64]:
    """Return the flat positions, among those that all runs have, that leak."""
    if min(array.size * array.itemsize for array in (*without, *with_unit)) == 0:
        return np.empty(0, dtype=np.int64)
    size = min(array.size for array in (*without, *with_unit))
    before, after = _bits(without)[:, :size], _bits(with_unit)[:, :size]
    still = (before == before[0]).all(axis=(0, 2)) & (after == after[0]).all(axis=(0, 2))
    return np.flatnonzero(still & (before[0] != after[0]).any(axis=1))


def _constants(values: Sequence[Any]) -> set[tuple[type, str]]:
    return {(type(value), repr(value)) for value in values}


def _compare(name: str, without: Sequence[Any], with_unit: Sequence[Any]) -> str | None:
    """Return how a field that all these runs have leaks, if it does."""
    values = (*without, *with_unit)
    if all(isinstance(value, np.ndarray) for value in values):
        # Another type is named by its own field, and its bytes cannot be compared.
        if len({value.dtype for value in values}) > 1:
            return None
        positions = _leaking_coordinates(without, with_unit)
        if not len(positions):
            return None
        more = f" and {len(positions) - 1} more" if len(positions) > 1 else ""
        return f"{name}[{positions[0]}]{more}"
    before, after = _constants(without), _constants(with_unit)
    return name if len(before) == len(after) == 1 and before != after else None


def _fields(transcript: Transcript) -> dict[str, Any]:
    fields: dict[str, Any] = {"messages": len(transcript)}
    for number, message in enumerate(transcript):
        fields |= {f"{number}/{name}": value for name, value in flatten(message).items()}
    return fields


def _find(without: Sequence[Transcript], with_unit: Sequence[Transcript]) -> tuple[list[str], int]:
    """Return the leaking names, and how many fields and coordinates were compared."""
    if min(len(without), len(with_unit)) < 2:
        raise ValueError("each side needs at least two runs: noise shows only between runs")
    before, after = [_fields(run) for run in without], [_fields(run) for run in with_unit]
    names = dict.fromkeys(name for run in (*before, *after) for name in run)
    found, compared = [], 0
    for name in names:
        there = [run[name] for run in before if name in run]
        here = [run[name] for run in after if name in run]
        sizes = [v.size if isinstance(v, np.ndarray) else 1 for v in (*there, *here)]
        compared += max(sizes)
        if {len(there) / len(before), len(here) / len(after)} == {0.0, 1.0}:
            found.append(f"{name} (present or not)")
        # A field of some runs only is compared where each side shows whether it varies.
        elif min(len(there), len(here)) >= 2 and (leak := _compare(name, there, here)) is not None:
            found.append(leak)
    return found, compared


def leaks(without: Sequence[Transcript], with_unit: Sequence[Transcript]) -> list[str]:
    """Name the fields that tell D from D and one unit.

    Parameters
    ----------
    without, with_unit : sequence of transcript
        Runs on D and on D and one unit, at least two of each. A transcript is a list of messages:
        mappings of field names to JSON values, bytes or arrays.

    Returns
    -------
    list of str
        `message/path`; `[i] and k more` for coordinates of an array.

    Raises
    ------
    ValueError
        If a side has fewer than two runs.
    """
    return _find(without, with_unit)[0]


def transcript(without: Sequence[Transcript], with_unit: Sequence[Transcript]) -> Check:
    """Fail when any field tells D from D and one unit.

    The number of runs sets the false alarms: k runs a side find a noisy field of m equally likely
    values constant on both sides, and different, with probability below m^(2 - 2k). A field with
    fine noise needs two; for coarse fields (a noisy yes or no) k of 11 gives 1e-6.

    Parameters
    ----------
    without, with_unit : sequence of transcript
        As for `leaks`. Runs without any message fail the check.

    Raises
    ------
    ValueError
        If a side has fewer than two runs.
    """
    name = "transcript"
    found, compared = _find(without, with_unit)
    if not any(len(run) for run in (*without, *with_unit)):
        return Check(name=name, passed=False, figure="no message was seen")
    runs = f"{compared} fields over {len(without)} + {len(with_unit)} runs"
    if not found:
        return Check(name=name, passed=True, figure=f"0 of {runs} tell one unit, allowed 0")
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    figure = f"of {runs} these tell one unit: {', '.join(found[:_NAMED])}{more}; allowed 0"
    return Check(name=name, passed=False, figure=figure)
