from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from dp_risk.audit.independence import noise_independence
from dp_risk.audit.noise import (
    Residuals,
    noise_grid,
    noise_shape,
    noise_std,
    planned_std,
    planned_step,
)
from dp_risk.privacy.noise import Grid, discrete_gaussian
from dp_risk.privacy.randomness import Randomness
from dp_risk.privacy.shares import ShareGrid

CHECKS = [noise_std, noise_independence, noise_shape]
SHAPE = (3, 20, 200)
STD = 2.5


def noise(seed=1, shape=SHAPE):
    return np.random.default_rng(seed).normal(size=shape)


def group(values, *, centred=False, name="training"):
    values = values * STD
    if centred:
        values = values - values.mean(axis=1, keepdims=True)
    return Residuals(name=name, values=values, std=STD, centred=centred)


@pytest.mark.statistical
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("shape", [(2, 5, 10), (1, 3, 40), (4, 2, 8), (1, 12, 1), (2, 9, 2)])
def test_honest_noise_fails_as_often_as_stated(check, shape, centred):
    # At level .05 in 150 runs; never more than a binomial bound of 1e-7 allows.
    runs, level = 150, 0.05
    failed = sum(
        not check([group(noise((seed, 7), shape), centred=centred)], alpha=level).passed
        for seed in range(runs)
    )
    assert failed <= stats.binom.isf(1e-7, runs, level)


@pytest.mark.statistical
@pytest.mark.parametrize(("check", "least"), list(zip(CHECKS, (0.01, 0.01, 0.005), strict=True)))
def test_checks_are_not_far_below_their_level(check, least):
    runs = 600
    failed = sum(
        not check([group(noise((seed, 8), (2, 10, 20)))], alpha=0.05).passed for seed in range(runs)
    )
    assert least * runs <= failed <= stats.binom.isf(1e-7, runs, 0.05)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("check", CHECKS)
def test_honest_groups_pass(check, centred):
    groups = [
        group(noise(2), centred=centred),
        group(noise(3, (3, 2, 30)), name="evaluation"),
        group(noise(4, (3, 1, 1)), name="counts"),
    ]
    assert check(groups).passed


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("shape", [(1, 400, 1), (2, 50, 2), (3, 10, 40)])
def test_the_grid_of_real_noise_is_invisible(check, shape):
    draws = discrete_gaussian(20, int(np.prod(shape)), Randomness.seeded(4)) / 2.0**20
    assert check([group(draws.reshape(shape))]).passed


def missing_block(x):
    x[:, :, 50:70] = 0
    return x


def noiseless_round(x):
    x[1, 4] = 0
    return x


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize(
    "defect",
    [lambda x: 0.9 * x, lambda x: 1.1 * x, missing_block, noiseless_round],
    ids=["small", "large", "block", "round"],
)
def test_wrong_sizes_are_caught(defect, centred):
    assert not noise_std([group(defect(noise()), centred=centred)]).passed


@pytest.mark.parametrize("centred", [False, True])
def test_noiseless_rounds_are_counted(centred):
    x = noise(1, (2, 40, 200))
    x[0, [3, 9]] = 0
    assert noise_std([group(x, centred=centred)]).figure.startswith("2 rounds with less than half")


def test_a_weak_group_hides_behind_no_strong_one():
    check = noise_std([group(noise(2)), group(0.5 * noise(3), name="evaluation")])
    assert not check.passed
    assert "evaluation" in check.figure


def equal_rounds(a, b):
    def defect(x):
        x[1, b] = x[1, a]
        return x

    return defect


def equal_sites(x):
    x[2] = x[0]
    return x


def shifted_site(x):
    x[2, 5] = x[0, 1]
    return x


def opposite_rounds(x):
    x[0, 3] = -x[0, 11]
    return x


def autoregressive(x):
    for r in range(1, x.shape[1]):
        x[:, r] = 0.2 * x[:, r - 1] + np.sqrt(1 - 0.04) * x[:, r]
    return x


def smooth(x):
    return (x + np.roll(x, 1, axis=2)) / np.sqrt(2)


def tiled(x):
    x[..., 100:] = x[..., :100]
    return x


def common_part(x):
    return np.sqrt(0.95) * x + np.sqrt(0.05) * x[:1]


DEPENDENT = {
    "neighbouring rounds": equal_rounds(5, 6),
    "the first rounds": equal_rounds(0, 1),
    "distant rounds": equal_rounds(0, 19),
    "sites": equal_sites,
    "sites in two rounds": shifted_site,
    "opposite": opposite_rounds,
    "autoregressive": autoregressive,
    "smooth": smooth,
    "tiled": tiled,
    "common part": common_part,
}


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("defect", DEPENDENT.values(), ids=DEPENDENT.keys())
def test_dependence_is_caught(defect, centred):
    assert not noise_independence([group(defect(noise()), centred=centred)]).passed


def test_one_seed_for_two_purposes_is_caught():
    x = noise()
    groups = [group(x), group(2 * x[:, :5, :60], name="evaluation")]
    check = noise_independence(groups)
    assert not check.passed
    assert "evaluation" in check.figure


