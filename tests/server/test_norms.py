from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dp_risk.privacy.noise import Grid, discrete_gaussian
from dp_risk.privacy.randomness import Randomness
from server.norms import FAILURE, longest
from tests.federation import plan, public_plan

SHARE = FAILURE / 3


@given(
    st.integers(1, 10**7),
    st.floats(1e-4, 1.0),
    st.floats(0.3, 50.0),
    st.integers(1, 5),
)
def test_the_bound_holds_each_part_at_its_share_of_the_failures(
    units: int, rate: float, sigma: float, steps: int
) -> None:
    one = plan(
        sampling_rate=rate, noise_multiplier=sigma, steps_per_round=steps, counts_noise=0.0,
        clip_norm=2.0,
    )  # fmt: skip
    batch = stats.binom.isf(SHARE, units * steps, rate)
    noise = one.grid.std * math.sqrt(steps * stats.chi2.isf(SHARE, one.dimension))
    found = longest(one, units, sites=1, noises=1.0)
    assert found >= 2.0 * batch + noise
    # And says something: a bound of three times as much would let an attack of that length pass.
    mean = 2.0 * units * steps * rate
    assert found <= 3 * (mean + noise) + 2.0 * 50


@pytest.mark.statistical
def test_an_honest_sum_at_its_worst_is_shorter() -> None:
    """All units pull one way at full length; the flake rate is the bound's own."""
    one = plan(sampling_rate=0.25, noise_multiplier=1.0, counts_noise=0.0)
    rng, randomness = np.random.default_rng(0), Randomness.system()
    bound = longest(one, 400, sites=1, noises=1.0)
    found = []
    for _ in range(300):
        total = np.zeros(one.dimension)
        total[0] = rng.binomial(400, 0.25)
        found.append(np.linalg.norm(one.grid.release(total, randomness)))
    assert max(found) < bound
    assert max(found) > 0.6 * bound


def test_a_released_number_of_units_may_be_too_small() -> None:
    exact = longest(plan(counts_noise=0.0), 500, sites=1, noises=1.0)
    noisy = longest(plan(counts_noise=20.0), 500, sites=1, noises=1.0)
    std = Grid(clip_norm=1.0, noise_multiplier=20.0, dimension=1).std
    assert (noisy - exact) / std == pytest.approx(stats.norm.isf(SHARE), rel=0.1)
    assert noisy - exact > std * stats.norm.isf(SHARE)


def test_more_units_sites_or_noise_allow_a_longer_sum() -> None:
    one = plan()
    base = longest(one, 500, sites=1, noises=1.0)
    assert longest(one, 600, sites=1, noises=1.0) > base + 100
    assert longest(one, 500, sites=9, noises=1.0) > base
    assert longest(one, 500, sites=1, noises=2.0) > base


def test_without_noise_nothing_is_clipped_and_nothing_bounded() -> None:
    assert longest(public_plan(), 500, sites=1, noises=1.0) == math.inf


def test_the_noise_is_no_heavier_than_a_gaussian() -> None:
    """The moment generating function of a discrete Gaussian; the flake rate is below 1e-6."""
    draws = discrete_gaussian(6, 200_000, Randomness.system()) / 64.0
    for t in (0.5, 1.0, 1.5):
        assert np.exp(t * draws).mean() < math.exp(t**2 / 2) * 1.05
