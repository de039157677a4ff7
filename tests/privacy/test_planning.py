from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dp_risk.privacy.accounting import Event, epsilon
from dp_risk.privacy.planning import (
    Privacy,
    check_delta,
    choose_learning_rate,
    choose_noise,
    choose_spares,
)
from dp_risk.types import ConfigurationError

VALUES = {
    "epsilon": 1.0,
    "delta": 1e-5,
    "unit": "record",
    "max_records_per_account": 32,
    "max_sites_per_unit": 1,
    "allocation": {"counts": 0.05, "evaluation": 0.2},
    "trust": "local",
    "max_colluding": 1,
    "clip_norm": 1.0,
    "sampling_rate": None,
    "randomness": "system",
}


def privacy(**changes):
    return Privacy(**{**VALUES, **changes})


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"epsilon": None}, "epsilon"),
        ({"epsilon": 0.0}, "epsilon"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"epsilon": math.nan}, "epsilon"),
        ({"epsilon": math.inf}, "epsilon"),
        ({"trust": "none"}, "epsilon"),
        ({"trust": "distributed", "max_sites_per_unit": 2}, "max_sites_per_unit"),
        ({"max_colluding": 0}, "max_colluding"),
        ({"trust": "central"}, "trust"),
        ({"trust": "x"}, "trust"),
        ({"max_records_per_account": 0}, "max_records_per_account"),
        ({"max_sites_per_unit": 0}, "max_sites_per_unit"),
        ({"allocation": {"counts": 0.0, "evaluation": 0.2}}, "allocation.counts"),
        ({"allocation": {"counts": math.nan, "evaluation": 0.2}}, "allocation.counts"),
        ({"allocation": {"counts": 0.1, "evaluation": -0.1}}, "allocation.evaluation"),
        ({"allocation": {"counts": 0.1, "evaluation": math.nan}}, "allocation.evaluation"),
        ({"allocation": {"counts": 0.5, "evaluation": 0.5}}, "allocation"),
        ({"unit": "x"}, "unit"),
        ({"randomness": "x"}, "randomness"),
        ({"delta": 0.0}, "delta"),
        ({"delta": 1.0}, "delta"),
        ({"delta": math.nan}, "delta"),
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"clip_norm": math.inf}, "clip_norm"),
        ({"clip_norm": math.nan}, "clip_norm"),
        ({"sampling_rate": 0.0}, "sampling_rate"),
        ({"sampling_rate": 1.01}, "sampling_rate"),
        ({"sampling_rate": math.nan}, "sampling_rate"),
    ],
    ids=str,
)
def test_what_cannot_be_kept_is_refused_by_name(change, key):
    privacy()
    with pytest.raises(ConfigurationError, match=f"privacy.{key}: ") as caught:
        privacy(**change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(VALUES))
def test_nothing_has_a_default(name):
    with pytest.raises(TypeError, match=name):
        Privacy(**{k: v for k, v in VALUES.items() if k != name})


def test_delta_stays_below_one_over_units():
    check_delta(0.99e-3, 1000, where="declared")
    for delta in (1e-3, 1e-2):
        with pytest.raises(ConfigurationError, match=r"declared: 1000 units, so below 0\.001"):
            check_delta(delta, 1000, where="declared")
    # A released number holds noise: delta may well be small enough.
    with pytest.raises(ConfigurationError, match=r"1000, does not show .* holds noise"):
        check_delta(1e-3, 1000, where="released")


def choose(asked=None, **changes):
    values = {"units": 3000, "rounds": 10, "steps_per_round": 1, "stable_ids": True,
              "holdout": True, **changes}  # fmt: skip
    return choose_noise(asked or privacy(), **values)


