"""Canaries in the real data path: what the auditor sees of them is what statistics expect."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dp_risk.cli.audit import canaries
from dp_risk.cli.audit.probe import Seen, probe
from dp_risk.cli.audit.scratch import Scratch
from dp_risk.cli.compose import settings
from dp_risk.privacy.plan import Plan
from tests import federation


def scratch(place: Path, file: Path, *overrides: str) -> Scratch:
    asked = settings(
        [
            *("data=file", f"data.path={file}", f"data.schema={file.with_suffix('.schema.yaml')}"),
            *("data.delta=1e-5", "data.public=true", "partition=iid", "federation.sites=2"),
            *("privacy.epsilon=4", "audit=quick", *overrides),
        ]
    )
    return Scratch(settings=asked, folder=place / "scratch")


def plan(rate: float, rounds: int) -> Plan:
    return federation.plan(sampling_rate=rate, rounds=rounds, noise_multiplier=2.0)


def look(place: Path, file: Path, rate: float, *overrides: str) -> Seen:
    asked = scratch(place, file, *overrides)
    return probe(asked, plan(rate, 20), codes=100, rows=20, number=1)


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("rate", "overrides"),
    [(1.0, ()), (0.3, ()), (1.0, ("model=mlp", "model.depth=2")), (0.3, ("model=mlp",))],
)
def test_a_canary_shows_as_one_where_it_was_sampled_and_as_nothing_elsewhere(
    tmp_path: Path, tiny_file: Path, rate: float, overrides: tuple[str, ...]
) -> None:
    seen = look(tmp_path, tiny_file, rate, *overrides)
    std = seen.plan.noise_multiplier / seen.share
    # Six standard errors: 2e-9.
    for found, expected in ((seen.inside, 1.0), (seen.outside, 0.0)):
        assert abs(found.mean() - expected) < 6 * std / np.sqrt(len(found))
    assert seen.share > 0.9
    # A fair coin over about 80 codes, and the sampler over those: six standard deviations.
    coins = len(seen.present)
    assert abs(seen.present.sum() - coins / 2) < 3 * np.sqrt(coins)
    trials = seen.present.sum() * seen.plan.rounds
    spread = np.sqrt(trials * rate * (1 - rate))
    assert abs(len(seen.inside) - trials * rate) <= 6 * spread
    assert len(seen.inside) + len(seen.outside) == coins * seen.plan.rounds


def test_the_probe_has_the_noise_that_the_same_epsilon_buys(
    tmp_path: Path, tiny_file: Path
) -> None:
    seen = look(tmp_path, tiny_file, 0.5)
    assert (seen.plan.sampling_rate, seen.plan.rounds, seen.plan.epsilon) == (0.5, 20, 4.0)
    assert not (tmp_path / "scratch" / "probe-1").exists()


def test_observations_stop_when_there_are_enough_or_time_is_over(
    tmp_path: Path, tiny_file: Path
) -> None:
    asked = scratch(tmp_path, tiny_file, "audit.seconds=1e-6", "audit.codes=60")
    configured = federation.plan(
        noise_multiplier=30.0, rounds=20, epsilon=4.0, counts_noise=0.0, run="x"
    )
    heard: list[float] = []
    found = canaries.look(asked, configured, asked.settings.audit, heard.append)
    assert len(found.runs) == 1
    assert heard == [1.0]
    shown = canaries.evidence(found, configured)["canaries"]
    assert (shown["runs"], shown["stopped"]) == (1, "time is over")
    loud, null = canaries.controls(found, configured, asked.settings.audit)
    assert loud["epsilon_lower_bound"] > 4.0
    assert null["epsilon_lower_bound"] < loud["epsilon_lower_bound"] / 10


@pytest.mark.slow
def test_processes_of_their_own_see_the_same(tmp_path: Path, tiny_file: Path) -> None:
    asked = scratch(tmp_path, tiny_file, "audit.processes=2", "audit.codes=60")
    configured = federation.plan(noise_multiplier=3.0, rounds=20, epsilon=4.0, counts_noise=0.0)
    found = canaries.look(asked, configured, asked.settings.audit, lambda _: None)
    assert len(found.runs) >= 1
    assert found.joined("inside").mean() == pytest.approx(1.0, abs=0.5)
