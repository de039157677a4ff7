from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from clients import tuning
from clients.site import Site
from clients.tuning import Choice, Trial, Tuning, tune
from dp_risk.privacy.accounting import Selection, epsilon
from dp_risk.privacy.dpsgd import load_weights
from dp_risk.privacy.gaussian import GaussianSum
from dp_risk.privacy.randomness import Randomness
from dp_risk.privacy.schedule import PURPOSES, TUNING
from dp_risk.types import ConfigurationError, DpRiskError, Refused, Split
from tests import federation
from tests.federation import DELTA, Server, history, kinds, make_site, plan, policy, refused

CHOICES = (
    Choice(learning_rate=0.5, clip_norm=1.0),
    Choice(learning_rate=0.1, clip_norm=1.0),
    Choice(learning_rate=0.5, clip_norm=3.0),
)
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Make a site that may tune, with its policy changed."""

    def made(*, table: pa.Table | None = None, **changes: object) -> Path:
        rules = policy(**{"purposes": PURPOSES, **changes})
        return make_site(tmp_path / "mine", federation.rows() if table is None else table, rules)

    return made


def asked(**changes: object) -> Tuning:
    values = {"epsilon": 2.0, "delta": DELTA, "choices": CHOICES, "steps": 2, **changes}
    return Tuning(**values)  # type: ignore[arg-type]


def test_one_charge_pays_for_everything_and_only_the_winner_leaves(make: Make) -> None:
    folder = make()
    site = Site.open(folder)
    winner = tune(site, asked())
    assert winner.choice in CHOICES
    assert isinstance(winner.event, Selection)
    # Two steps, the score and the count of a private size.
    assert (winner.event.mean, winner.event.base.count, winner.event.count) == (6, 4, 1)
    assert winner.epsilon_run == epsilon([winner.event], DELTA)
    assert 1.99 < winner.epsilon_run <= 2.0
    assert kinds(folder) == ["open", "reserve", "charge", "release", "close"]
    [run] = site.ledger.runs()
    assert [(line.name, line.split, line.rounds) for line in run.schedule] == [
        (TUNING, Split.TRAIN, 1)
    ]
    balances = site.ledger.state.balances
    assert balances[Split.TRAIN].spent_epsilon == winner.epsilon_lifetime > 0
    assert balances[Split.HOLDOUT].spent_epsilon == 0
    said = winner.to_dict()
    assert set(said) == {
        *("schema_version", "run", "model", "learning_rate", "clip_norm", "cost"),
        *("candidates", "event"),
    }
    json.dumps(said)


def test_what_is_minted_are_the_public_numbers_of_one_choice(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, minted = Site.open(make()), []
    mint = type(site.ledger).mint
    monkeypatch.setattr(
        type(site.ledger), "mint", lambda self, **said: minted.append(said) or mint(self, **said)
    )
    winner = tune(site, asked())
    [said] = minted
    assert {name: float(array[0]) for name, array in said["arrays"].items()} == (
        dataclasses.asdict(winner.choice)
    )
    assert all(array.shape == (1,) for array in said["arrays"].values())


REFUSED: dict[str, tuple[dict[str, object], dict[str, object], str]] = {
    "the purpose": ({"purposes": ("counts", "training")}, {}, "purposes do not name tuning"),
    "the model": ({"models": ("mlp",)}, {}, "model additive is not allowed"),
    "the delta": ({}, {"delta": 2e-5}, "delta must be the policy's, 1e-05"),
    "the cap of a run": ({"run_epsilon": 1.0}, {}, "above the cap of 1"),
    "the lifetime": ({"lifetime_epsilon": 1.0}, {}, "lifetime budget of train"),
    "the clip norm": ({"max_clip_norm": 2.0}, {}, "clip norm is above"),
    "the noise": ({"min_noise_multiplier": 1e4}, {}, "noise multiplier is below"),
    "delta against units": ({"units": 10**6}, {}, "1/units"),
}


@pytest.mark.parametrize(("rules", "ask", "said"), REFUSED.values(), ids=REFUSED)
def test_the_policy_refuses_before_a_row_is_read(
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    rules: dict[str, object],
    ask: dict[str, object],
    said: str,
) -> None:
    folder = make(**rules)
    before = history(folder)
    site = Site.open(folder)
    monkeypatch.setattr(type(site.shard), "units", None)
    with pytest.raises(Refused, match=said):
        tune(site, asked(**ask))
    site.ledger.close_file()
    assert history(folder) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"epsilon": 0.0},
        {"epsilon": float("nan")},
        {"epsilon": 1e-4},
        {"delta": 1.0},
        {"choices": ()},
        {"choices": CHOICES[:1] * 2},
        {"model": "oracle"},
    ],
    ids=str,
)
def test_what_is_impossible_is_one_line(make: Make, changes: dict[str, object]) -> None:
    folder = make()
    site = Site.open(folder)
    with pytest.raises(ConfigurationError) as error:
        tune(site, asked(**changes))
    assert len(str(error.value).splitlines()) == 1
    assert kinds(folder) == ["open"]


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "1", True, None])
def test_a_choice_holds_numbers_above_0(value: object) -> None:
    for name in ("learning_rate", "clip_norm"):
        with pytest.raises(ConfigurationError, match=name):
            Choice(**{"learning_rate": 1.0, "clip_norm": 1.0, name: value})  # type: ignore[arg-type]


def test_units_at_several_sites_and_in_one_account_are_charged_so(make: Make) -> None:
    folder = make(max_sites_per_unit=3, stable_ids=False, units=240)
    winner = tune(Site.open(folder), asked())
    assert isinstance(winner.event, Selection)
    # A declared size is not counted again.
    assert (winner.event.count, winner.event.base.count) == (3, 3)
    site = Site.open(folder)
    assert list(site.ledger.state.balances) == [Split.BOTH]
    assert site.ledger.state.spent_epsilon == winner.epsilon_lifetime


def test_an_open_run_of_a_server_is_not_ended_by_accident(make: Make) -> None:
    folder = make()
    rules = plan(participants={"site-00": federation.KEY})
    assert not refused(Server(folder).enrol(rules))
    with pytest.raises(Refused, match="--close-open-run"):
        tune(Site.open(folder), asked())
    assert kinds(folder) == ["open", "reserve"]
    tune(Site.open(folder), asked(), close_open_run=True)
    assert kinds(folder)[1:4] == ["reserve", "close", "reserve"]


def test_a_tuning_that_breaks_off_is_paid_and_its_run_closed(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make()
    site = Site.open(folder)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trial, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tune(site, asked())
    assert kinds(folder) == ["open", "reserve", "charge", "close"]
    assert Site.open(folder).ledger.state.spent_epsilon > 0


def test_strange_rows_still_give_a_winner(make: Make) -> None:
    table = federation.rows(3).slice(0, 0)
    assert tune(Site.open(make(table=table)), asked()).choice in CHOICES


def trial(choice: Choice, units: int | None, noise: float = 1e-4) -> Trial:
    return Trial(
        choice=choice, model="additive", coding=federation.coding(), units=units, steps=4,
        noise_multiplier=noise,
    )  # fmt: skip


def test_a_trial_scores_what_it_learns(make: Make) -> None:
    units = Site.open(make()).shard.units(Split.TRAIN, 1)
    bits = Randomness.seeded(1)
    useless = trial(Choice(learning_rate=1e-9, clip_norm=1.0), None)(units, bits).score
    better = trial(Choice(learning_rate=0.5, clip_norm=1.0), None)(units, bits).score
    assert useless == pytest.approx(0.0, abs=0.1)
    assert better > useless + 5


def test_one_unit_moves_the_score_by_at_most_1(make: Make) -> None:
    units = Site.open(make()).shard.units(Split.TRAIN, 1)
    module = federation.module()
    load_weights(module, federation.weights(100.0))
    gains = tuning._gains(module, units)
    assert gains.shape == (len(units), 1)
    worst = int(np.argmin(gains))
    assert gains[worst] < -50
    score = GaussianSum(clip_norm=1.0, dimension=1, noise_multiplier=1e-5)
    whole, without = (
        score(rows, Randomness.seeded(1))["sum"][0] for rows in (gains, np.delete(gains, worst, 0))
    )
    assert without - whole == pytest.approx(1.0, abs=1e-3)


def test_no_message_can_ask_for_tuning(make: Make) -> None:
    folder = make()
    server = Server(folder)
    asks = plan(participants={"site-00": federation.KEY})
    assert not refused(server.enrol(asks))
    before = history(folder)
    values = {"plan": asks.digest, "round": 0}
    for kind in ("query.tuning", "query.tune", "train.tuning", "evaluate.tuning"):
        assert refused(server.ask(kind, values))
        assert refused(server.ask(kind, values, federation.weights()))
    assert refused(server.enrol({**asks.to_dict(), "tuning_noise": 1.0}))
    site = Site.open(folder)
    with pytest.raises(DpRiskError):
        site.answer(
            plan_digest=asks.digest, purpose=TUNING, round=0, request="x",
            weights=federation.weights(),
        )  # fmt: skip
    assert history(folder) == before
    assert TUNING not in {line.name for line in asks.schedule}


def test_the_log_says_nothing_of_trials(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="dp_risk.site"):
        tune(Site.open(make()), asked())
    assert not caplog.records
