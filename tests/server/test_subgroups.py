"""Utility by subgroup of private holdouts, over the apps' messages."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message

from clients.app import make_app
from dp_risk.evaluation.subgroups import GROUP_METRICS
from dp_risk.privacy.planning import Privacy
from server.job import Job
from server.rounds import execute
from tests.federation import kinds, rows, together
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


class Losing:
    """Sites of which one does not answer one question of a purpose."""

    def __init__(self, kind: str, times: int) -> None:
        self.kind, self.left, self.app = kind, times, make_app()

    def __call__(self, message: Message, context: Context) -> Message:
        if message.metadata.message_type == self.kind and context.node_id == 3 and self.left:
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
