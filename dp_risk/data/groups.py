"""Groups of rows by one column, as the public schema names its values."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from dp_risk.data.coding import Coded, Coding
from dp_risk.data.schema import Categorical, Numeric
from dp_risk.types import ConfigurationError

MAX_GROUPS = 64
# A number's bins are joined to so many stretches: more would be too few units each.
_STRETCHES = 4

OTHER, MISSING = "(other)", "(missing)"


def group_names(coding: Coding, column: str) -> tuple[str, ...]:
    """Return the names of a column's groups, from the schema alone.

    Parameters
    ----------
    coding : Coding
        The coding of the schema.
    column : str
        A categorical column, or a numeric one with bins.

    Returns
    -------
    tuple of str
        A categorical column's listed values, or its buckets; a numeric column's bins joined to
        at most 4 stretches of its scale. `OTHER` for values outside the list and `MISSING` close
        it.

    Raises
    ------
    ConfigurationError
        If the column is no feature, has no groups, or has more than `MAX_GROUPS`.
    """
    feature = coding.schema.features.get(column)
    if feature is None:
        raise ConfigurationError(f"schema {coding.schema.name} has no feature {column}")
    if isinstance(feature, Numeric):
        if not feature.bins:
            raise ConfigurationError(f"column {column} is a number without bins: it has no groups")
        return (*_stretches(coding, column), MISSING)
    if not isinstance(feature, Categorical):
        raise ConfigurationError(f"column {column} is text: it has no groups")
    found = (
        (*feature.values, OTHER)
        if feature.values
        else tuple(f"bucket {i}" for i in range(min(feature.buckets, MAX_GROUPS)))
    )
    if len(found) >= MAX_GROUPS:
        count = len(feature.values) or feature.buckets
        raise ConfigurationError(
            f"column {column} has {count} values: too many groups, {MAX_GROUPS - 2} are the most"
        )
    return (*found, MISSING)


def check_columns(coding: Coding, columns: Sequence[str]) -> None:
    """Check that columns have groups.

    Raises
    ------
    ConfigurationError
        Naming the first that has none.
    """
    for column in columns:
        try:
            group_names(coding, column)
        except ConfigurationError as error:
            raise ConfigurationError(f"evaluation.subgroups: {error}") from None


def grouped(coding: Coding) -> tuple[str, ...]:
    """Return the columns that have groups, in the schema's order."""
    found = []
    for column in coding.schema.features:
        with suppress(ConfigurationError):
            group_names(coding, column)
            found.append(column)
    return tuple(found)


def group_of(coding: Coding, column: str, coded: Coded) -> NDArray[np.int64]:
    """Return the group of every row.

    Parameters
    ----------
    coding, column
        As in `group_names`.
    coded : Coded
        Rows in that coding; the result is as private as they are.

    Returns
    -------
    ndarray of int64, shape (n,)
        Index into `group_names`.

    Raises
    ------
    ConfigurationError
        As `group_names`.
    """
    last = len(group_names(coding, column)) - 1
    codes = coding.feature_codes(column)
    offset = coded.codes[:, coding.slot_names.index(column)].astype(np.int64) - codes.start
    feature = coding.schema.features[column]
    if not isinstance(feature, Numeric):
        return offset
    return np.where(offset == feature.bins, last, offset * last // feature.bins)


def _stretches(coding: Coding, column: str) -> list[str]:
    bins = coding.numeric(column).bins
    count = min(bins, _STRETCHES)
    # Stretch g holds the bins b with b * count // bins == g.
    edges = coding.bin_edges(column)[[-(-g * bins // count) for g in range(count + 1)]]
    words: list[str] = []
    for digits in range(4, 18):
        words = [f"{edge:.{digits}g}" for edge in edges]
        if len(set(words)) == len(words):
            break
    closes = [")"] * (count - 1) + ["]"]
    return [f"[{a}, {b}{end}" for a, b, end in zip(words, words[1:], closes, strict=False)]
