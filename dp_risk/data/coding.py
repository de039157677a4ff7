"""The coding of rows: a few integer codes and a few numbers in [0, 1], from the schema alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from dp_risk.data.columns import distinct, public_texts, to_numbers, to_text
from dp_risk.data.labels import read_labels
from dp_risk.data.ngrams import bucket, ngram_codes
from dp_risk.data.schema import Categorical, Numeric, Schema, Text
from dp_risk.types import ConfigurationError, Unit

# How the id of a row begins whose id column is empty: it is known by its content only, which may
# change, so such a row is never held out (`dp_risk.data.split`).
NO_ID = b"-"


@dataclass(frozen=True, kw_only=True, eq=False)
class Coded:
    """Private rows in coded form.

    Parameters
    ----------
    codes : ndarray of int32, shape (n, slots)
        Codes in [0, n_codes); 0 is padding.
    values : ndarray of float32, shape (n, n_values)
        Numeric columns on their public scale, in [0, 1]; 0 where missing.
    labels : ndarray of float32, shape (n,)
        0, 1, or NaN where a row without a label was kept.
    ids : ndarray of bytes32, shape (n,)
        Hexadecimal digest of the stable unit id; private. It begins with `NO_ID` where the id
        column is empty.
    """

    codes: NDArray[np.int32]
    values: NDArray[np.float32]
    labels: NDArray[np.float32]
    ids: NDArray[np.bytes_]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: ArrayLike) -> Coded:
        """Return the rows chosen by an index array or a boolean mask."""
        chosen = np.asarray(index)
        if chosen.size == 0 and chosen.dtype != np.bool_:
            chosen = chosen.astype(np.int64)
        return Coded(
            codes=self.codes[chosen],
            values=self.values[chosen],
            labels=self.labels[chosen],
            ids=self.ids[chosen],
        )


@dataclass(frozen=True, kw_only=True)
class Coding:
    """The public map from rows to codes, derived from the schema only.

    A numeric column has one value and, with bins, one slot with a code a bin and one for "missing".
    A categorical column has one slot with a code a value or bucket, one for "other" (value lists
    only) and one for "missing". A text column has `max_ngrams` slots and a code a bucket.

    Parameters
    ----------
    schema : Schema
        The public schema.
    """

    schema: Schema

    @cached_property
    def _ranges(self) -> dict[str, range]:
        ranges, start = {}, 1
        for name, feature in self.schema.features.items():
            if isinstance(feature, Numeric):
                size = feature.bins + 1 if feature.bins else 0
            elif isinstance(feature, Categorical):
                size = (len(feature.values) + 1 if feature.values else feature.buckets) + 1
            else:
                size = feature.buckets
            ranges[name] = range(start, start + size)
            start += size
        return ranges

    @cached_property
    def n_codes(self) -> int:
        """Size of the global code table, code 0 included."""
        return 1 + sum(len(codes) for codes in self._ranges.values())

    @cached_property
    def slot_names(self) -> tuple[str, ...]:
        """A name for each slot: the column, with ``#i`` for text."""
        names: list[str] = []
        for name, feature in self.schema.features.items():
            if isinstance(feature, Text):
                names += [f"{name}#{i}" for i in range(feature.max_ngrams)]
            elif self._ranges[name]:
                names.append(name)
        return tuple(names)

    @cached_property
    def value_names(self) -> tuple[str, ...]:
        """The numeric columns, in the order of `Coded.values`."""
        items = self.schema.features.items()
        return tuple(name for name, feature in items if isinstance(feature, Numeric))

    @property
    def slots(self) -> int:
        """Codes per row."""
        return len(self.slot_names)

    @property
    def n_values(self) -> int:
        """Numbers per row."""
        return len(self.value_names)

    def feature_codes(self, name: str) -> range:
        """Return the codes of one column; empty for a numeric column without bins.

        Raises
        ------
        ConfigurationError
            If the schema has no such feature.
        """
        if name not in self._ranges:
            raise ConfigurationError(f"schema {self.schema.name} has no feature {name}")
        return self._ranges[name]

    def numeric(self, name: str) -> Numeric:
        """Return a numeric feature by name.

        Raises
        ------
        ConfigurationError
            If the column is not a numeric feature.
        """
        feature = self.schema.features.get(name)
        if not isinstance(feature, Numeric):
            raise ConfigurationError(f"schema {self.schema.name} has no numeric feature {name}")
        return feature

    def bin_edges(self, name: str) -> NDArray[np.float64]:
        """Return the ``bins + 1`` edges of a numeric column in its own unit (empty: no bins).

        Raises
        ------
        ConfigurationError
            If the column is not a numeric feature.
        """
        feature = self.numeric(name)
        return (
            unscale(np.arange(feature.bins + 1) / feature.bins, feature)
            if feature.bins
            else (np.empty(0))
        )

    def code_label(self, code: int) -> str:
        """Return what a code means, in words.

        Raises
        ------
        ConfigurationError
            If `code` is not in [0, n_codes).
        """
        if code == 0:
            return "(absent)"
        for name, codes in self._ranges.items():
            if code in codes:
                return self._label(name, code - codes.start, code == codes[-1])
        raise ConfigurationError(f"code {code} is not in [0, {self.n_codes})")

    def _label(self, name: str, offset: int, last: bool) -> str:
        feature = self.schema.features[name]
        if isinstance(feature, Text):
            return f"{name}: n-gram bucket {offset}"
        if last:
            return f"{name}: missing"
        if isinstance(feature, Numeric):
            edges = self.bin_edges(name)
            close = "]" if offset == feature.bins - 1 else ")"
            return f"{name} in [{edges[offset]:.4g}, {edges[offset + 1]:.4g}{close}"
        if feature.buckets:
            return f"{name}: bucket {offset}"
        if offset == len(feature.values):
            return f"{name}: other"
        return f"{name} = {feature.values[offset]}"

    def encode(self, table: Any, *, unit: Unit = Unit.RECORD, require_label: bool = True) -> Coded:
        """Code every row of a table; the content of a row never raises.

        A numeric value that is missing, unreadable or infinite gets the "missing" code and value
        0; one out of bounds is clipped.

        Parameters
        ----------
        table : pyarrow.Table
            Private rows.
        unit : Unit
            What `Coded.ids` identifies: the account; or the record, by its id column or else by
            its content. A row whose id is missing is identified by its content.
        require_label : bool
            Leave out the rows without a known label. When false every row is kept, in order, and
            the columns of the label and the id may be absent.

        Returns
        -------
        Coded
            At most ``table.num_rows`` rows, in order.

        Raises
        ------
        ConfigurationError
            If the table lacks a column that the schema names.
        """
        needed = [*self.schema.features]
        key = self._id_column(unit)
        if require_label:
            needed += [self.schema.label.column, *([key] if key else [])]
        elif key not in table.column_names:
            key = None
        for name in needed:
            if name not in table.column_names:
                raise ConfigurationError(f"schema {self.schema.name}: no column {name} in the data")
        labels = read_labels(table, self.schema)
        if require_label:
            known = ~np.isnan(labels)
            table, labels = table.filter(pa.array(known)), labels[known]
        codes = np.zeros((table.num_rows, self.slots), dtype=np.int32)
        values = np.zeros((table.num_rows, self.n_values), dtype=np.float32)
        slot, number = 0, 0
        for name, feature in self.schema.features.items():
            column, start = table[name], self._ranges[name].start
            if isinstance(feature, Numeric):
                unit_value = scale(to_numbers(column, self.schema.missing), feature)
                values[:, number] = np.nan_to_num(unit_value, nan=0.0)
                number += 1
                if feature.bins:
                    codes[:, slot] = start + _bins(unit_value, feature.bins)
                    slot += 1
            elif isinstance(feature, Categorical):
                codes[:, slot] = start + _categories(column, feature, self.schema.missing)
                slot += 1
            else:
                stop = slot + feature.max_ngrams
                ngram_codes(
                    to_text(column, self.schema.missing).to_pylist(),
                    feature,
                    start,
                    codes[:, slot:stop],
                )
                slot = stop
        return Coded(codes=codes, values=values, labels=labels, ids=self._ids(table, key))

    def _id_column(self, unit: Unit) -> str | None:
        if unit is Unit.ACCOUNT:
            if self.schema.account is None:
                raise ConfigurationError(
                    f"schema {self.schema.name}: unit account needs the account column (account:)"
                )
            return self.schema.account
        return self.schema.id

    def _ids(self, table: Any, key: str | None) -> NDArray[np.bytes_]:
        # The prefixes keep an id that happens to spell a row's content apart from that row.
        if key is not None:
            text = to_text(table[key], self.schema.missing)
            keyed: list[str | None] = text.to_pylist()
            if text.null_count == 0:
                return _digests([f"id\x1f{value}" for value in keyed])
        names = [*self.schema.features, self.schema.label.column]
        columns = [to_text(table[name]) for name in names if name in table.column_names]
        content = pc.binary_join_element_wise(
            *columns,
            pa.scalar("\x1f", pa.large_string()),
            null_handling="replace",
            null_replacement="\x00",
        ).to_pylist()
        if key is None:
            return _digests([f"row\x1f{row}" for row in content])
        found = _digests(
            [
                f"row\x1f{row}" if value is None else f"id\x1f{value}"
                for value, row in zip(keyed, content, strict=True)
            ]
        )
        bare = np.array([value is None for value in keyed])
        found[bare] = [NO_ID + digest[1:] for digest in found[bare].tolist()]
        return found


