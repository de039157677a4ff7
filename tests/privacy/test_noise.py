from __future__ import annotations

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dp_risk.privacy.noise import (
    _SAMPLER_DISTANCE,
    Grid,
    _cells,
    discrete_gaussian,
    sum_distance,
)
from dp_risk.privacy.randomness import Randomness
from tests.privacy.test_alias import masses_of


@pytest.mark.statistical
@pytest.mark.parametrize("bits", [1, 2, 5])
def test_draws_follow_the_discrete_gaussian(bits):
    # Chi-square on the exact masses; three tests at level 1e-7.
    n, std = 200_000, 2**bits
    draws = discrete_gaussian(bits, n, Randomness.seeded(21, bits))
    support = np.arange(-12 * std, 12 * std + 1)
    mass = np.exp(-(support**2) / (2 * std**2))
    mass /= mass.sum()
    inside = mass * n > 20
    observed = np.array([(draws == k).sum() for k in support[inside]])
    expected = mass[inside] * n
    rest = (n - observed.sum(), n - expected.sum())
    result = stats.chisquare([*observed, rest[0]], [*expected, rest[1]])
    assert result.pvalue > 1e-7


@pytest.mark.statistical
@pytest.mark.parametrize("bits", [14, 20, 24])
def test_fine_draws_are_gaussian(bits):
    # Kolmogorov-Smirnov at level 1e-7, variance within 6 standard deviations.
    n = 100_000
    draws = discrete_gaussian(bits, n, Randomness.seeded(22, bits)) / 2.0**bits
    assert stats.kstest(draws, "norm").pvalue > 1e-7
    assert abs((draws**2).mean() - 1) < 6 * math.sqrt(2 / n)
    assert abs(np.corrcoef(draws[1:], draws[:-1])[0, 1]) < 6 / math.sqrt(n)


@pytest.mark.statistical
@pytest.mark.parametrize("bits", [7, 8, 9])
def test_draws_follow_the_exact_masses_within_and_across_cells(bits):
    # Chi-square on every value that is expected 20 times, and on both tails; three at level 1e-7.
    n, std = 3_000_000, 2**bits
    draws = discrete_gaussian(bits, n, Randomness.seeded(23, bits))
    observed = np.bincount(draws + 12 * std, minlength=24 * std + 1)
    support = np.arange(-12 * std, 12 * std + 1)
    mass = np.exp(-(support**2) / (2 * std**2))
    expected = n * mass / mass.sum()
    inside = expected > 20
    tails = [(~inside) & (support < 0), (~inside) & (support > 0)]
    found = [*observed[inside], *(observed[tail].sum() for tail in tails)]
    due = [*expected[inside], *(expected[tail].sum() for tail in tails)]
    assert stats.chisquare(found, np.array(due) * sum(found) / sum(due)).pvalue > 1e-7


@pytest.mark.statistical
@pytest.mark.parametrize("bits", [20, 22, 24])
def test_fine_draws_have_the_right_tails_and_low_bits(bits):
    # Six chi-squares at level 1e-7, and 72 one-sided Poisson tests at level 1e-9.
    n = 4_000_000
    draws = discrete_gaussian(bits, n, Randomness.seeded(24, bits))
    scaled = draws / 2.0**bits
    edges = np.concatenate([[-np.inf], np.linspace(-4.5, 4.5, 181), [np.inf]])
    due = np.diff(stats.norm.cdf(edges)) * n
    assert stats.chisquare(np.histogram(scaled, edges)[0], due).pvalue > 1e-7
    for sign in (-1, 1):
        for tail in (3.0, 3.5, 4.0, 4.5, 5.0, 5.5):
            count, mean = int((sign * scaled > tail).sum()), n * stats.norm.sf(tail)
            assert stats.poisson.cdf(count, mean) > 1e-9
            assert stats.poisson.sf(count - 1, mean) > 1e-9
    low = np.bincount(draws & 255, minlength=256)
    assert stats.chisquare(low).pvalue > 1e-7


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 6, 7, 9])
def test_the_sampler_is_within_its_stated_distance(bits):
    # What the table holds, times what is kept, against exact masses at 80 digits.
    coarse = min(bits, 6)
    places = 2 ** (bits - coarse)
    cells = masses_of(_cells(coarse)[0])
    with localcontext() as context:
        context.prec = 80

        def weight(exponent: int) -> Decimal:
            return (Decimal(-exponent) / 2 ** (2 * bits + 1)).exp()

        drawn, exact = [], []
        for m in range(13 * 2**bits):
            h, place = divmod(m, places)
            signs = 1 if m == 0 else 2
            cell = Decimal(cells[h]) if h < len(cells) else Decimal(0)
            drawn.append(signs * cell * weight((2 * h * places + place) * place))
            exact.append(signs * weight(m * m))
        totals = sum(drawn), sum(exact)
        far = sum(abs(a / totals[0] - b / totals[1]) for a, b in zip(drawn, exact, strict=True)) / 2
    assert far < _SAMPLER_DISTANCE
    assert far > _SAMPLER_DISTANCE / 2**6


