"""The baselines of a frontier, in the process that makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dp_risk.cli import frontier
from dp_risk.cli.compose import settings
from dp_risk.evaluation.stored import dp_ebm


def _pooled(*_: object) -> tuple[dict[str, Any], None]:
    return {"utility": {"auroc": {"value": 0.5}, "auprc": {"value": 0.5}}}, None


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the baselines that are fitted: they have tests of their own."""
    monkeypatch.setattr(frontier, "_train", _pooled)
    for name in ("logistic", "gradient_boosting"):
        monkeypatch.setattr(frontier.baselines, name, lambda _train, rows, *_: rows.labels)
    monkeypatch.setattr(frontier.baselines, "site_alone", lambda _train, rows, *_: [rows.labels])


def lines(scratch: Path, *overrides: str, seed: int = 1) -> list[dict[str, Any]]:
    chosen = settings(["data=spambase", "federation.sites=3", *overrides])
    return frontier._baselines(chosen, seed, scratch)


def stored(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in found if line["name"] == "dp_ebm"]


@pytest.mark.parametrize("partition", ["iid", "dirichlet"])
def test_stored_numbers_join_the_baselines_of_their_own_split(
    tmp_path: Path, partition: str
) -> None:
    found = lines(tmp_path, f"partition={partition}", "frontier.epsilons=[1,3,8,null]")
    shown = ("epsilon", "seed", "auroc", "auprc")
    assert stored(found) == [
        {"name": "dp_ebm", **{key: row[key] for key in shown}}
        for row in dp_ebm()["rows"]
        if row["dataset"] == "spambase" and row["seed"] == 1 and row["epsilon"] in (1, 8)
    ]
    assert len(stored(found)) == 2
    [source] = frontier._stored(found)
    assert source["versions"]["interpret-core"]


@pytest.mark.parametrize(
    ("seed", "override"), [(3, "seed=0"), (1, "privacy.delta=2e-5"), (1, "data.holdout=0.25")]
)
def test_other_settings_have_no_stored_numbers(tmp_path: Path, seed: int, override: str) -> None:
    found = lines(tmp_path, override, seed=seed)
    assert {line["name"] for line in found} >= {"logistic", "pooled_dp"}
    assert stored(found) == []
    assert frontier._stored(found) == []