def test_short_vectors_that_repeat_are_caught():
    x = noise(3, (2, 6, 4))
    x[1, 2] = x[0, 5]
    check = noise_independence([group(x)])
    assert not check.passed
    assert "1 of 12 noise vectors repeat" in check.figure


def test_shares_that_cancel_are_caught():
    x = noise(3, (2, 30, 100))
    x = x - 0.3 * x.mean(axis=0)
    check = noise_independence([group(x)])
    assert not check.passed


def truncated(rng, shape):
    return stats.truncnorm.rvs(-3, 3, size=shape, random_state=rng) / stats.truncnorm.std(-3, 3)


SHAPES = {
    "laplace": lambda rng, shape: rng.laplace(scale=np.sqrt(0.5), size=shape),
    "uniform": lambda rng, shape: rng.uniform(-np.sqrt(3), np.sqrt(3), size=shape),
    "truncated": truncated,
    "coarse grid": lambda rng, shape: np.rint(rng.normal(size=shape) * 4) / 4,
    "some zeros": lambda rng, shape: rng.normal(size=shape) * (rng.random(shape) > 0.01),
}


@pytest.mark.parametrize("draw", SHAPES.values(), ids=SHAPES.keys())
def test_other_laws_are_caught(draw):
    values = draw(np.random.default_rng(5), (5, 20, 200))
    assert not noise_shape([group(values)]).passed


@pytest.mark.parametrize("name", ["laplace", "uniform"])
def test_other_laws_are_caught_behind_an_unknown_mean(name):
    values = SHAPES[name](np.random.default_rng(5), (5, 40, 1000))
    assert not noise_shape([group(values, centred=True)]).passed


def test_one_far_draw_is_caught():
    x = noise()
    x[0, 0, 0] = 12
    check = noise_shape([group(x)])
    assert not check.passed


@pytest.mark.parametrize("check", CHECKS)
def test_nothing_seen_fails_and_too_little_is_said(check):
    assert not check([]).passed
    assert not check([group(np.empty((3, 0, 5)))]).passed
    assert not check([group(noise(1, (3, 1, 5)), centred=True)]).passed
    assert check([group(noise(1, (1, 1, 3)))]).passed
    if check is not noise_independence:
        assert check([group(noise(1, (1, 1, 3)))]).figure.startswith("not tested")


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_fail(check, value):
    x = noise()
    x[0, 0, 0] = value
    assert not check([group(x)]).passed


@pytest.mark.parametrize(("shape", "std"), [((3, 4), 1.0), ((1, 2, 3), 0.0), ((1, 2, 3), np.nan)])
def test_wrong_residuals_are_refused(shape, std):
    with pytest.raises(ValueError, match=r"residuals|standard deviation"):
        Residuals(name="x", values=np.zeros(shape), std=std)


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float64, hnp.array_shapes(min_dims=3, max_dims=3, min_side=0, max_side=12)),
    st.booleans(),
    st.floats(1e-300, 1e300),
)
def test_any_input_gets_an_answer(values, centred, std):
    for check in CHECKS:
        found = check([Residuals(name="x", values=values, std=std, centred=centred)])
        assert "\n" not in found.figure


def test_values_on_the_grid_hold_and_floats_do_not() -> None:
    rng, step = np.random.default_rng(5), 0.03125
    steps = rng.integers(-(2**30), 2**30, (2, 3, 50))
    on = Residuals(name="sums", values=steps * step, std=1.0, step=step)
    assert noise_grid([on]).passed
    off = Residuals(name="sums", values=rng.normal(size=(2, 3, 50)), std=1.0, step=step)
    found = noise_grid([on, off])
    assert not found.passed
    assert "of 600" in found.figure
    changed = Residuals(name="sums", values=rng.normal(size=(2, 3, 50)), std=1.0)
    assert not noise_grid([changed]).passed


@pytest.mark.parametrize("dimension", [1, 58, 40_000])
@pytest.mark.parametrize("noise", [0.3, 20.0, 300.0])
@pytest.mark.parametrize("shares", [1, 9])
def test_the_planned_grid_is_that_of_the_product(dimension: int, noise: float, shares: int) -> None:
    grid = Grid(clip_norm=2.0, noise_multiplier=noise, dimension=dimension)
    if shares == 1:
        assert planned_step(2.0, noise, dimension)[0] == pytest.approx(grid.step, rel=1e-12)
        assert planned_std(2.0, noise, dimension) == pytest.approx(grid.std, rel=1e-12)
    else:
        shared = ShareGrid(
            clip_norm=2.0, noise_multiplier=noise, dimension=dimension, participants=shares + 1,
            max_colluding=1, units=1000,
        )  # fmt: skip
        found = planned_std(2.0, noise, dimension, shares=shares)
        assert found == pytest.approx(shared.accounted_std, rel=1e-9)
    assert planned_std(2.0, noise, dimension, shares=shares) >= 2.0 * noise
