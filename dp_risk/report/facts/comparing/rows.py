"""Rows of a comparison: one value a run, and how each stands to the first."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from dp_risk.report.facts.loose import leaf

Row = dict[str, Any]
Value = str | int | float | None

# Numbers closer than this share of each other are the same: noise is searched for to a tolerance.
CLOSE = 1e-4


def row(key: str, values: Sequence[Value]) -> Row:
    """Return a row: ``{key, cells: [{value, way}], same}``.

    Parameters
    ----------
    key : str
        What is compared.
    values : sequence of str, int, float or None
        One a run, the reference first. `way` is how each stands to the first: ``reference, same,
        more, less`` (numbers) or ``other``.
    """
    ways = ["reference", *(way(values[0], value) for value in values[1:])]
    return {
        "key": key,
        "cells": [{"value": v, "way": w} for v, w in zip(values, ways, strict=True)],
        "same": all(w in ("reference", "same") for w in ways),
    }


def way(first: Value, value: Value) -> str:
    """Return how a value stands to the reference's: same, more, less or other."""
    if isinstance(first, int | float) and isinstance(value, int | float):
        close = isinstance(first, float) or isinstance(value, float)
        if first == value or (close and math.isclose(first, value, rel_tol=CLOSE)):
            return "same"
        return "more" if value > first else "less"
    return "same" if first == value else "other"


def differing(
    runs: Sequence[Mapping[str, Any]], *, but: Collection[str] = ()
) -> tuple[list[Row], int]:
    """Return rows of the keys whose values differ between mappings, and how many do not."""
    names = [n for n in dict.fromkeys(str(n) for one in runs for n in one) if n not in but]
    rows = [row(name, [leaf(one.get(name)) for one in runs]) for name in names]
    unequal = [one for one in rows if not one["same"]]
    return unequal, len(rows) - len(unequal)


def apart(runs: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Return texts that all runs have, and those that only some have: ``{common, apart}``.

    ``apart`` holds ``{text, runs}``: which of the runs have it.
    """
    texts = list(dict.fromkeys(text for one in runs for text in one))
    has = {text: [text in one for one in runs] for text in texts}
    return {
        "common": [text for text in texts if all(has[text])],
        "apart": [{"text": text, "runs": has[text]} for text in texts if not all(has[text])],
    }
