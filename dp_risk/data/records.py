"""A site's own records: read one by one, so that no record changes how another one is read."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from dp_risk.data.files import DELIMITERS, column_names, existing, suffix_of, unreadable
from dp_risk.data.source import BATCH_ROWS, read_table
from dp_risk.types import ConfigurationError

# A longer line is left out; public, and far above any record.
MAX_LINE_BYTES = 1 << 20


def read_records(path: str | Path) -> pa.Table:
    """Read a file in which every line of a CSV is one record.

    A quote that is never closed, or a line without end, spoils that line and no other one; a line
    break inside quotes ends the record. Parquet is read as `dp_risk.data.source.read_table` does.

    Parameters
    ----------
    path : str or Path
        A ``.csv``, ``.csv.gz``, ``.tsv``, ``.tsv.gz`` or ``.parquet`` file with a header.

    Returns
    -------
    pyarrow.Table
        CSV columns are text. Lines with the wrong number of fields, or above a mebibyte, are left
        out; no log says so, because it would tell of a row.

    Raises
    ------
    ConfigurationError
        If the file is missing or damaged as a whole.
    """
    file = existing(path)
    suffix = suffix_of(file)
    if suffix not in DELIMITERS:
        return read_table(file)
    names = column_names(file)
    if any("\r" in name or "\n" in name for name in names) or _one_line(file):
        raise ConfigurationError(f"{file}: its lines do not end in a line feed")
    batches: list[pa.Table] = [_batch([], names)]
    rows: list[list[str]] = []
    try:
        for line in _lines(file):
            fields = _fields(line, DELIMITERS[suffix])
            if len(fields) != len(names):
                continue
            rows.append(fields)
            if len(rows) == BATCH_ROWS:
                batches.append(_batch(rows, names))
                rows = []
    except (OSError, EOFError, zlib.error):
        raise unreadable(file) from None
    return pa.concat_tables([*batches, _batch(rows, names)])


def _lines(file: Path) -> Iterator[bytes]:
    """Yield the lines after the header; one that is too long is empty."""
    opener: Any = gzip.open if suffix_of(file).endswith(".gz") else open
    with opener(file, "rb") as stream:
        stream.readline()
        while line := stream.readline(MAX_LINE_BYTES + 1):
            if len(line) > MAX_LINE_BYTES:
                while line and not line.endswith(b"\n"):
                    line = stream.readline(MAX_LINE_BYTES)
                line = b"too long"
            yield line


def _one_line(file: Path) -> bool:
    """Whether the header goes on after a carriage return: line ends of another age."""
    opener: Any = gzip.open if suffix_of(file).endswith(".gz") else open
    try:
        with opener(file, "rb") as stream:
            return b"\r" in stream.readline(MAX_LINE_BYTES).rstrip(b"\r\n")
    except (OSError, EOFError, zlib.error):
        raise unreadable(file) from None


def _fields(line: bytes, delimiter: str) -> list[str]:
    text = line.decode("utf-8", "replace").rstrip("\r\n")
    try:
        return next(csv.reader([text], delimiter=delimiter), [])
    except csv.Error:
        return []


def _batch(rows: list[list[str]], names: list[str]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else ([] for _ in names)
    return pa.table(
        {n: pa.array(list(c), pa.large_string()) for n, c in zip(names, columns, strict=True)}
    )
