"""A first draft of a schema: names and types only, bounds and values for a person to fill in."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import yaml

from dp_risk.data.files import DELIMITERS, column_names, open_text, suffix_of, unreadable

_HEAD = """\
# Draft: names and types only. Replace each null by what is publicly known about the column
# (documentation, units, law), never by what you see in private rows. Then fill in the label.
# Delete what should not be learned from, or name it under ignore.
"""
_ROLES = """\
# id: null        # column with a stable record id (else a record is known by its content)
# account: null   # column with the account id, for privacy.unit=account
# time: null      # column with the time
# silo: null      # column with the natural silo (region, partner)
missing: ["", NA, NaN, "null", "?"]
ignore: []
"""


def schema_draft(path: str | Path) -> str:
    """Draft a schema for a file.

    Parameters
    ----------
    path : str or Path
        A Parquet file, of which only the metadata is read, or a CSV file, of which the header and
        the types of the first block are.

    Returns
    -------
    str
        YAML with comments. `Schema.from_yaml` refuses it until bounds, values and label are filled.

    Raises
    ------
    ConfigurationError
        If the file cannot be read.
    """
    file = Path(path)
    names = column_names(file)
    stem = file.name.split(".")[0]
    lines = [f"name: {_scalar(stem)}\n", "label:\n"]
    lines += ["  column: null     # the column to predict\n"]
    lines += ["  positive: null   # list of the values that mean 1\n"]
    lines += ["  negative: []     # list of the values that mean 0; empty: all others\n"]
    lines += [_ROLES, "features:\n"]
    exact = suffix_of(file) == ".parquet"
    types = _types(file, names)
    lines += [_draft(name, kind, exact) for name, kind in zip(names, types, strict=True)]
    return _HEAD + "".join(lines)


def _draft(name: str, kind: Any, exact: bool) -> str:
    key = _scalar(name)
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return f"  {key}:   # {kind}\n    type: numeric\n    low: null\n    high: null\n"
    if pa.types.is_boolean(kind):
        # Parquet's own booleans read as true and false; a CSV file may spell them in many ways.
        values = "[true, false]" if exact else "[true, false, True, False, TRUE, FALSE]"
        return f"  {key}:   # {kind}\n    type: categorical\n    values: {values}\n"
    return (
        f"  {key}:   # {kind}\n    type: categorical   # or: text\n"
        "    values: null   # the public list, as [a, b]\n    # buckets: 64   # instead of values\n"
    )


def _types(file: Path, names: list[str]) -> list[Any]:
    if suffix_of(file) == ".parquet":
        return list(pyarrow.parquet.read_schema(file).types)
    try:
        with (
            open_text(file) as text,
            pyarrow.csv.open_csv(
                text,
                read_options=pyarrow.csv.ReadOptions(block_size=1 << 20),
                parse_options=pyarrow.csv.ParseOptions(
                    delimiter=DELIMITERS[suffix_of(file)],
                    newlines_in_values=True,
                    invalid_row_handler=lambda _row: "skip",
                ),
            ) as reader,
        ):
            types = list(reader.schema.types)
    except (OSError, EOFError, zlib.error, pa.ArrowException):
        raise unreadable(file) from None
    return types if len(types) == len(names) else [pa.string()] * len(names)


def _scalar(text: str) -> str:
    written: str = yaml.safe_dump(text, allow_unicode=True, width=10**6)
    return written.removesuffix("\n").removesuffix("\n...")
