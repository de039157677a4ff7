from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_risk.privacy.noise import Grid
from dp_risk.privacy.randomness import Randomness
from dp_risk.privacy.shares import ShareGrid


def share_grid(**changes) -> ShareGrid:
    base = {
        "clip_norm": 1.0, "noise_multiplier": 1.3, "dimension": 3, "participants": 10,
        "max_colluding": 1, "units": 10_000,
    }  # fmt: skip
    return ShareGrid(**{**base, **changes})


@given(
    st.floats(1e-3, 1e3),
    st.floats(0.3, 30),
    st.integers(1, 100_000),
    st.integers(1, 300),
    st.integers(0, 50),
    st.integers(1, 100_000),
)
def test_the_shares_of_those_who_do_not_collude_cover_the_sensitivity(
    clip_norm, noise_multiplier, dimension, honest, colluding, units
):
    grid = ShareGrid(
        clip_norm=clip_norm, noise_multiplier=noise_multiplier, dimension=dimension,
        participants=honest + colluding, max_colluding=colluding, units=units,
    )  # fmt: skip
    # The bound of the design: clip norm, two roundings, and the slack of the division.
    slack = units * math.sqrt(dimension) * 2.0**-52
    sensitivity = clip_norm * (1 + slack) + grid.step * math.sqrt(dimension)
    accounted = math.sqrt(honest * (grid.share_std / grid.step) ** 2 - 1 / 12) * grid.step
    assert accounted == pytest.approx(noise_multiplier * sensitivity, rel=1e-9)
    # Rounding costs about a hundredth at most.
    assert grid.accounted_std <= noise_multiplier * clip_norm * 1.0106
    assert grid.share_std == pytest.approx(grid.accounted_std / math.sqrt(honest))
    assert grid.std == pytest.approx(grid.share_std * math.sqrt(honest + colluding))
    # The share's own standard deviation is a power of two, as the sampler needs.
    assert math.frexp(round(grid.share_std / grid.step))[0] == 0.5


@given(st.integers(1, 2_000), st.integers(1, 2_000))
def test_a_neighbour_moves_the_rounded_sum_by_no_more_than_is_covered(seed, units):
    rng = np.random.default_rng(seed)
    d = 8
    grid = share_grid(dimension=d, units=units)
    total = rng.normal(size=d)
    total *= rng.uniform(0, 1.2) * units / np.linalg.norm(total)
    change = rng.normal(size=d)
    near = total + change / np.linalg.norm(change)
    one, other = (
        grid.encode(grid.release(x, Randomness.seeded(seed))).astype(object) for x in (total, near)
    )
    moved = math.sqrt(sum((a - b) ** 2 for a, b in zip(one, other, strict=True)))
    assert moved <= (1 + units * math.sqrt(d) * 2.0**-52) / grid.step + math.sqrt(d) + 1e-9 * moved


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), st.integers(0, 2**32))
def test_a_share_comes_back_as_the_same_whole_steps(total, seed):
    grid = share_grid(dimension=len(total))
    share = grid.release(np.array(total), Randomness.seeded(seed))
    steps = grid.encode(share)
    assert steps.dtype == np.int64
    assert np.array_equal(grid.decode(steps), share)
    # One hundredth of a step beside the grid is refused.
    with pytest.raises(ValueError, match="grid points"):
        grid.encode(share + 0.01 * grid.step)


@pytest.mark.parametrize(
    "share", [[0.0] * 2, [0.0] * 4, [[0.0] * 3], [0, 0, math.nan], [0, 0, 1e9]]
)
def test_what_is_no_share_is_refused(share):
    with pytest.raises(ValueError, match="grid points"):
        share_grid().encode(np.array(share))


def test_a_sum_beyond_its_bound_is_clamped_before_noise():
    grid = share_grid(units=50)
    at = grid.release(np.array([50.0, -50.0, 0.0]), Randomness.seeded(4))
    beyond = grid.release(np.array([1e300, -51.0, 0.0]), Randomness.seeded(4))
    assert np.array_equal(at, beyond)
    assert not np.array_equal(at, grid.release(np.array([49.0, -49.0, 0.0]), Randomness.seeded(4)))


@pytest.mark.statistical
@pytest.mark.parametrize(("participants", "colluding"), [(3, 1), (10, 1), (10, 3), (40, 8)])
def test_the_noise_of_a_share_and_of_the_sum(participants, colluding):
    # Two-sided at 6 standard errors, 4 x 3 times: flake rate 2.4e-8.
    n = 40_000
    grid = share_grid(
        dimension=n, clip_norm=0.7, participants=participants, max_colluding=colluding
    )
    shares = [
        grid.release(np.zeros(n), Randomness.seeded(31, participants, colluding, site))
        for site in range(participants)
    ]
    error = 6 / math.sqrt(2 * n)
    want = 1.3 * 0.7 / math.sqrt(participants - colluding)
    assert 1 - error < np.std(shares[0]) / want < 1.0106 + error
    # What colluding sites cannot take away is what is accounted.
    honest = np.sum(shares[colluding:], axis=0)
    assert 1 - error < np.std(honest) / (1.3 * 0.7) < 1.0106 + error
    more = math.sqrt(participants / (participants - colluding))
    assert 1 - error < np.std(np.sum(shares, axis=0)) / (1.3 * 0.7 * more) < 1.0106 + error


def test_one_site_alone_has_the_grid_of_a_local_release():
    alone = share_grid(participants=1, max_colluding=0, units=1)
    local = Grid(clip_norm=1.0, noise_multiplier=1.3, dimension=3)
    assert alone.step == pytest.approx(local.step, rel=1e-12)
    assert alone.distance(5) == local.distance(5) > 0


@pytest.mark.parametrize(
    "change",
    [
        {"participants": 1},
        {"max_colluding": -1},
        {"max_colluding": 10},
        {"units": 0},
        {"noise_multiplier": 0.0},
        {"clip_norm": math.nan},
        {"dimension": 0},
        {"units": 2**45},
    ],
    ids=str,
)
def test_an_impossible_sum_is_refused(change):
    with pytest.raises(ValueError, match=r"."):
        share_grid(**change)


@given(st.integers(2, 100_000), st.floats(0.3, 30), st.integers(0, 50))
def test_64_bits_hold_every_sum_that_is_accepted(participants, noise, power):
    try:
        grid = share_grid(participants=participants, noise_multiplier=noise, units=2**power)
    except ValueError:
        # Only what is large is refused.
        assert power > 20 or participants > 20_000
        return
    assert participants * (2**power / grid.step + 12 * grid.share_std / grid.step) < 2**63
