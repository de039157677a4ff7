"""Tables from files: CSV or Parquet, streamed, every CSV column as text."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from dp_risk.data.draft import schema_draft
from dp_risk.data.files import (
    DELIMITERS,
    builtin_path,
    column_names,
    existing,
    open_text,
    suffix_of,
    unreadable,
)
from dp_risk.types import ConfigurationError

__all__ = ["builtin_path", "column_names", "iter_batches", "read_table", "schema_draft"]

BLOCK_BYTES = 16 << 20
BATCH_ROWS = 1 << 16
_log = logging.getLogger(__name__)


def iter_batches(
    path: str | Path, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Stream a file.

    Parameters
    ----------
    path : str or Path
        A ``.csv``, ``.csv.gz``, ``.tsv``, ``.tsv.gz`` or ``.parquet`` file with a header.
    columns : sequence of str, optional
        Columns to read, in this order; all by default.

    Yields
    ------
    pyarrow.RecordBatch
        Rows in file order. CSV columns are text; a line with the wrong number of fields is left
        out and counted in the log.

    Raises
    ------
    ConfigurationError
        If the file or one of `columns` is missing, or the file as a whole cannot be parsed.
    """
    file = existing(path)
    names = column_names(file)
    wanted = list(names if columns is None else dict.fromkeys(columns))
    for name in wanted:
        if name not in names:
            raise ConfigurationError(f"{file}: no column {name}")
    try:
        if suffix_of(file) == ".parquet":
            with pyarrow.parquet.ParquetFile(file) as parquet:
                for batch in parquet.iter_batches(batch_size=BATCH_ROWS, columns=wanted):
                    # Parquet keeps its own column order.
                    yield batch.select(wanted)
        else:
            yield from _csv_batches(file, names, wanted)
    except (OSError, EOFError, zlib.error, pa.ArrowException):
        # The parser's own message quotes the row it stopped at.
        raise unreadable(file) from None


def read_table(path: str | Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a file whole: the batches of `iter_batches` as one table, which raises as it does."""
    batches = list(iter_batches(path, columns))
    if batches:
        return pa.Table.from_batches(batches)
    file = Path(path)
    names = list(column_names(file) if columns is None else dict.fromkeys(columns))
    if suffix_of(file) == ".parquet":
        schema = pyarrow.parquet.read_schema(file).remove_metadata()
        return schema.empty_table().select(names)
    return pa.table({name: pa.array([], pa.large_string()) for name in names})


def _csv_batches(file: Path, names: list[str], wanted: list[str]) -> Iterator[pa.RecordBatch]:
    skipped = 0

    def skip(_row: Any) -> str:
        nonlocal skipped
        skipped += 1
        return "skip"

    with (
        open_text(file) as text,
        pyarrow.csv.open_csv(
            text,
            read_options=pyarrow.csv.ReadOptions(block_size=BLOCK_BYTES),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=DELIMITERS[suffix_of(file)],
                newlines_in_values=True,
                invalid_row_handler=skip,
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.large_string()),
                include_columns=wanted,
            ),
        ) as reader,
    ):
        yield from reader
    if skipped:
        _log.warning("%s: lines with the wrong number of fields left out: %d", file, skipped)