def scale(numbers: NDArray[np.float64], feature: Numeric) -> NDArray[np.float64]:
    """Return numbers on a feature's public scale: [0, 1], NaN stays NaN."""
    clipped = np.clip(numbers, feature.low, feature.high)
    span = feature.high - feature.low
    if feature.scale == "log":
        offset = (clipped - feature.low) / feature.unit
        return np.asarray(np.log1p(offset) / np.log1p(span / feature.unit))
    if feature.scale == "signed_log":
        start, stop = _signed_log(np.array([feature.low, feature.high]) / feature.unit)
        return np.asarray((_signed_log(clipped / feature.unit) - start) / (stop - start))
    return np.asarray((clipped - feature.low) / span)


def unscale(units: ArrayLike, feature: Numeric) -> NDArray[np.float64]:
    """Return numbers in [0, 1] in a feature's own unit: the inverse of `scale`."""
    u = np.asarray(units, dtype=np.float64)
    span = feature.high - feature.low
    if feature.scale == "log":
        return np.asarray(feature.low + feature.unit * np.expm1(u * np.log1p(span / feature.unit)))
    if feature.scale == "signed_log":
        start, stop = _signed_log(np.array([feature.low, feature.high]) / feature.unit)
        bent = start + u * (stop - start)
        return np.asarray(feature.unit * np.sign(bent) * np.expm1(np.abs(bent)))
    return np.asarray(feature.low + u * span)


