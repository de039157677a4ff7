"""Requests that must be refused: a site that grants them is reported, an honest one is not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clients.site import Site
from dp_risk.cli.audit import attacks
from dp_risk.cli.audit.bench import Bench
from dp_risk.cli.audit.edits import EDITS
from dp_risk.cli.audit.scratch import Scratch
from dp_risk.cli.audit.twins import Twins
from dp_risk.privacy import entries, keys
from dp_risk.privacy.entries import Entry
from dp_risk.privacy.plan import Plan
from dp_risk.privacy.replay import Replay
from dp_risk.types import Refused
from tests.cli.audit.test_reserved import scratch

Patches = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Twins, Plan]:
    """Private twins, and the plan of an honest run over one."""
    place = tmp_path_factory.mktemp("attacks")
    asked: Scratch = scratch(place)
    twins = Twins.make(asked, "private", slots=4, private=True)
    bench = Bench(twins.settings, twins.copies("honest"))
    bench.run(place / "run")
    assert bench.plan is not None
    return twins, bench.plan


@pytest.fixture
def case(made: tuple[Twins, Plan], tmp_path: Path) -> tuple[Twins, Plan]:
    """The same twins, whose copies are made in a place of their own."""
    twins, plan = made
    folder = tmp_path / "private" / "sites" / twins.folder.name
    folder.parent.mkdir(parents=True)
    folder.symlink_to(twins.folder)
    return dataclasses.replace(twins, folder=folder), plan


@pytest.mark.parametrize("attack", attacks.ATTACKS, ids=lambda attack: attack.__name__)
def test_an_honest_site_withstands(case: tuple[Twins, Plan], attack: Callable[..., Any]) -> None:
    check = attack(*case)
    assert check.passed, check.figure
    assert check.name == attack.__name__


def test_a_unit_at_several_sites_leaves_room_for_honest_runs(tmp_path: Path) -> None:
    asked = scratch(tmp_path, None, "privacy.max_sites_per_unit=2", "privacy.epsilon=0.5")
    twins = Twins.make(asked, "private", slots=4, private=True)
    bench = Bench(twins.settings, twins.copies("honest"))
    bench.run(tmp_path / "run")
    assert bench.plan is not None
    check = attacks.reservation(twins, bench.plan)
    assert check.passed, check.figure


def test_a_site_that_accepts_everything_is_reported(
    case: tuple[Twins, Plan], monkeypatch: Patches
) -> None:
    monkeypatch.setattr(Site, "enrol", lambda *_: None)
    check = attacks.policy(*case)
    assert not check.passed
    tried = len(attacks._bad_plans(case[1]))
    # What is no plan at all never reaches a site.
    assert check.figure.startswith(f"0 of {tried}") or check.figure.startswith(f"1 of {tried}")
    for name in ("no noise", "another delta", "another data set", "a run above the cap"):
        assert name in check.figure


def test_a_site_that_refuses_everything_proves_nothing(
    case: tuple[Twins, Plan], monkeypatch: Patches
) -> None:
    def refuse(*_: Any) -> None:
        raise Refused("no")

    monkeypatch.setattr(Site, "enrol", refuse)
    policy, reservation = attacks.policy(*case), attacks.reservation(*case)
    assert (policy.passed, policy.figure) == (False, "an honest plan was refused")
    assert not reservation.passed
    assert "an honest round was refused" in reservation.figure


def test_every_single_rule_of_a_policy_can_be_missed(
    case: tuple[Twins, Plan], monkeypatch: Patches
) -> None:
    victim = attacks.Victim.of(
        *case,
        "rules",
        run_epsilon=1.01 * case[1].cost,
        min_noise_multiplier=0.9 * case[1].noise_multiplier,
    )
    [folder] = [victim.bench.folder(node) for node in victim.bench.nodes]
    rules = Site.open(folder).policy
    alone = {
        "a run above the cap": "above the cap",
        "a noise multiplier below the smallest": "noise multiplier is below",
        "an epsilon below its price": "more than the plan says",
        "a clip norm above the largest": "clip norm",
        "another delta": "another delta",
    }
    for name, rule in alone.items():
        changed = dataclasses.replace(victim.plan, **attacks._bad_plans(case[1])[name])
        objections = list(rules.objections(changed))
        assert [rule in said for said in objections] == [True], (name, objections)


def _ledger(case: tuple[Twins, Plan]) -> Path:
    """Return a site whose ledger holds a run."""
    victim = attacks.Victim.of(*case, "edited")
    victim.bench.enrol(victim.node, victim.plan)
    victim.train(victim.plan, 0)
    victim.bench.ask(victim.node, "query.close", {"run": victim.plan.run})
    return victim.bench.folder(victim.node)


def _no_hashes(monkeypatch: Patches) -> None:
    monkeypatch.setattr(Entry, "holds", True)
    monkeypatch.setattr(entries, "_linked", lambda found: found)


def _no_signatures(monkeypatch: Patches) -> None:
    monkeypatch.setattr(keys, "verify", lambda *_: True)


def _no_totals(monkeypatch: Patches) -> None:
    monkeypatch.setattr(Replay, "_stated", lambda *_: None)
    monkeypatch.setattr(Replay, "_equal", lambda *_: True)


def test_each_part_of_the_verification_is_needed_for_one_edit(case: tuple[Twins, Plan]) -> None:
    site = _ledger(case)
    assert attacks._chained(site / "ledger.sqlite")
    parts = {
        "the date of a charge changed": _no_hashes,
        "the date of a charge changed, with new hashes": _no_signatures,
        "totals halved, with new hashes and signatures": _no_totals,
    }
    for name, edit in EDITS.items():
        copy = edit.copy(site)
        assert not attacks._chained(copy), name
        for other, weaken in parts.items():
            with pytest.MonkeyPatch.context() as patches:
                weaken(patches)
                missed = attacks._chained(copy)
            assert missed == (other == name), (name, other)
        copy.unlink()
    assert attacks._holds(site)
