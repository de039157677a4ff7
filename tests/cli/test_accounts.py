"""Whole runs whose unit is an account of many records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from clients.site import Site

from .conftest import Run

SCHEMA: dict[str, Any] = {
    "name": "cards",
    "label": {"column": "fraud", "positive": ["1"], "negative": ["0"]},
    "account": "card",
    "features": {
        "amount": {"type": "numeric", "low": 0, "high": 1000, "scale": "log", "bins": 4},
        "place": {"type": "categorical", "values": ["a", "b"]},
    },
}


@pytest.fixture
def cards(tmp_path: Path) -> list[str]:
    """120 cards with 1 to 2,000 payments, dealt out to two sites."""
    rng = np.random.default_rng(4)
    sizes = np.append(np.minimum(rng.zipf(1.6, 119), 200), 2000)
    card = np.repeat(np.arange(120), sizes)
    fraud = rng.random(len(card)) < np.where(card % 5 == 0, 0.7, 0.1)
    table = pa.table(
        {
            "card": pa.array([f"c{i}" for i in card]),
            "amount": rng.exponential(np.where(fraud, 300.0, 60.0)),
            "place": pa.array(np.where(rng.random(len(card)) < 0.3 + 0.4 * fraud, "a", "b")),
            "fraud": pa.array(fraud.astype(np.int64)),
        }
    )
    pq.write_table(table.take(rng.permutation(len(card))), tmp_path / "cards.parquet")
    (tmp_path / "cards.schema.yaml").write_text(yaml.safe_dump(SCHEMA, sort_keys=False))
    return [
        "data=file", f"data.path={tmp_path / 'cards.parquet'}",
        f"data.schema={tmp_path / 'cards.schema.yaml'}", "data.delta=1e-3",
        "privacy.unit=account", "partition=iid", "federation.sites=2", "federation.rounds=3",
        "privacy.epsilon=4",
    ]  # fmt: skip


@pytest.mark.parametrize("model", ["additive", "mlp"])
def test_accounts_are_counted_trained_on_and_evaluated(
    run: Run, tmp_path: Path, cards: list[str], model: str
) -> None:
    said = run("train", *cards, f"model={model}", "run.dir=out")
    assert said.code == 0, said.err
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["unit"] == "account"
    assert record["max_records_per_account"] == 32
    assert set(record["epsilon_by_split"]) == {"train", "holdout"}
    # Released numbers are of accounts (120) and not of rows (thousands), to their noise.
    assert sum(site["units"] for site in record["sites"]) < 400
    folders = sorted((tmp_path / "runs" / "sites" / "cards").glob("site-*"))
    shards = [Site.open(folder).shard for folder in folders]
    held = [set(shard.train.ids.tolist()) for shard in shards]
    assert not held[0] & held[1]
    for shard, ids in zip(shards, held, strict=True):
        assert not ids & set(shard.holdout_units.ids.tolist())
    page = (tmp_path / "out" / "report.html").read_text()
    assert "all records of one account" in page
    assert "Every account weighs one" in page


def test_natural_silos_keep_an_account_together(run: Run, tmp_path: Path, cards: list[str]) -> None:
    said = run("train", *cards, "partition=column", "partition.column=place", "run.dir=out")
    assert said.code == 0, said.err
    folders = sorted((tmp_path / "runs" / "sites" / "cards").glob("site-*"))
    one, two = (
        set(shard.train.ids.tolist()) | set(shard.holdout_units.ids.tolist())
        for shard in (Site.open(folder).shard for folder in folders)
    )
    assert one
    assert two
    assert not one & two


def test_the_unit_of_a_ledger_never_changes(run: Run, cards: list[str]) -> None:
    assert run("train", *cards).code == 0
    said = run("train", *cards, "privacy.unit=record")
    assert said.code == 3
    assert "were dealt out with" in said.line


def test_an_account_at_two_sites_pays_twice(run: Run, tmp_path: Path, cards: list[str]) -> None:
    noise = []
    for sites in (1, 2):
        more = [f"privacy.max_sites_per_unit={sites}", f"data.name=cards-{sites}"]
        assert run("train", *cards, *more, f"run.dir=out-{sites}").code == 0
        record = json.loads((tmp_path / f"out-{sites}" / "run.json").read_text())
        assert record["epsilon_spent"] == pytest.approx(4.0, rel=1e-3)
        noise.append(record["sigma"])
    assert noise[1] == pytest.approx(noise[0] * 2**0.5, rel=1e-3)


def test_accounts_need_their_column(run: Run, tmp_path: Path, cards: list[str]) -> None:
    bare = {key: value for key, value in SCHEMA.items() if key != "account"}
    (tmp_path / "cards.schema.yaml").write_text(yaml.safe_dump(bare))
    said = run("train", *cards)
    assert said.code == 2
    assert "account" in said.line
