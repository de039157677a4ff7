"""Who speaks in a site's name: its own node, with the key that it was admitted with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clients.site import Site
from dp_risk import wire
from server.job import Federation
from server.sites import Sites
from tests.server.test_queue import FEDERATION

HONEST, LIAR = 1, 2


class Grid:
    """Nodes that all answer with the same statement."""

    def __init__(self, said: dict[str, Any]) -> None:
        self.said = said

    def get_node_ids(self) -> list[int]:
        return [HONEST, LIAR]

    def site(self, node: int) -> str:
        return {HONEST: str(self.said["site"]), LIAR: "liar"}[node]


@pytest.fixture
def said(site: Path) -> dict[str, Any]:
    return Site.open(site).statement(None)


@pytest.fixture(autouse=True)
def echo(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(grid: Grid, nodes: list[int], *_: Any) -> dict[int, Any]:
        return {node: wire.statement_record(grid.said) for node in nodes}

    monkeypatch.setattr("server.sites.ask", ask)


def sites(said: dict[str, Any], roster: dict[str, str] | None) -> Sites:
    name, key = str(said["site"]), str(said["key"])
    return Sites(Grid(said), Federation(**FEDERATION), {name: key}, roster)


def test_a_statement_that_another_node_sends_again_moves_no_name(said: dict[str, Any]) -> None:
    made = sites(said, {said["site"]: said["key"], "liar": "1" * 64})
    assert made.ready([said["site"]]) == {said["site"]}
    assert made._nodes == {said["site"]: HONEST}


def test_a_key_that_the_roster_does_not_know_is_nobodys(said: dict[str, Any]) -> None:
    assert sites(said, {said["site"]: "2" * 64}).ready([said["site"]]) == set()


def test_rotations_that_do_not_hold_are_nobodys(said: dict[str, Any]) -> None:
    entry = {
        "sequence": 1, "time": "t", "kind": "rekey", "text": "{}", "previous": "", "hash": "",
        "signature": "",
    }  # fmt: skip
    made = sites({**said, "rekeys": [entry]}, {said["site"]: said["key"]})
    assert made.ready([said["site"]]) == set()
