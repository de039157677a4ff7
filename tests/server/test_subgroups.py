"""Utility by subgroup of private holdouts, over the apps' messages."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message

from clients.app import make_app
from dp_risk.data.coding import Coding
from dp_risk.data.schema import Schema
from dp_risk.evaluation.bins import CELLS, HIGH, LOW, score_cells, score_position
from dp_risk.evaluation.subgroups import GROUP_METRICS
from dp_risk.privacy.planning import Privacy
from dp_risk.privacy.schedule import MAX_CELLS, SCORE_BINS
from server import subgroups
from server.combining import Sum
from server.evaluation import HISTOGRAM, evaluate
from server.job import Job
from server.rounds import execute
from tests.federation import SCHEMA, coding, kinds, rows, together
from tests.federation import plan as a_plan
from tests.server.test_job import PRIVACY, job
from tests.server.test_rounds import grid

Sites = Callable[..., list[Path]]


def asked(folder: Path, trust: str = "local", **federation: Any) -> Job:
    folder.mkdir(exist_ok=True)
    privacy = Privacy(**{**PRIVACY, "trust": trust, "epsilon": 8.0})
    return replace(job(folder, **federation), privacy=privacy, subgroups=("kind", "age"))


@pytest.mark.parametrize("trust", ["local", "distributed"])
def test_every_column_is_charged_and_its_groups_are_estimated(
    tmp_path: Path, sites: Sites, trust: str
) -> None:
    folders = sites(3, table=rows(6000), **together(3))
    record = execute(grid(folders), asked(tmp_path / "out", trust, sites=3))
    charges = {charge["purpose"]: charge for charge in record["charges"]}
    assert charges["subgroups"]["split"] == "holdout"
    assert charges["subgroups"]["share"] == pytest.approx(0.5, rel=1e-6)
    assert record["epsilon_by_split"]["holdout"] == pytest.approx(8.0, rel=1e-3)
    assert record["epsilon_spent"] <= 8.0
    # Counts, three rounds, bins, an evaluation and two columns.
    expected = ["open", "reserve", *["charge", "release"] * 8, "close"]
    assert [kinds(folder) for folder in folders] == [expected] * 3
    assert record["subgroups_note"] is None
    kind, age = record["subgroups"]
    assert [kind["column"], age["column"]] == ["kind", "age"]
    assert [group["value"] for group in kind["groups"]] == ["a", "b", "c"]
    for entry in (kind, age):
        assert (entry["source"], entry["sites"]) == ("charged", 3)
        assert entry["noise_std"] > 0
        total = sum(group["units"] for group in entry["groups"])
        # About a fifth of 6,000, each group under noise of its own.
        allowed = 6 * entry["noise_std"] * math.sqrt(len(entry["groups"]) + 2)
        assert abs(total - 1200) < allowed + 200
        for group in [entry["overall"], *entry["groups"]]:
            assert set(group["metrics"]) == set(GROUP_METRICS)
    json.dumps(record, allow_nan=False)


def histograms(
    logits: np.ndarray, labels: np.ndarray, groups: np.ndarray, asked: list[Any]
) -> Callable[..., Sum]:
    """Return what is asked like sites, which counts these units without noise."""

    def ask(purpose: str, cells: int, *, edges: Any = None, column: Any = None) -> Sum:
        asked.append((purpose, cells, edges, column))
        if purpose == SCORE_BINS:
            places = np.clip(score_position(logits), LOW, HIGH)
            found = np.histogram(places, CELLS, (LOW, HIGH))[0]
        else:
            cell = score_cells(edges, logits, labels)
            if column is not None:
                cell = cell + groups * 2 * (len(edges) + 1)
            found = np.bincount(cell, minlength=cells)
        arrays = {HISTOGRAM: found.astype(np.float64)}
        return Sum(arrays=arrays, each={}, sites=("a", "b"), std=1e-3)

    return ask


def units(n: int, groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    logits = rng.normal(-1.5, 2.0, n)
    labels = (rng.random(n) < 1 / (1 + np.exp(-logits))).astype(float)
    return logits, labels, rng.integers(0, groups, n)


def test_without_noise_the_groups_are_counted_exactly() -> None:
    logits, labels, groups = units(20_000, 3)
    asked: list[Any] = []
    plan = a_plan(subgroups=("kind", "age"), subgroups_noise=9.0, evaluation_noise=9.0)
    ask = histograms(logits, labels, groups, asked)
    _, seen = evaluate(plan, ask, capacity=0.05)
    kind, age = subgroups.evaluate(plan, ask, seen, coding(), capacity=0.05)
    assert kind["threshold"] == age["threshold"]
    assert kind["overall"] == age["overall"]
    flagged = 1 / (1 + np.exp(-logits)) >= kind["threshold"]
    bins = len(asked[2][2]) + 1
    assert kind["noise_std"] == pytest.approx(1e-3 * math.sqrt(2 * bins))
    # Other and missing values are no group where nobody has them.
    assert [group["value"] for group in kind["groups"]] == ["a", "b", "c"]
    everybody = [np.ones(20_000, dtype=bool), *(groups == i for i in range(3))]
    for group, inside in zip([kind["overall"], *kind["groups"]], everybody, strict=True):
        assert (group["units"], group["positives"]) == (inside.sum(), labels[inside].sum())
        for name, among in (
            ("flagged_rate", inside),
            ("true_positive_rate", inside & (labels == 1)),
            ("false_positive_rate", inside & (labels == 0)),
        ):
            value = group["metrics"][name]["value"]
            assert value == pytest.approx(flagged[among].mean(), abs=1e-3), name


def test_many_values_have_fewer_bins_and_no_threshold_flags_the_highest() -> None:
    values = [f"v{i}" for i in range(60)]
    schema = {**SCHEMA, "features": {"kind": {"type": "categorical", "values": values}}}
    many = Coding(schema=Schema.from_dict(schema))
    logits, labels, groups = units(30_000, 60)
    asked: list[Any] = []
    plan = a_plan(subgroups=("kind",), subgroups_noise=9.0, evaluation_noise=9.0)
    ask = histograms(logits, labels, groups, asked)
    _, seen = evaluate(plan, ask, capacity=0.05)
    [entry] = subgroups.evaluate(plan, ask, seen, many, capacity=0.05)
    assert asked[-1][1] <= MAX_CELLS
    assert len(entry["groups"]) == 60
    [entry] = subgroups.evaluate(plan, ask, replace(seen, threshold=math.nan), many, capacity=0.05)
    highest = float(seen.bins.edges[-1])
    assert entry["threshold"] == pytest.approx(1 / (1 + math.exp(-highest)))


class Losing:
    """Sites of which one does not answer one question of a purpose."""

    def __init__(self, kind: str, times: int) -> None:
        self.kind, self.left, self.app = kind, times, make_app()
        self.after = 0
        """How many it answers before."""

    def __call__(self, message: Message, context: Context) -> Message:
        if message.metadata.message_type == self.kind and context.node_id == 3:
            if self.after:
                self.after -= 1
            elif self.left:
                self.left -= 1
                raise RuntimeError("gone")
        return self.app(message, context)


def test_without_enough_answers_the_estimates_of_all_units_stand(
    tmp_path: Path, sites: Sites, caplog: pytest.LogCaptureFixture
) -> None:
    folders = sites(2)
    record = execute(grid(folders, Losing("query.subgroups", 9)), asked(tmp_path / "out"))
    assert record["subgroups"] == []
    assert record["subgroups_note"] == (
        "not evaluated by subgroup: the charge stands, but too few sites answered"
    )
    assert record["utility"] is not None
    assert "no utility by subgroup: 1 of 2 sites answered subgroups round 1" in caplog.text
    assert "subgroups" in {charge["purpose"] for charge in record["charges"]}


def test_a_column_that_came_is_kept_when_the_next_is_lost(tmp_path: Path, sites: Sites) -> None:
    folders = sites(2)
    losing = Losing("query.subgroups", 9)
    losing.after = 1
    record = execute(grid(folders, losing), asked(tmp_path / "out"))
    assert [entry["column"] for entry in record["subgroups"]] == ["kind"]
    assert record["subgroups_note"] == (
        "not evaluated by age: the charge stands, but too few sites answered"
    )


def test_a_lost_column_is_asked_again_in_a_spare_round(tmp_path: Path, sites: Sites) -> None:
    folders = sites(2)
    one = asked(tmp_path / "out", spare_rounds=1)
    record = execute(grid(folders, Losing("query.subgroups", 2)), one)
    assert [entry["column"] for entry in record["subgroups"]] == ["kind", "age"]
    [line] = [c for c in record["charges"] if c["purpose"] == "subgroups"]
    assert line["event_json"]["count"] == 4
    assert record["epsilon_spent"] <= 8.0


def test_nothing_held_out_or_no_noise_has_no_subgroups(tmp_path: Path, sites: Sites) -> None:
    folders = sites(2, public=True, units=120)
    bare = Privacy(**{**PRIVACY, "trust": "none", "epsilon": None})
    record = execute(grid(folders), replace(asked(tmp_path / "out"), privacy=bare))
    assert (record["subgroups"], record["charges"][0]["epsilon"]) == ([], None)
    none = Privacy(**{**PRIVACY, "allocation": {"counts": 0.05, "evaluation": 0.0}})
    other = replace(asked(tmp_path / "out"), privacy=none, run="run-2")
    record = execute(grid(folders), other)
    assert record["subgroups_note"] == "not evaluated by subgroup: nothing is evaluated"
