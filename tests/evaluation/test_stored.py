from __future__ import annotations

import ast
import itertools
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_risk.cli.compose import settings
from dp_risk.data.coding import Coding
from dp_risk.data.source import read_table
from dp_risk.data.split import holdout_mask, public_key
from dp_risk.evaluation.stored import dp_ebm, dp_ebm_rows, split_digest

ROOT = Path(__file__).resolve().parents[2]
DATA = ("spambase", "adult")
EPSILONS = (0.5, 1.0, 2.0, 4.0, 8.0)
SEEDS = (0, 1, 2)


def split(name: str, seed: int, fraction: float | None = None) -> tuple[int, int, str]:
    data = settings([f"data={name}"]).data
    ids = Coding(schema=data.load_schema()).encode(read_table(data.file)).ids
    held = holdout_mask(ids, public_key(seed), data.holdout if fraction is None else fraction)
    return int((~held).sum()), int(held.sum()), split_digest(ids[~held], ids[held])


def test_there_is_one_row_a_setting_and_every_metric_is_one() -> None:
    stored = dp_ebm()
    assert stored["schema_version"] == 1
    assert "benchmarks/dp_ebm.py" in stored["command"]
    assert {"python", "interpret-core"} <= set(stored["versions"])
    keys = [(r["dataset"], r["epsilon"], r["seed"]) for r in stored["rows"]]
    assert sorted(keys) == sorted(itertools.product(DATA, EPSILONS, SEEDS))
    for row in stored["rows"]:
        assert 0.5 < row["auroc"] < 1
        assert 0 < row["auprc"] < 1


@pytest.mark.parametrize("name", DATA)
def test_the_delta_is_that_of_the_data(name: str) -> None:
    delta = settings([f"data={name}"]).data.delta
    assert {r["delta"] for r in dp_ebm()["rows"] if r["dataset"] == name} == {delta}


@pytest.mark.parametrize("name", DATA)
def test_the_splits_are_those_of_the_data_today(name: str) -> None:
    stored = [s for s in dp_ebm()["splits"] if s["dataset"] == name]
    assert sorted(s["seed"] for s in stored) == list(SEEDS)
    for one in stored:
        assert (one["train"], one["holdout"], one["digest"]) == split(name, one["seed"])


def test_rows_are_found_for_the_same_split_delta_and_seed_only() -> None:
    _, _, same = split("spambase", 1)
    rows = dp_ebm_rows(same, delta=1e-5, seed=1)
    assert [row["epsilon"] for row in rows] == list(EPSILONS)
    assert {row["dataset"] for row in rows} == {"spambase"}
    assert dp_ebm_rows(same, delta=1e-6, seed=1) == []
    assert dp_ebm_rows(same, delta=1e-5, seed=0) == []
    assert dp_ebm_rows(split("spambase", 3)[2], delta=1e-5, seed=3) == []
    assert dp_ebm_rows(split("spambase", 1, 0.25)[2], delta=1e-5, seed=1) == []


units = st.lists(st.text("0123456789abcdef", min_size=32, max_size=32), max_size=8, unique=True)


def ids(names: list[str]) -> np.ndarray:
    return np.array([name.encode() for name in names], dtype="S32")


@given(units, units, st.randoms())
def test_a_digest_knows_the_sides_and_not_the_order(
    train: list[str], holdout: list[str], random: Random
) -> None:
    digest = split_digest(ids(train), ids(holdout))
    assert split_digest(*(ids(random.sample(x, len(x))) for x in (train, holdout))) == digest
    if set(train) != set(holdout):
        assert split_digest(ids(holdout), ids(train)) != digest
    if holdout:
        assert split_digest(ids([*train, holdout[0]]), ids(holdout[1:])) != digest


def test_no_room_imports_the_program_that_made_them() -> None:
    sources = [p for room in ("dp_risk", "server", "clients") for p in (ROOT / room).rglob("*.py")]
    assert sources
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not any(name.split(".")[0] == "interpret" for name in names), path
