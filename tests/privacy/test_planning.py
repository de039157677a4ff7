from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dp_risk.privacy.accounting import Event, epsilon
from dp_risk.privacy.planning import (
    Noise,
    Privacy,
    check_delta,
    choose_learning_rate,
    choose_noise,
)
from dp_risk.types import ConfigurationError

VALUES = {
    "epsilon": 1.0,
    "delta": 1e-5,
    "unit": "record",
    "trust": "local",
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
        ({"trust": "distributed"}, "trust"),
        ({"trust": "central"}, "trust"),
        ({"trust": "x"}, "trust"),
        ({"unit": "account"}, "unit"),
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


@settings(max_examples=15, deadline=None)
@given(
    st.floats(0.2, 8.0),
    st.one_of(st.none(), st.integers(1, 4000)),
    st.integers(1, 100),
    st.integers(1, 3),
)
def test_everything_the_run_charges_fits_in_epsilon(target, units, rounds, steps):
    noise = choose_noise(privacy(epsilon=target), units=units, rounds=rounds, steps_per_round=steps)
    events = [
        Event(
            noise_multiplier=noise.noise_multiplier,
            sampling_rate=noise.sampling_rate,
            count=rounds * steps,
        )
    ]
    assert (noise.counts_noise > 0) == (units is None)
    if noise.counts_noise:
        events.append(Event(noise_multiplier=noise.counts_noise))
    assert target * 0.999 < epsilon(events, 1e-5) <= target


def test_the_batch_is_public_and_bounded():
    few = choose_noise(privacy(), units=3000, rounds=10, steps_per_round=1)
    many = choose_noise(privacy(), units=40_000, rounds=10, steps_per_round=1)
    asked = choose_noise(privacy(sampling_rate=0.25), units=3000, rounds=10, steps_per_round=1)
    assert (few.sampling_rate, many.sampling_rate, asked.sampling_rate) == (1.0, 0.1, 0.25)
    assert choose_noise(privacy(), units=3000, rounds=None, steps_per_round=3).rounds == 27


def test_no_protection_has_no_noise():
    bare = choose_noise(
        privacy(trust="none", epsilon=None), units=None, rounds=5, steps_per_round=1
    )
    assert (bare.noise_multiplier, bare.counts_noise, bare.rounds) == (0, 0, 5)


def test_the_learning_rate_falls_with_the_noise_of_a_step():
    def rate(noise=50.0, sites=10, units=1e4, dimension=100, clip=1.0):
        numbers = Noise(noise_multiplier=noise, sampling_rate=0.5, rounds=9, counts_noise=0.0)
        return choose_learning_rate(
            numbers, clip_norm=clip, sites=sites, units=units, dimension=dimension
        )

    base = rate()
    assert rate(noise=100.0) == pytest.approx(base / 2)
    assert rate(sites=40) == pytest.approx(base / 2)
    assert rate(dimension=400) == pytest.approx(base / 2)
    assert rate(units=5e3) == pytest.approx(base / 2)
    assert rate(clip=2.0) == pytest.approx(base / 2)
    assert rate(noise=1e-3) == pytest.approx(2.0)
    assert 0 < rate(units=-50.0) < base