@pytest.mark.parametrize("bits", [1, 6])
def test_no_place_of_a_cell_has_less_chance_than_what_is_kept_unseen(bits):
    # The bound leaves all bits that choose the place alone, and zero is never kept unseen.
    _, surely = _cells(bits)
    cell = np.arange(len(surely))
    assert surely[0] == 0
    assert not (surely & np.uint64(2**32 - 1)).any()
    least = np.exp(-(2 * cell + 1) / 2.0 ** (2 * bits + 1))
    assert (surely.astype(np.float64) * 2.0**-64 < least).all()
    assert (surely[1:].astype(np.float64) * 2.0**-64 > least[1:] - 2.0**-29).all()


@given(st.integers(1, 24), st.integers(0, 40), st.integers(0, 2**32))
def test_a_seed_repeats_its_draws(bits, size, seed):
    first = discrete_gaussian(bits, size, Randomness.seeded(seed))
    assert np.array_equal(first, discrete_gaussian(bits, size, Randomness.seeded(seed)))
    assert (np.abs(first) < 12 * 2**bits).all()


@pytest.mark.parametrize("bits", [0, 25, -1])
def test_bits_out_of_range_are_refused(bits):
    with pytest.raises(ValueError, match="bits"):
        discrete_gaussian(bits, 1, Randomness.seeded(1))


@pytest.mark.parametrize("size", [0, 1, 7, 8191, 8192, 20_000])
def test_the_number_of_draws(size):
    assert discrete_gaussian(14, size, Randomness.seeded(1)).shape == (size,)


@given(st.floats(1e-3, 1e3), st.floats(0.05, 100), st.integers(1, 1_000_000))
def test_noise_covers_rounding(clip_norm, noise_multiplier, dimension):
    grid = Grid(clip_norm=clip_norm, noise_multiplier=noise_multiplier, dimension=dimension)
    # Two rounded sums differ by the clip norm and half a step a coordinate for each of them.
    sensitivity = clip_norm + grid.step * math.sqrt(dimension)
    accounted = math.sqrt(4.0**grid.bits - 1 / 12) * grid.step
    assert accounted >= noise_multiplier * sensitivity * (1 - 1e-12)
    # And it costs no more than about a hundredth.
    assert grid.std <= noise_multiplier * clip_norm * 1.0105
    assert 14 <= grid.bits <= 24


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20),
    st.integers(0, 2**32),
)
def test_a_release_lies_on_the_grid_whatever_the_sum(total, seed):
    grid = Grid(clip_norm=1.0, noise_multiplier=1.3, dimension=len(total))
    out = grid.release(np.array(total), Randomness.seeded(seed))
    steps = out / grid.step
    assert np.array_equal(np.rint(steps) * grid.step, out)
    # The same bits on a neighbouring sum move the output by whole steps only.
    other = grid.release(np.array(total) + 0.3, Randomness.seeded(seed))
    assert np.allclose(other - out, 0.3, atol=2 * grid.step)


def test_the_distance_to_the_accounted_gaussian_is_a_bound():
    # Exact masses at the coarsest settings; at the 14 bits in use the claim is far smaller.
    for bits in (1, 2, 3):
        std = 2.0**bits
        support = np.arange(-40 * int(std), 40 * int(std) + 1)
        discrete = np.exp(-(support**2) / (2 * std**2))
        discrete /= discrete.sum()
        accounted = math.sqrt(std**2 - 1 / 12)
        rounded = stats.norm.cdf((support + 0.5) / accounted) - stats.norm.cdf(
            (support - 0.5) / accounted
        )
        assert 0.5 * np.abs(discrete - rounded).sum() <= 1 / (1000 * std**4) + 1e-12
    grid = Grid(clip_norm=1.0, noise_multiplier=1.0, dimension=10)
    assert 0 < grid.distance(1) < 1e-15
    assert grid.distance(7) == pytest.approx(7 * grid.distance(1))