@settings(max_examples=25, deadline=None)
@given(
    st.floats(0.2, 8.0),
    st.one_of(st.none(), st.integers(1, 4000)),
    st.integers(1, 100),
    st.integers(1, 3),
    st.booleans(),
    st.booleans(),
    st.integers(1, 3),
    st.integers(0, 5),
)
def test_everything_the_run_charges_fits_in_epsilon(
    target, units, rounds, steps, stable_ids, holdout, sites, columns
):
    asked = privacy(epsilon=target, max_sites_per_unit=sites)
    noise = choose(
        asked, units=units, rounds=rounds, steps_per_round=steps, stable_ids=stable_ids,
        holdout=holdout, subgroups=columns,
    )  # fmt: skip
    train = [
        Event(
            noise_multiplier=noise.noise_multiplier,
            sampling_rate=noise.sampling_rate,
            count=rounds * steps * sites,
        )
    ]
    assert (noise.counts_noise > 0) == (units is None)
    if noise.counts_noise:
        train.append(Event(noise_multiplier=noise.counts_noise, count=sites))
    assert (noise.evaluation_noise > 0) == (noise.score_bins_noise > 0) == holdout
    held = [
        Event(noise_multiplier=std, count=sites)
        for std in (noise.score_bins_noise, noise.evaluation_noise)
        if std
    ]
    assert (noise.subgroups_noise > 0) == (holdout and columns > 0)
    if noise.subgroups_noise:
        held.append(Event(noise_multiplier=noise.subgroups_noise, count=sites * columns))
    if not stable_ids:
        train, held = [*train, *held], []
    assert target * 0.999 < epsilon(train, 1e-5) <= target
    if held:
        assert target * 0.999 < epsilon(held, 1e-5) <= target


def test_an_evaluation_costs_training_nothing_where_the_holdout_has_its_own_account():
    with_it, without = choose(), choose(holdout=False)
    assert with_it.noise_multiplier == without.noise_multiplier
    shared = choose(stable_ids=False)
    assert shared.noise_multiplier > without.noise_multiplier
    assert shared.evaluation_noise > with_it.evaluation_noise
    none = choose(privacy(allocation={"counts": 0.05, "evaluation": 0.0}))
    assert (none.evaluation_noise, none.score_bins_noise) == (0.0, 0.0)


@pytest.mark.parametrize("columns", [1, 2, 5])
@pytest.mark.parametrize("stable_ids", [True, False])
def test_subgroups_share_the_evaluations_budget(columns, stable_ids):
    plain, noise = (choose(stable_ids=stable_ids, subgroups=n) for n in (0, columns))
    # Half of the evaluation's squared budget, and nothing of training's.
    assert plain.subgroups_noise == 0
    assert noise.noise_multiplier == pytest.approx(plain.noise_multiplier, rel=1e-6)
    assert noise.evaluation_noise == pytest.approx(plain.evaluation_noise * math.sqrt(2))
    assert noise.score_bins_noise == pytest.approx(plain.score_bins_noise * math.sqrt(2))
    held = [
        Event(noise_multiplier=noise.score_bins_noise),
        Event(noise_multiplier=noise.evaluation_noise),
        Event(noise_multiplier=noise.subgroups_noise, count=columns),
    ]
    train = [Event(noise_multiplier=noise.noise_multiplier, count=10)]
    for events in [train, held] if stable_ids else [[*train, *held]]:
        assert 0.999 < epsilon(events, 1e-5) <= 1.0


def test_the_part_of_subgroups_can_be_chosen_and_nothing_evaluated_has_none():
    more = choose(privacy(allocation={"counts": 0.05, "evaluation": 0.2, "subgroups": 0.8}),
                  subgroups=1)  # fmt: skip
    half = choose(subgroups=1)
    assert more.subgroups_noise < half.subgroups_noise
    assert more.evaluation_noise > half.evaluation_noise
    assert choose(subgroups=2, holdout=False).subgroups_noise == 0
    none = privacy(allocation={"counts": 0.05, "evaluation": 0.0})
    assert choose(none, subgroups=2).subgroups_noise == 0
    for part in (0.0, 1.0, -0.1, math.nan):
        with pytest.raises(ConfigurationError, match=r"privacy.allocation.subgroups: .* \(0, 1\)"):
            privacy(allocation={"counts": 0.05, "evaluation": 0.2, "subgroups": part})


