from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dp_risk.privacy.randomness import Randomness
from dp_risk.privacy.sampling import _block, _gaps, distance, poisson_sample
from tests.privacy.test_alias import masses_of

# Each statistic lies within 6 standard deviations with probability 1 - 2e-9.
SIGMAS = 6.0


@given(st.integers(0, 3000), st.floats(1e-9, 1.0, exclude_min=True), st.integers(0, 2**32))
def test_a_sample_is_an_ordered_set_of_units(units, rate, seed):
    index = poisson_sample(units, rate, Randomness.seeded(seed))
    assert index.dtype == np.int64
    assert (np.diff(index) > 0).all()
    assert len(index) == 0 or (index[0] >= 0 and index[-1] < units)
    assert rate < 1 or len(index) == units


@pytest.mark.parametrize("rate", [math.nextafter(1, 0), 1 - 2**-52, 0.999999, 1e-300])
def test_extreme_rates(rate):
    index = poisson_sample(1000, rate, Randomness.seeded(1))
    assert len(index) > 900 if rate > 0.9 else len(index) == 0
    assert 0 <= distance(1000, rate, 10) < 1e-9


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, math.nan])
def test_an_impossible_rate_is_refused(rate):
    with pytest.raises(ValueError, match="rate"):
        poisson_sample(10, rate, Randomness.seeded(1))


@pytest.mark.statistical
@pytest.mark.parametrize(("units", "rate"), [(50, 0.1), (1000, 0.002), (40, 0.7), (20, 0.97)])
def test_batch_sizes_are_binomial(units, rate):
    # Mean and variance against Binomial, 6 standard deviations each: flake rate below 1e-8.
    n = 3000
    source = Randomness.seeded(11, units)
    sizes = np.array([len(poisson_sample(units, rate, source)) for _ in range(n)])
    law = stats.binom(units, rate)
    mean, variance, _, kurtosis = law.stats(moments="mvsk")
    assert abs(sizes.mean() - mean) < SIGMAS * math.sqrt(variance / n)
    spread = math.sqrt(variance**2 * (kurtosis + 2) / n)
    assert abs(((sizes - mean) ** 2).mean() - variance) < SIGMAS * spread


@pytest.mark.statistical
def test_every_unit_is_as_likely_and_pairs_are_independent():
    # 60 units and 59 neighbouring pairs, 6 standard deviations: flake rate below 119 * 2e-9.
    units, rate, n = 60, 0.3, 3000
    source = Randomness.seeded(12)
    taken = np.zeros((n, units))
    for row in taken:
        row[poisson_sample(units, rate, source)] = 1
    bound = SIGMAS * math.sqrt(rate * (1 - rate) / n)
    assert (abs(taken.mean(0) - rate) < bound).all()
    both = (taken[:, 1:] * taken[:, :-1]).mean(0)
    assert (abs(both - rate**2) < SIGMAS * math.sqrt(rate**2 * (1 - rate**2) / n)).all()


@pytest.mark.statistical
def test_long_gaps_cross_the_table():
    # Gaps are geometric even beyond the table of 4096; KS at level 1e-7.
    rate = 1 / 3000
    index = poisson_sample(6_000_000, rate, Randomness.seeded(13))
    gaps = np.diff(index).astype(float)
    assert (gaps > 4096).any()
    # Jitter makes the law continuous: gap - U has survival (1 - rate)**x between whole numbers.
    edges = stats.geom(rate).ppf(np.linspace(0, 1, 21))
    observed = np.histogram(gaps, np.concatenate([edges[:-1] + 0.5, [np.inf]]))[0]
    cdf = stats.geom(rate).cdf(edges)
    cdf[0], cdf[-1] = 0.0, 1.0
    assert stats.chisquare(observed, np.diff(cdf) * len(gaps)).pvalue > 1e-7


@pytest.mark.parametrize("rate", [0.125, 0.1, 1 / 3, 0.01, 1e-3, 1e-5])
def test_the_law_of_a_gap_is_within_its_stated_distance(rate):
    gaps, block = masses_of(_gaps(rate)), _block(rate)
    assert len(gaps) == block + 1
    hit, exact, left = Fraction(rate), [], Fraction(1)
    for _ in range(block):
        # Rounded far below what is compared.
        exact.append(Fraction(int(hit * left * 2**400), 2**400))
        left = Fraction(int((1 - hit) * left * 2**400), 2**400)
    far = sum(abs(Fraction(a, 2**128) - b) for a, b in zip(gaps, [*exact, left], strict=True)) / 2
    assert far < Fraction(block + 1, 2**128)


@pytest.mark.statistical
@pytest.mark.parametrize("rate", [0.124, 0.126, 0.5, 0.999])
def test_both_ways_choose_as_many_on_either_side_of_where_they_meet(rate):
    # Counts of 400 equal stretches: chi-square, four at level 1e-7, both sides.
    units, stretches = 2_000_000, 400
    index = poisson_sample(units, rate, Randomness.seeded(14))
    counts = np.bincount(index * stretches // units, minlength=stretches)
    each = units / stretches
    value = ((counts - each * rate) ** 2).sum() / (each * rate * (1 - rate))
    assert 1e-7 < stats.chi2(stretches).cdf(value) < 1 - 1e-7


def test_the_distance_grows_with_what_is_drawn():
    assert distance(1000, 1.0, 10) == distance(1000, 0.126, 10) == 0
    assert 0 < distance(1000, 0.1, 10) < distance(1000, 0.1, 100) < distance(10**6, 0.1, 100) < 1e-9
