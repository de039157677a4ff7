"""Which files can be read, and what their columns are called."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet

from dp_risk.types import ConfigurationError

BUILTIN = ("spambase", "adult")
DELIMITERS = {".csv": ",", ".csv.gz": ",", ".tsv": "\t", ".tsv.gz": "\t"}
READ_BYTES = 1 << 20


class _Utf8Stream(io.BufferedIOBase):
    """The bytes of a stream as valid UTF-8 without a byte order mark.

    One byte that is not UTF-8 becomes the replacement character and does not stop the whole file.
    """

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._ready = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        whole = size is None or size < 0
        while whole or len(self._ready) < (size or 0):
            block = self._raw.read(READ_BYTES)
            self._ready += self._decoder.decode(block, final=not block).encode()
            if not block:
                break
        end = len(self._ready) if whole else size
        out, self._ready = self._ready[:end], self._ready[end:]
        return out

    def read1(self, size: int = -1, /) -> bytes:
        return self.read(READ_BYTES if size < 0 else size)

    def close(self) -> None:
        self._raw.close()
        super().close()


def open_text(file: Path) -> Any:
    """Open a CSV file, compressed or not, as bytes that are valid UTF-8."""
    opener: Any = gzip.open if suffix_of(file).endswith(".gz") else open
    return _Utf8Stream(opener(file, "rb"))


def builtin_path(name: str) -> Path:
    """Return the Parquet file of a built-in data set; its schema lies beside it (``.yaml``).

    Raises
    ------
    ConfigurationError
        If there is no such data set.
    """
    if name not in BUILTIN:
        raise ConfigurationError(f"no built-in data {name}: choose one of {', '.join(BUILTIN)}")
    return Path(__file__).parent / "builtin" / f"{name}.parquet"


def column_names(path: str | Path) -> list[str]:
    """Return the names of a file's columns, without reading a row.

    Raises
    ------
    ConfigurationError
        If the file cannot be read, or two columns share a name.
    """
    file = existing(path)
    suffix = suffix_of(file)
    try:
        if suffix == ".parquet":
            names = list(pyarrow.parquet.read_schema(file).names)
        else:
            with io.TextIOWrapper(open_text(file), encoding="utf-8", newline="") as text:
                names = next(csv.reader(text, delimiter=DELIMITERS[suffix]), [])
    except (OSError, EOFError, zlib.error, csv.Error, pa.ArrowException):
        raise unreadable(file) from None
    if not names:
        raise ConfigurationError(f"{file}: no header line")
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise ConfigurationError(f"{file}: two columns are called {repeated[0]}")
    return names


def suffix_of(file: Path) -> str:
    """Return the suffix that says how to read a file."""
    name = file.name.lower()
    for suffix in (*DELIMITERS, ".parquet"):
        if name.endswith(suffix):
            return suffix
    raise ConfigurationError(f"{file}: expected a .csv, .csv.gz, .tsv or .parquet file")


def existing(path: str | Path) -> Path:
    """Return the path of a readable kind of file that exists."""
    file = Path(path)
    suffix_of(file)
    if not file.is_file():
        raise ConfigurationError(f"{file}: no such file")
    return file


def unreadable(file: Path) -> ConfigurationError:
    """Return the error for a file that cannot be parsed; it quotes no row."""
    kind = "Parquet" if file.suffix.lower() == ".parquet" else "CSV"
    hint = "" if kind == "Parquet" else " (an unclosed quote, or a row beyond 16 MB?)"
    return ConfigurationError(f"{file}: cannot be read as {kind}{hint}")
