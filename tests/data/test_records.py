from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dp_risk.data.records import MAX_LINE_BYTES, read_records
from dp_risk.data.source import read_table
from dp_risk.types import ConfigurationError
from tests.federation import rows

GOOD = ['1,a,"x, y"', '2,b,"say ""no"""', "3,c,", '"4",d,e']
READ = [("1", "a", "x, y"), ("2", "b", 'say "no"'), ("3", "c", ""), ("4", "d", "e")]


def read(path: Path, lines: list[bytes]) -> list[tuple[str, ...]]:
    path.write_bytes(b"p,q,r\r\n" + b"\n".join(lines) + b"\n")
    return [tuple(row.values()) for row in read_records(path).to_pylist()]


@pytest.mark.parametrize(
    "bad",
    [
        b'5,"unclosed,x', b'"', b"5,b", b"5,b,c,d", b"\xff\xfe,\x80", b"\x00", b'"a"b,c"d",e"',
        b"9" * (MAX_LINE_BYTES + 10), b'5,b,"' + b"y" * 3 * MAX_LINE_BYTES, b"", b"\r",
    ],
    ids=lambda value: repr(value[:12]),
)  # fmt: skip
@pytest.mark.parametrize("at", range(5))
def test_a_bad_line_takes_no_other_record_along(tmp_path: Path, bad: bytes, at: int) -> None:
    lines = [line.encode() for line in GOOD]
    assert read(tmp_path / "a.csv", lines) == READ
    found = read(tmp_path / "a.csv", [*lines[:at], bad, *lines[at:]])
    assert [row for row in found if row[0] in "1234"] == READ
    assert len(found) <= 5


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60).filter(lambda line: b"\n" not in line), st.integers(0, 4))
def test_whatever_a_line_holds(tmp_path_factory: pytest.TempPathFactory, bad: bytes, at: int):
    lines = [line.encode() for line in GOOD]
    path = tmp_path_factory.mktemp("lines") / "a.csv"
    found = read(path, [*lines[:at], bad, *lines[at:]])
    without = found.copy()
    if len(found) > 4:
        del without[at]
    assert without == READ


def test_gzip_and_tsv_and_a_mark_at_the_start(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.tsv.gz", "wb") as file:
        file.write("\ufeffp\tq\n1\tü\n".encode())
    assert read_records(tmp_path / "a.tsv.gz").to_pylist() == [{"p": "1", "q": "ü"}]
    whole = (tmp_path / "a.tsv.gz").read_bytes()
    (tmp_path / "a.tsv.gz").write_bytes(whole[:-9])
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_records(tmp_path / "a.tsv.gz")


def test_parquet_and_nothing_at_all(tmp_path: Path) -> None:
    pq.write_table(rows(5), tmp_path / "a.parquet")
    assert read_records(tmp_path / "a.parquet").equals(read_table(tmp_path / "a.parquet"))
    (tmp_path / "a.csv").write_text("p,q\n")
    assert read_records(tmp_path / "a.csv").to_pydict() == {"p": [], "q": []}


@pytest.mark.parametrize("content", [b"p,q\r1,2\r3,4\r", b'"p\n",q\n1,2\n'])
def test_a_file_whose_lines_have_no_end_is_no_empty_site(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(ConfigurationError, match="line feed"):
        read_records(tmp_path / "a.csv")


def test_many_lines(tmp_path: Path) -> None:
    count = 70_000
    (tmp_path / "a.csv").write_text("p\n" + "\n".join(map(str, range(count))))
    assert read_records(tmp_path / "a.csv")["p"].to_pylist() == [str(i) for i in range(count)]