def test_the_batch_is_public_and_bounded():
    few, many = choose(), choose(units=2_500_000)
    asked = choose(privacy(sampling_rate=0.25))
    assert (few.sampling_rate, many.sampling_rate, asked.sampling_rate) == (1.0, 0.1, 0.25)
    assert choose(rounds=None, steps_per_round=3).rounds == 20


def test_no_protection_has_no_noise():
    bare = choose(privacy(trust="none", epsilon=None), units=None, rounds=5)
    assert (bare.noise_multiplier, bare.counts_noise, bare.evaluation_noise) == (0, 0, 0)
    assert bare.rounds == 5


def test_the_learning_rate_falls_with_the_noise_of_a_step():
    def rate(noise=0.01, dimension=100, clip=1.0):
        return choose_learning_rate(noise, clip_norm=clip, dimension=dimension)

    base = rate()
    assert rate(noise=0.02) == pytest.approx(base / 2)
    assert rate(dimension=400) == pytest.approx(base / 2)
    assert rate(clip=2.0) == base
    assert (rate(noise=1e-9), rate(noise=1e-9, clip=2.0)) == (2.0, 1.0)
    assert rate(noise=0.0) == 1.0


@pytest.mark.parametrize("spare_rounds", [None, 0, 1, 7])
@pytest.mark.parametrize("stable_ids", [True, False])
def test_the_noise_of_a_secure_sum_pays_for_its_spare_rounds(spare_rounds, stable_ids):
    asked = privacy(trust="distributed")
    noise = choose(asked, units=None, stable_ids=stable_ids, may_lose=3, spare_rounds=spare_rounds)
    assert noise.spares == (4 if spare_rounds is None else spare_rounds)
    times = 1 + min(noise.spares, 2)
    train = [
        Event(noise_multiplier=noise.noise_multiplier, count=10 + noise.spares),
        Event(noise_multiplier=noise.counts_noise, count=times),
    ]
    held = [
        Event(noise_multiplier=std, count=times)
        for std in (noise.score_bins_noise, noise.evaluation_noise)
    ]
    for events in [train, held] if stable_ids else [[*train, *held]]:
        assert 0.999 < epsilon(events, 1e-5) <= 1.0


def test_spare_rounds_are_paid_for_where_they_are_asked_for():
    noise = choose(may_lose=3, spare_rounds=5)
    assert noise.spares == 5
    assert noise.noise_multiplier > choose().noise_multiplier
    train = Event(noise_multiplier=noise.noise_multiplier, count=10 + 5)
    assert 0.999 < epsilon([train], 1e-5) <= 1.0


def test_only_a_secure_sum_has_spare_rounds_by_itself():
    assert choose(may_lose=3) == choose()
    assert choose().spares == 0


def test_spares_are_one_a_site_and_a_tenth_of_the_rounds():
    assert choose_spares(60, may_lose=0) == 6
    assert choose_spares(61, may_lose=15) == 22


@pytest.mark.parametrize(("may_lose", "rounds", "spares"), [(0, 54, 6), (1, 53, 7), (9, 46, 14)])
def test_rounds_and_spares_are_sixty_together(may_lose, rounds, spares):
    shared = choose(privacy(trust="distributed"), rounds=None, may_lose=may_lose)
    assert (shared.rounds, shared.spares) == (rounds, spares)
    assert choose(rounds=None).rounds == 60


def test_many_lost_sites_do_not_take_all_rounds():
    shared = choose(privacy(trust="distributed"), rounds=None, may_lose=200)
    assert (shared.rounds, shared.spares) == (40, 204)
