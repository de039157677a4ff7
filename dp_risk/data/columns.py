"""Arrow columns as text and numbers, one row at a time in meaning, all at once in speed.

What a row becomes never depends on another row: a column that parses differently because one
value in it is malformed would let that value change every other row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


def to_text(column: Any, missing: Sequence[str] = ()) -> Any:
    """Return a column as trimmed text.

    Parameters
    ----------
    column : pyarrow.ChunkedArray or pyarrow.Array
        Any type. Dates and times become their integer representation; invalid UTF-8 is replaced.
    missing : sequence of str
        Texts that become null.

    Returns
    -------
    pyarrow.LargeStringArray
        One value a row.
    """
    text = pc.utf8_trim_whitespace(_raw_text(_single(column)))
    if missing:
        tokens = pa.array([token.strip() for token in missing], pa.large_string())
        text = pc.if_else(pc.is_in(text, value_set=tokens), pa.scalar(None, text.type), text)
    return text


def public_texts(values: Sequence[str], kind: Any) -> list[str]:
    """Return public values written the way `to_text` writes a column of type `kind`."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_boolean(kind):
        return [value.lower() for value in values]
    if pa.types.is_floating(kind):
        return [_float_text(value) for value in values]
    return list(values)


def to_numbers(column: Any, missing: Sequence[str] = ()) -> NDArray[np.float64]:
    """Return a column as numbers, NaN where there is none.

    Parameters
    ----------
    column : pyarrow.ChunkedArray or pyarrow.Array
        Any type; text is parsed value by value.
    missing : sequence of str
        Texts, or the numbers they spell, that mean "no value".

    Returns
    -------
    ndarray of float64, shape (n,)
        Finite numbers or NaN.
    """
    array = _single(column)
    kind = array.type
    if (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_boolean(kind)
    ):
        numbers = np.array(
            pc.cast(array, pa.float64(), safe=False).to_numpy(zero_copy_only=False),
            dtype=np.float64,
        )
    else:
        encoded = to_text(array, missing).dictionary_encode()
        table = np.array([_parse(text) for text in encoded.dictionary.to_pylist()] + [np.nan])
        numbers = table[_indices(encoded, absent=len(table) - 1)]
    numbers[~np.isfinite(numbers)] = np.nan
    sentinels = [number for number in map(_parse, missing) if np.isfinite(number)]
    if sentinels:
        numbers[np.isin(numbers, sentinels)] = np.nan
    return numbers


def distinct(text: Any) -> tuple[list[str], NDArray[np.int64]]:
    """Return the distinct values of a text array and, a row, the index of its value (null: -1)."""
    encoded = text.dictionary_encode()
    return encoded.dictionary.to_pylist(), _indices(encoded, absent=-1)


def _indices(encoded: Any, absent: int) -> NDArray[np.int64]:
    filled = encoded.indices.fill_null(pa.scalar(absent, encoded.indices.type))
    return np.asarray(filled.to_numpy(zero_copy_only=False), dtype=np.int64)


def _single(column: Any) -> Any:
    if isinstance(column, pa.ChunkedArray):
        kind = column.type
        if pa.types.is_dictionary(kind):
            column = column.cast(kind.value_type)
        # 32-bit offsets overflow when chunks of text beyond 2 GB are joined.
        if pa.types.is_string(kind):
            column = column.cast(pa.large_string())
        elif pa.types.is_binary(kind):
            column = column.cast(pa.large_binary())
        column = column.combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column


def _raw_text(array: Any) -> Any:
    kind = array.type
    if pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        array = array.cast(pa.int32() if kind.bit_width == 32 else pa.int64())
        return array.cast(pa.large_string())
    if pa.types.is_floating(kind):
        return array.cast(pa.float64()).cast(pa.large_string())
    if (
        pa.types.is_integer(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_null(kind)
    ):
        return array.cast(pa.large_string())
    if (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_binary_view(kind)
    ):
        return decode(array.cast(pa.large_binary()))
    return pa.array(
        [None if value is None else str(value) for value in array.to_pylist()], pa.large_string()
    )


def decode(array: Any) -> Any:
    """Return binary values as text; bytes that are not UTF-8 become the replacement character."""
    try:
        return array.cast(pa.large_string())
    except pa.ArrowInvalid:
        values = (
            None if value is None else value.decode("utf-8", "replace")
            for value in array.to_pylist()
        )
        return pa.array(list(values), pa.large_string())


def _parse(text: str) -> float:
    if "_" in text:
        return float("nan")
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _float_text(value: str) -> str:
    number = _parse(value)
    if not np.isfinite(number):
        return value
    text: str = pa.array([number]).cast(pa.string())[0].as_py()
    return text
