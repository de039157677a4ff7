"""The white-box bound: exact against definitions, and its error rates by simulated statistics."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as pld
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import binom, binomtest, norm

from dp_risk.audit import bounds
from dp_risk.audit.bounds import (
    LARGEST,
    clopper_pearson,
    gaussian_epsilon,
    mu_from_errors,
    mu_lower,
    white_box,
)
from dp_risk.privacy.accounting import calibrate

levels = st.sampled_from([1e-6, 1e-3, 0.025, 0.05, 0.2])


@given(st.integers(0, 200), st.integers(0, 200), levels)
def test_clopper_pearson_is_scipys_exact_interval(successes, more, level):
    trials = successes + more
    bound = clopper_pearson(successes, trials, level)
    if trials == 0:
        assert bound == 1
        return
    exact = binomtest(successes, trials, alternative="less").proportion_ci(1 - level).high
    assert bound == pytest.approx(exact, rel=1e-9)
    if more:
        assert binom.cdf(successes, trials, bound) == pytest.approx(level, rel=1e-6)


@pytest.mark.parametrize(("successes", "trials", "level"), [(-1, 5, 0.1), (6, 5, 0.1), (1, 5, 0)])
def test_clopper_pearson_refuses_counts_and_levels_out_of_range(successes, trials, level):
    with pytest.raises(ValueError, match="must lie"):
        clopper_pearson(successes, trials, level)


def test_mu_lower_counts_at_the_threshold():
    inside, outside = np.array([0.5, 0.6, 1.2, 0.1]), np.array([0.5, 0.6, -0.3, 0.0, 0.2])
    missed, false = clopper_pearson(2, 4, 0.15), clopper_pearson(1, 5, 0.15)
    expected = norm.ppf(1 - false) - norm.ppf(missed)
    assert expected < 0
    assert mu_lower(inside, outside, threshold=0.5, level=0.3) == 0
    many = mu_lower(np.tile(inside, 500), np.tile(outside, 500), threshold=0.5, level=0.3)
    missed, false = clopper_pearson(1000, 2000, 0.15), clopper_pearson(500, 2500, 0.15)
    assert many == pytest.approx(norm.ppf(1 - false) - norm.ppf(missed), rel=1e-9)


@pytest.mark.parametrize("size", [(0, 0), (0, 50), (50, 0)])
def test_nothing_seen_certifies_nothing(size):
    assert mu_lower(np.ones(size[0]), np.zeros(size[1]), threshold=0.5, level=0.05) == 0


@given(st.integers(1, 400), st.integers(1, 400), st.data(), levels)
def test_a_worse_test_certifies_less(inside, outside, data, level):
    missed = data.draw(st.integers(0, inside - 1))
    false = data.draw(st.integers(0, outside - 1))
    here = mu_from_errors(missed, inside, false, outside, level=level)
    assert mu_from_errors(missed + 1, inside, false, outside, level=level) <= here
    assert mu_from_errors(missed, inside, false + 1, outside, level=level) <= here
    assert mu_from_errors(missed, inside, false, outside, level=level / 2) <= here


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_observations_that_are_not_finite_are_refused_and_not_shown(bad):
    with pytest.raises(ValueError, match=r"^observations must be finite$"):
        mu_lower([1.0, bad], [0.0], threshold=0.5, level=0.05)
    with pytest.raises(ValueError, match=r"^observations must be finite$"):
        mu_lower([1.0], [0.0, bad], threshold=0.5, level=0.05)


def delta_of(mu, epsilon, sampling_rate):
    """Hockey-stick divergence of one step by quadrature, the worse of both directions."""

    def removed(x):
        mixed = (1 - sampling_rate) * norm.pdf(x) + sampling_rate * norm.pdf(x - mu)
        return max(0.0, mixed - math.exp(epsilon) * norm.pdf(x))

    def added(x):
        mixed = (1 - sampling_rate) * norm.pdf(x) + sampling_rate * norm.pdf(x - mu)
        return max(0.0, norm.pdf(x) - math.exp(epsilon) * mixed)

    points = list(np.linspace(-8, mu + 8, 9))
    return max(quad(f, -12, mu + 12, points=points, limit=400)[0] for f in (removed, added))


@pytest.mark.parametrize(("mu", "delta"), [(0.3, 1e-3), (1.0, 1e-5), (3.0, 1e-4)])
def test_an_unsampled_epsilon_is_exact(mu, delta):
    assert delta_of(mu, gaussian_epsilon(mu, delta), 1.0) == pytest.approx(delta, rel=1e-4)
    assert gaussian_epsilon(mu / 3, delta, steps=9) == pytest.approx(gaussian_epsilon(mu, delta))


@pytest.mark.parametrize(
    ("mu", "rate", "delta"), [(0.5, 0.3, 1e-4), (1.0, 0.1, 1e-5), (3.0, 0.02, 1e-4)]
)
def test_one_sampled_step_is_just_below_the_exact_epsilon(mu, rate, delta):
    epsilon = gaussian_epsilon(mu, delta, sampling_rate=rate, steps=1)
    assert delta_of(mu, epsilon, rate) >= delta
    assert delta_of(mu, epsilon * 1.004, rate) <= delta


def test_a_known_sampled_run():
    """PLD gives 1.828, and the Gaussian limit a wrong 1.618."""
    epsilon = gaussian_epsilon(1.0, 1e-5, sampling_rate=0.01, steps=1000)
    assert epsilon == pytest.approx(1.828, rel=4e-3)
    assert epsilon < 1.828


@settings(max_examples=20, deadline=None)
@given(
    st.floats(0.02, 8),
    st.floats(0.01, 0.95),
    st.integers(1, 1000),
    st.sampled_from([1e-4, 1e-6, 1e-8]),
)
def test_a_sampled_epsilon_never_exceeds_a_finer_one_and_misses_little(mu, rate, steps, delta):
    cell = bounds._spread(mu, rate) / (bounds._CELLS * max(2.0, mu))
    loss = pld.from_gaussian_mechanism(
        1 / mu, sampling_prob=rate, value_discretization_interval=cell / 8
    )
    finer = loss.self_compose(steps).get_epsilon_for_delta(delta)
    found = gaussian_epsilon(mu, delta, sampling_rate=rate, steps=steps)
    # What the finer one itself adds is about a 64th of what the coarser one does.
    assert found <= finer * (1 - bounds._EXCESS / 20)
    assert found >= min(finer * (1 - bounds._EXCESS) - cell / 10, LARGEST)


def test_the_optimistic_estimate_lies_below_and_further_away():
    loss = pld.from_gaussian_mechanism(
        1.0,
        sampling_prob=0.01,
        value_discretization_interval=1e-4,
        pessimistic_estimate=False,
        use_connect_dots=False,
    )
    optimistic = loss.self_compose(1000).get_epsilon_for_delta(1e-5)
    assert optimistic < gaussian_epsilon(1.0, 1e-5, sampling_rate=0.01, steps=1000)


@pytest.mark.parametrize("target", [1.0, 4.0, 8.0])
def test_it_agrees_with_the_accountant_that_makes_claims(target):
    noise = calibrate(target, 1e-5, sampling_rate=0.25, count=60)
    epsilon = gaussian_epsilon(1 / noise, 1e-5, sampling_rate=0.25, steps=60)
    assert 0.995 * target < epsilon < target


@settings(max_examples=25, deadline=None)
@given(st.floats(0.05, 4), st.floats(1.02, 2), st.floats(0.02, 1), st.integers(1, 200))
def test_epsilon_grows_with_mu(mu, factor, rate, steps):
    def cost(value):
        return gaussian_epsilon(value, 1e-5, sampling_rate=rate, steps=steps)

    assert cost(mu) <= cost(mu * factor)
    assert cost(mu) in (0, LARGEST) or cost(mu) < cost(mu * factor)


def test_the_ends_of_mu():
    assert gaussian_epsilon(0.0, 1e-5, sampling_rate=0.1, steps=10) == 0
    assert gaussian_epsilon(math.inf, 1e-5, sampling_rate=0.1, steps=10) == LARGEST
    assert gaussian_epsilon(1e-7, 1e-5) == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"mu": -1.0},
        {"mu": math.nan},
        {"delta": 0.0},
        {"delta": 1.0},
        {"sampling_rate": 0.0},
        {"sampling_rate": 1.1},
        {"steps": 0},
    ],
)
def test_an_epsilon_out_of_range_is_refused(changes):
    arguments = {"mu": 1.0, "delta": 1e-5, "sampling_rate": 0.5, "steps": 2} | changes
    with pytest.raises(ValueError, match="must"):
        gaussian_epsilon(**arguments)


RUN = {"sampling_rate": 0.25, "steps": 60, "delta": 1e-5}


def test_the_white_box_audit_of_a_gaussian():
    rng = np.random.default_rng(4)
    mu = 0.4
    inside = 1 + rng.normal(size=5000) / mu
    outside = rng.normal(size=35000) / mu
    found = white_box(inside, outside, canaries=40, confidence=0.95, **RUN)
    result = found.result
    truth = gaussian_epsilon(mu, 1e-5, sampling_rate=0.25, steps=60)
    assert result.epsilon_lower_bound == gaussian_epsilon(found.mu_lower, **RUN)
    assert 0.8 * truth < result.epsilon_lower_bound < truth < result.ceiling
    assert (result.canaries, result.observations, result.confidence) == (40, 40000, 0.95)
    assert result.guarantee == "conditional"
    assert {"noise_shape", "noise_independence", "sampler"} <= {
        word.strip(").") for line in result.assumptions for word in line.split()
    }


def test_perfect_separation_reaches_the_ceiling():
    found = white_box(np.ones(300), np.zeros(900), canaries=3, confidence=0.95, **RUN)
    assert found.result.epsilon_lower_bound == found.result.ceiling > 10


def exceeds(rng, audits, *, mu, inside, outside, level):
    """Return how many simulated audits of an honest Gaussian certify more than its mu."""
    error = norm.cdf(-mu / 2)
    missed, false = rng.binomial(inside, error, audits), rng.binomial(outside, error, audits)
    return int(np.sum(mu_from_errors(missed, inside, false, outside, level=level) > mu))


@pytest.mark.statistical
@pytest.mark.parametrize("outside", [2000, 14000])
def test_the_bound_exceeds_the_truth_no_more_and_not_much_less_than_it_may(outside):
    """Two half levels give less than their sum: exact by enumeration, and above 1 in 1,000."""
    mu, inside, level, audits = 0.4, 2000, 0.05, 50_000
    error = norm.cdf(-mu / 2)
    near = [np.arange(*binom.interval(1 - 1e-12, n, error)).astype(int) for n in (inside, outside)]
    over = mu_from_errors(near[0][:, None], inside, near[1], outside, level=level) > mu
    chance = float(binom.pmf(near[0], inside, error) @ over @ binom.pmf(near[1], outside, error))
    assert level / 50 < chance < level
    found = exceeds(
        np.random.default_rng(11), audits, mu=mu, inside=inside, outside=outside, level=level
    )
    low, high = binom.ppf([1e-8, 1 - 1e-8], audits, chance)
    assert low <= found <= high


@pytest.mark.statistical
@pytest.mark.parametrize("mu", [0.13, 0.43, 0.71])
def test_the_gate_raises_fewer_than_one_false_alarm_in_500(mu):
    """At 1e-3 and over 20,000 audits, 40 alarms would be one in 500; a double mu always alarms."""
    rng, audits = np.random.default_rng(12), 20_000
    size = {"inside": 4000, "outside": 28_000, "level": 1e-3}
    assert exceeds(rng, audits, mu=mu, **size) < audits / 500
    error = norm.cdf(-mu)
    missed, false = rng.binomial(4000, error, audits), rng.binomial(28_000, error, audits)
    alarms = mu_from_errors(missed, 4000, false, 28_000, level=1e-3) > mu
    assert alarms.mean() > 0.95
