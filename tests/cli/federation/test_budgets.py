"""Budgets in the status: of each site what it states itself."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from flwr.app import Message

from clients.site import Site
from dp_risk import wire
from dp_risk.cli.federation.execute import BUDGETS, Budgets


def heard(folder: Path, said: dict[str, Any], sender: str) -> dict[str, Any]:
    roster = SimpleNamespace(keys={said["site"]: said["key"], "liar": "1" * 64})
    budgets: Any = Budgets(SimpleNamespace(folder=folder, roster=roster))  # type: ignore[arg-type]
    budgets.hear(sender, Message(wire.statement_record(said), 1, "query.status"))
    path = folder / BUDGETS
    return dict(json.loads(path.read_text())) if path.exists() else {}


def test_a_site_states_its_own_budget(site: Path, tmp_path: Path) -> None:
    said = Site.open(site).statement(None)
    assert set(heard(tmp_path, said, said["site"])) == {said["site"]}


def test_and_nobody_elses(site: Path, tmp_path: Path) -> None:
    said = {**Site.open(site).statement(None), "left_epsilon": 1e6}
    assert heard(tmp_path, said, "liar") == {}
