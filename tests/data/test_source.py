from __future__ import annotations

import contextlib
import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dp_risk.data.schema import Schema
from dp_risk.data.source import builtin_path, iter_batches, read_table, schema_draft
from dp_risk.types import ConfigurationError


@pytest.fixture
def folder(tmp_path):
    text = 'a,b,"c d"\n1,x,"two\nlines"\n2,,z\nonly one\n3,NA,\n'
    (tmp_path / "t.csv").write_text("\ufeff" + text, encoding="utf-8")
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "t.tsv").write_text("a\tb\n1\t2\n")
    pq.write_table(pa.table({"a": [1, 2], "b": ["x", None]}), tmp_path / "t.parquet")
    return tmp_path


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_csv_is_text_and_skips_broken_lines(folder, name):
    data = read_table(folder / name)
    assert data.to_pydict() == {
        "a": ["1", "2", "3"],
        "b": ["x", "", "NA"],
        "c d": ["two\nlines", "z", ""],
    }


def test_columns_are_read_in_the_order_asked(folder):
    for name in ("t.csv", "t.tsv", "t.parquet"):
        assert read_table(folder / name, ["b", "a"]).column_names == ["b", "a"]
        assert [b.schema.names for b in iter_batches(folder / name, ["b"])] == [["b"]]


def test_invalid_utf8_is_replaced(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"a,b\nok,1\n\xff\xfe,2\n\xfftoo few\n")
    assert read_table(tmp_path / "t.csv")["a"].to_pylist() == ["ok", "\ufffd\ufffd"]


def test_header_alone_is_an_empty_table(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n")
    pq.write_table(pa.table({"a": pa.array([], pa.int64())}), tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.csv").num_rows == 0
    assert read_table(tmp_path / "t.csv").column_names == ["a", "b"]
    assert read_table(tmp_path / "t.parquet", ["a"]).num_rows == 0


@given(content=st.binary(max_size=200))
def test_any_bytes_read_or_refuse(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(b"a,b\n" + content)
    with contextlib.suppress(ConfigurationError):
        assert read_table(path).column_names == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("none.csv", None, "no such file"),
        ("t.xlsx", b"", "expected a .csv"),
        ("t.csv", b"", "no header"),
        ("t.csv", b"a,a\n1,2\n", "two columns"),
        ("t.csv.gz", b"not gzip", "cannot be read"),
        ("t.parquet", b"not parquet", "cannot be read"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path, name, content, part):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    for call in (read_table, schema_draft):
        with pytest.raises(ConfigurationError, match=part) as caught:
            call(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_missing_column_is_named(folder):
    for name in ("t.csv", "t.parquet"):
        with pytest.raises(ConfigurationError, match="no column q"):
            read_table(folder / name, ["a", "q"])


def test_a_missing_builtin_is_named():
    with pytest.raises(ConfigurationError, match="adult"):
        builtin_path("iris")


SECRET = "12345.678"


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_draft_holds_names_and_types_only(tmp_path, suffix):
    path = tmp_path / f"cards.{suffix}"
    if suffix == "csv":
        path.write_text(f"amount,name,on: off,flag\n{SECRET},Zoe,1,true\n")
    else:
        row = {"amount": [float(SECRET)], "name": ["Zoe"], "on: off": [1], "flag": [True]}
        pq.write_table(pa.table(row), path)
    draft = schema_draft(path)
    assert SECRET not in draft
    assert "Zoe" not in draft
    content = yaml.safe_load(draft)
    kinds = {name: feature["type"] for name, feature in content["features"].items()}
    assert kinds == {
        "amount": "numeric",
        "name": "categorical",
        "on: off": "numeric",
        "flag": "categorical",
    }
    out = tmp_path / "draft.yaml"
    out.write_text(draft)
    with pytest.raises(ConfigurationError, match="label"):
        Schema.from_yaml(out)
    out.write_text(
        draft.replace("column: null", "column: flag")
        .replace("positive: null", "positive: [true]")
        .replace("low: null", "low: 0")
        .replace("high: null", "high: 9")
    )
    with pytest.raises(ConfigurationError, match="column name: fill in values"):
        Schema.from_yaml(out)
    out.write_text(out.read_text().replace("values: null", "values: [Ann, Bo]"))
    assert list(Schema.from_yaml(out).features) == ["amount", "name", "on: off"]