def _signed_log(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.sign(numbers) * np.log1p(np.abs(numbers)))


def _bins(units: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    missing = np.isnan(units)
    chosen = np.minimum(np.where(missing, 0.0, units) * bins, bins - 1).astype(np.int64)
    return np.where(missing, bins, chosen)


def _categories(column: Any, feature: Categorical, missing: tuple[str, ...]) -> NDArray[np.int64]:
    tokens = tuple(set(missing) - set(feature.values))
    text = to_text(column, tokens)
    if feature.buckets:
        names, index = distinct(text)
        table = np.array([bucket(name, feature.buckets) for name in names] + [feature.buckets])
        return np.asarray(table[index], dtype=np.int64)
    public = pa.array(public_texts(feature.values, column.type), pa.large_string())
    other = len(feature.values)
    found = pc.index_in(text, value_set=public).fill_null(other)
    chosen = np.array(found.to_numpy(zero_copy_only=False), dtype=np.int64)
    chosen[np.asarray(text.is_null().to_numpy(zero_copy_only=False))] = other + 1
    return chosen


def _digests(texts: list[str]) -> NDArray[np.bytes_]:
    # Hexadecimal, because numpy drops trailing zero bytes of raw digests.
    blake = hashlib.blake2b
    digests = [blake(text.encode(), digest_size=16).hexdigest() for text in texts]
    return np.array(digests, dtype="S32")