def masses(std: float) -> np.ndarray:
    """Return the masses of a discrete Gaussian on -w .. w."""
    width = math.ceil(12 * std)
    mass = np.exp(-(np.arange(-width, width + 1) ** 2) / (2 * std**2))
    return mass / mass.sum()


@pytest.mark.parametrize("shares", [1, 2, 3, 10, 30])
@pytest.mark.parametrize("std", [1.0, 1.5, 2.0, 3.0])
def test_a_sum_of_shares_is_as_near_to_the_accounted_gaussian_as_stated(std, shares):
    # Exact masses by convolution, at the coarsest settings.
    total = masses(std)
    for _ in range(shares - 1):
        total = np.convolve(total, masses(std))
    variance = shares * std**2
    edges = (np.arange(len(total) + 1) - len(total) / 2) / math.sqrt(variance - 1 / 12)
    rounded = np.diff(stats.norm.cdf(edges))
    found = 0.5 * np.abs(total - rounded).sum()
    assert found <= sum_distance(std, shares) + 1e-13
    if std >= 2 and variance >= 8 and found > 1e-10:
        # The leading term: what the number of shares adds is far smaller.
        assert found * variance**2 == pytest.approx(1 / 2057, rel=0.02)


@given(st.floats(0.05, 100), st.integers(1, 1_000_000), st.integers(1, 1000))
def test_shared_noise_covers_rounding(noise_multiplier, dimension, shares):
    grid = Grid(
        clip_norm=1.0, noise_multiplier=noise_multiplier, dimension=dimension, shares=shares
    )
    sensitivity = 1.0 + grid.step * math.sqrt(dimension)
    accounted = math.sqrt(shares * 4.0**grid.bits - 1 / 12) * grid.step
    assert accounted == pytest.approx(noise_multiplier * sensitivity, rel=1e-12)
    assert grid.std <= noise_multiplier * 1.0105
    assert grid.share_std * math.sqrt(shares) == pytest.approx(grid.std)
    assert 20 <= grid.bits <= 24
    # The grid is no finer than it must be.
    need = 101 * noise_multiplier * math.sqrt(dimension / shares)
    assert grid.bits == 20 or 2.0 ** (grid.bits - 1) < need * (1 + 1e-12)


def test_a_grid_that_fits_exactly_is_taken():
    noise_multiplier = 2.0**22 / 101
    assert 101 * noise_multiplier == 2.0**22
    for multiplier, bits in ((noise_multiplier, 22), (math.nextafter(noise_multiplier, 1e9), 23)):
        assert Grid(clip_norm=1.0, noise_multiplier=multiplier, dimension=1).bits == bits


def test_coarse_shares_are_further_from_the_accounted_gaussian_than_fine_ones():
    # Below a std of 1 the shares do not sum to a discrete Gaussian, and the second term shows.
    total = np.convolve(masses(0.6), masses(0.6))
    std = math.sqrt(2 * 0.6**2 - 1 / 12)
    edges = (np.arange(len(total) + 1) - len(total) / 2) / std
    found = 0.5 * np.abs(total - np.diff(stats.norm.cdf(edges))).sum()
    assert 1 / (1000 * (2 * 0.6**2) ** 2) < found <= sum_distance(0.6, 2)


@pytest.mark.parametrize(
    "change",
    [
        {"shares": 0},
        {"clip_norm": 0.0},
        {"clip_norm": -1.0},
        {"clip_norm": math.nan},
        {"noise_multiplier": 0.0},
        {"noise_multiplier": math.nan},
        {"dimension": 0},
        {"noise_multiplier": 1e6},
    ],
    ids=str,
)
def test_an_impossible_grid_is_refused(change):
    with pytest.raises(ValueError, match=r"."):
        Grid(**{"clip_norm": 1.0, "noise_multiplier": 1.0, "dimension": 1, **change})


def test_a_sum_beyond_every_integer_does_not_wrap_round():
    grid = Grid(clip_norm=1.0, noise_multiplier=1.0, dimension=2)
    for huge in (1e17, 1e300):
        low, high = grid.release(np.array([-huge, huge]), Randomness.seeded(1))
        assert low < -1e12
        assert high > 1e12
