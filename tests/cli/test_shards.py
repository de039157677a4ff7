from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dp_risk.data.schema import Schema
from dp_risk.data.source import builtin_path, read_table

from .conftest import Run, Said


def deal(run: Run, file: Path, *more: str | Path) -> Said:
    schema = file.with_suffix(".schema.yaml")
    return run("data", "partition", file, "--schema", schema, "--out", "shards", *more)


def rows(table: pa.Table) -> list[tuple[object, ...]]:
    return sorted(zip(*(table[name].to_pylist() for name in table.column_names), strict=True))


@pytest.mark.parametrize(
    "how", [[], ["--seed", "5"], ["--by", "dirichlet"], ["--by", "dirichlet", "--alpha", "0.1"]]
)
def test_every_row_goes_to_one_site(
    run: Run, tmp_path: Path, tiny_file: Path, how: list[str]
) -> None:
    said = deal(run, tiny_file, "--sites", "3", *how)
    assert said.code == 0, said.err
    found = sorted((tmp_path / "shards").iterdir())
    assert [path.name for path in found] == [f"site-0{number}.parquet" for number in range(3)]
    assert rows(pa.concat_tables(map(read_table, found))) == rows(read_table(tiny_file))
    assert all(read_table(path).num_rows >= 20 for path in found)


def test_the_same_seed_deals_the_same(run: Run, tmp_path: Path, tiny_file: Path) -> None:
    dealt = []
    for number, seed in enumerate(("1", "1", "2")):
        deal(run, tiny_file, "--sites", "2", "--seed", seed)
        (tmp_path / "shards").rename(tmp_path / f"shards-{number}")
        dealt.append(read_table(tmp_path / f"shards-{number}" / "site-00.parquet"))
    assert dealt[0].equals(dealt[1])
    assert not dealt[0].equals(dealt[2])


def test_built_in_data_comes_with_its_schema(run: Run, tmp_path: Path) -> None:
    said = run("data", "partition", "spambase", "--sites", "2", "--out", "deep/shards")
    assert said.code == 0, said.err
    out = tmp_path / "deep" / "shards"
    original = builtin_path("spambase").with_suffix(".yaml")
    assert Schema.from_yaml(out / "schema.yaml").digest == Schema.from_yaml(original).digest
    site = run("site", "init", "a", "--data", out / "site-00.parquet", "--schema",
               out / "schema.yaml", "--delta", "1e-5", "--dataset", "spambase")  # fmt: skip
    assert site.code == 0, site.err


def test_nothing_is_said_about_the_rows(run: Run, tiny_file: Path) -> None:
    said = deal(run, tiny_file, "--sites", "3", "--by", "dirichlet")
    assert said.out == "written: shards: site-00.parquet to site-02.parquet\n"
    assert said.err == ""


def test_values_and_spans_stay_together(run: Run, tmp_path: Path) -> None:
    table = pa.table(
        {
            "x": [float(number) for number in range(60)],
            "y": ["1", "0"] * 30,
            "city": ["a", "b", "c"] * 20,
            "who": [f"u{number // 2}" for number in range(60)],
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    (tmp_path / "t.schema.yaml").write_text(
        "name: t\nlabel: {column: y, positive: ['1']}\nsilo: city\naccount: who\n"
        "features:\n  x: {type: numeric, low: 0, high: 60}\n"
    )
    for how, column in (
        (["--by", "column"], "city"),
        (["--by", "column", "--column", "y"], "y"),
        (["--by", "time", "--column", "x"], "who"),
        (["--by", "iid"], "who"),
    ):
        said = deal(run, tmp_path / "t.parquet", "--sites", "2", *how)
        assert said.code == 0, said.err
        first, second = (
            set(read_table(tmp_path / "shards" / f"site-0{n}.parquet")[column].to_pylist())
            for n in (0, 1)
        )
        assert first
        assert second
        assert not first & second
        (tmp_path / "shards").rename(tmp_path / f"kept-{'-'.join(how)}")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--sites", "0"], "--sites"),
        (["--sites", "1001"], "--sites"),
        (["--sites", "400"], "400 sites need"),
        (["--sites", "2", "--seed", "-1"], "--seed"),
        (["--sites", "2", "--by", "dirichlet", "--alpha", "0"], "alpha"),
        (["--sites", "2", "--by", "dirichlet", "--alpha", "nan"], "alpha"),
        (["--sites", "2", "--by", "column"], "silo"),
        (["--sites", "2", "--by", "time", "--column", "nowhere"], "nowhere"),
        (["--sites", "2", "--schema", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    run: Run, tmp_path: Path, tiny_file: Path, more: list[str], words: str
) -> None:
    said = deal(run, tiny_file, *more)
    assert said.code == 2
    assert words in said.line
    assert not [p for p in tmp_path.iterdir() if re.search("shards", p.name)]


def test_sources_and_folders_that_are_wrong_are_named(
    run: Run, tmp_path: Path, tiny_file: Path
) -> None:
    for command, words in (
        (["nowhere.csv", "--schema", tiny_file.with_suffix(".schema.yaml")], "nowhere.csv"),
        (["nowhere", "--schema", tiny_file.with_suffix(".schema.yaml")], "nowhere"),
        ([tiny_file], "--schema: needed"),
        (["spambase", "--schema", tiny_file.with_suffix(".schema.yaml")], "has its own"),
    ):
        said = run("data", "partition", *command, "--sites", "2", "--out", "shards")
        assert said.code == 2
        assert words in said.line
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "mine.txt").write_text("kept")
    said = deal(run, tiny_file, "--sites", "2")
    assert said.code == 2
    assert "shards: exists already" in said.line
    assert [p.name for p in (tmp_path / "shards").iterdir()] == ["mine.txt"]


def test_a_full_disk_leaves_no_shard(
    run: Run, tmp_path: Path, tiny_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, done = pq.write_table, []

    def full(table: pa.Table, path: Path) -> None:
        if done:
            raise OSError(28, "No space left on device")
        done.append(path)
        write(table, path)

    monkeypatch.setattr(pq, "write_table", full)
    said = deal(run, tiny_file, "--sites", "3")
    assert said.code == 1
    assert "No space left" in said.line
    assert done
    assert not [p for p in tmp_path.iterdir() if re.search("shards", p.name)]
