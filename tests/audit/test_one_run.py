"""The one-run audit: definitions, exact error rates, and the f-DP form against a linear program."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, linprog
from scipy.special import expit
from scipy.stats import binom, norm

from dp_risk.audit.bounds import gaussian_epsilon
from dp_risk.audit.one_run import (
    best_guesses,
    guess,
    one_run,
    one_run_fdp,
    one_run_results,
)

both = pytest.mark.parametrize("bound", [one_run, one_run_fdp])
TERMS = {"delta": 1e-5, "confidence": 0.95}


def p_value(correct, guesses, canaries, epsilon, delta):
    """Theorem 5.2 of Steinke et al., term by term."""
    law = binom(guesses, expit(epsilon))
    beta = law.sf(correct - 1)
    alpha = max((law.sf(correct - i - 1) - beta) / i for i in range(1, correct + 1))
    return min(1.0, beta + 2 * canaries * delta * alpha)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 80), st.floats(0.5, 1), st.integers(0, 100), st.sampled_from([0, 1e-6, 1e-3]))
def test_it_is_the_epsilon_at_which_the_p_value_crosses_the_level(guesses, part, silent, delta):
    correct, canaries = math.ceil(part * guesses), guesses + silent
    epsilon = one_run(correct, guesses, canaries, delta=delta, confidence=0.95)
    if epsilon:
        assert p_value(correct, guesses, canaries, epsilon, delta) < 0.05 * (1 + 1e-9)
    assert p_value(correct, guesses, canaries, epsilon + 2e-4, delta) >= 0.05 * (1 - 1e-9)


@pytest.mark.parametrize("canaries", [10, 1000])
def test_a_perfect_attack_without_delta_in_closed_form(canaries):
    right = 0.05 ** (1 / canaries)
    found = one_run(canaries, canaries, canaries, delta=0.0, confidence=0.95)
    assert found == pytest.approx(math.log(right / (1 - right)), abs=1e-3)


@pytest.mark.parametrize(
    ("bound", "confidence", "ceiling"),
    [
        (one_run, 0.95, 5.78),
        (one_run, 0.999, 4.27),
        (one_run_fdp, 0.95, 12.33),
        (one_run_fdp, 0.999, 7.63),
    ],
)
def test_what_a_perfect_attack_on_1000_canaries_certifies(bound, confidence, ceiling):
    found = bound(1000, 1000, 1000, delta=1e-5, confidence=confidence)
    assert found == pytest.approx(ceiling, abs=0.01)


@both
@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.floats(0, 1), st.integers(0, 300))
def test_more_evidence_certifies_more(bound, guesses, part, silent):
    correct, canaries = int(part * guesses), guesses + silent

    def value(right=correct, **changes):
        return bound(right, guesses, canaries, **(TERMS | changes))

    assert 0 <= value() <= value(min(correct + 1, guesses)) <= value(guesses)
    assert value(confidence=0.999) <= value()
    assert value(delta=1e-3) <= value() + 1e-3


@both
def test_guesses_at_random_certify_nothing(bound):
    assert bound(0, 0, 0, **TERMS) == 0
    assert bound(0, 50, 100, **TERMS) == 0
    assert bound(50, 100, 100, **TERMS) == 0
    assert bound(90, 100, 100, **TERMS) > 1


@both
@pytest.mark.parametrize(
    ("correct", "guesses", "canaries", "changes"),
    [
        (-1, 5, 5, {}),
        (6, 5, 5, {}),
        (1, 6, 5, {}),
        (1, 1, 1, {"delta": 1.0}),
        (1, 1, 1, {"confidence": 1.0}),
    ],
)
def test_counts_and_terms_out_of_range_are_refused(bound, correct, guesses, canaries, changes):
    with pytest.raises(ValueError, match=r"at most|must lie"):
        bound(correct, guesses, canaries, **(TERMS | changes))


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("level", [0.05, 0.001])
def test_randomized_response_exceeds_the_bound_exactly_as_often_as_it_may(epsilon, level):
    """Against it the bound is tight: one count more in the tail would break the level."""
    canaries, law = 400, binom(400, expit(epsilon))
    terms = {"delta": 0.0, "confidence": 1 - level}
    first = next(
        v for v in range(canaries + 1) if one_run(v, canaries, canaries, **terms) > epsilon
    )
    assert law.sf(first - 1) <= level < law.sf(first - 2)


def likeliest(correct, guesses, canaries, mu):
    """Maximise P[at least `correct` right] over all laws of the count that mu-GDP allows.

    Its rules are convex; tangents of them make a linear program that allows a little more.
    """
    counts = np.arange(guesses + 1)
    rows, limits = [], []
    touch = np.concatenate([np.geomspace(1e-5, 0.05, 40), np.linspace(0.06, 0.999, 60)])
    value = norm.cdf(norm.ppf(touch) - mu)
    slope = np.exp(norm.logpdf(norm.ppf(touch) - mu) - norm.logpdf(norm.ppf(touch)))
    for i in range(1, guesses + 1):
        right = np.where(counts >= i, counts / canaries, 0.0)
        wrong = np.where(counts >= i - 1, (guesses - counts) / canaries, 0.0)
        for x, y, s in zip(touch, value, slope, strict=True):
            rows.append(s * right - wrong)  # y + s (right - x) <= wrong
            limits.append(s * x - y)
    goal = -(counts >= correct).astype(float)
    total = np.ones((1, guesses + 1))
    found = linprog(goal, A_ub=rows, b_ub=limits, A_eq=total, b_eq=[1.0], bounds=(0, 1))
    assert found.success
    return -found.fun


@pytest.mark.parametrize(
    ("correct", "guesses", "canaries"), [(10, 10, 10), (14, 16, 30), (20, 24, 24)]
)
def test_the_fdp_form_is_where_the_best_law_of_counts_meets_the_level(correct, guesses, canaries):
    epsilon = one_run_fdp(correct, guesses, canaries, **TERMS)
    mu = brentq(lambda m: gaussian_epsilon(m, 1e-5) - epsilon, 1e-3, 10)
    assert likeliest(correct, guesses, canaries, 0.97 * mu) < 0.05
    assert likeliest(correct, guesses, canaries, 1.03 * mu) > 0.05


def test_guesses_are_the_ends_of_the_scores():
    scores = [0.3, 9.0, -5.0, 0.1, 2.0]
    assert guess(scores, 2).tolist() == [0, 1, -1, 0, 0]
    assert guess(scores, 3).tolist() == [0, 1, -1, 0, 1]
    assert guess(scores, 5).tolist() == [1, 1, -1, -1, 1]


@given(st.lists(st.floats(-1e6, 1e6), max_size=40), st.data())
def test_every_guess_of_in_scores_above_every_guess_of_out(scores, data):
    count = data.draw(st.integers(0, len(scores)))
    guesses, scores = guess(scores, count), np.array(scores)
    assert np.sum(guesses == 1) == (count + 1) // 2
    assert np.sum(guesses == -1) == count // 2
    if count > 1:
        assert scores[guesses == 1].min() >= scores[guesses != 1].max()
        assert scores[guesses == -1].max() <= scores[guesses != -1].min()


@pytest.mark.parametrize(("scores", "count"), [([1.0], 2), ([1.0], -1), ([math.nan], 1)])
def test_scores_that_cannot_be_guessed_from_are_refused(scores, count):
    with pytest.raises(ValueError, match=r"at most|finite"):
        guess(scores, count)


@both
@settings(max_examples=30, deadline=None)
@given(st.floats(0, 60), st.integers(0, 3000))
def test_the_number_of_guesses_is_one_that_can_be_made(bound, mu, canaries):
    count = best_guesses(bound, mu, canaries, **TERMS)
    assert 0 <= count <= canaries
    assert count % 2 == 0 or count == canaries


@both
def test_the_number_of_guesses_follows_the_claim(bound):
    weak, strong = (best_guesses(bound, mu, 2000, **TERMS) for mu in (1.0, 6.0))
    assert weak < 600 < strong


@pytest.mark.parametrize("mu", [-1.0, math.nan, math.inf])
def test_a_distance_out_of_range_is_refused(mu):
    with pytest.raises(ValueError, match="finite"):
        best_guesses(one_run, mu, 10, **TERMS)


@cache
def certified(bound, correct, guesses, canaries):
    return bound(correct, guesses, canaries, **TERMS)


@both
@pytest.mark.statistical
def test_honest_gaussians_stay_below_their_epsilon_and_not_far_below(bound):
    """No more than 1 of 20 may exceed it; neither form wastes more than three quarters."""
    mu, canaries, audits = 1.0, 1000, 2000
    rng = np.random.default_rng(8)
    count = best_guesses(bound, mu, canaries, **TERMS)
    found = np.empty(audits)
    for number in range(audits):
        present = rng.random(canaries) < 0.5
        guesses = guess(rng.normal(size=canaries) + mu * present, count)
        correct = int(np.sum(guesses == np.where(present, 1, -1)))
        found[number] = certified(bound, correct, count, canaries)
    truth = gaussian_epsilon(mu, 1e-5)
    assert np.mean(found > truth) <= 0.05
    assert 0.25 * truth < found.mean() < truth


def test_the_two_results():
    rng = np.random.default_rng(5)
    present = rng.random(2000) < 0.5
    scores = rng.normal(size=2000) + 2 * present
    first, second = one_run_results(scores, present, claimed_mu=2.0, **TERMS)
    assert (first.guarantee, second.guarantee) == ("bound", "conditional")
    assert len(second.assumptions) == 2
    assert first.canaries == second.canaries == 2000
    truth = gaussian_epsilon(2.0, 1e-5)
    assert 0.2 * truth < first.epsilon_lower_bound < second.epsilon_lower_bound < truth
    for result in (first, second):
        assert result.epsilon_lower_bound < result.ceiling
        assert result.observations < 2000
    for result in one_run_results(scores, present, claimed_mu=2.0, delta=1e-5, confidence=0.999):
        assert result.confidence == 0.999
        assert result.epsilon_lower_bound < truth


def test_perfect_scores_reach_the_ceiling_and_wrong_ones_certify_nothing():
    present = np.arange(400) % 2 == 0
    for result in one_run_results(present, present, claimed_mu=3.0, **TERMS):
        assert result.epsilon_lower_bound == result.ceiling > 2
    for result in one_run_results(~present, present, claimed_mu=3.0, **TERMS):
        assert result.epsilon_lower_bound == 0


def test_no_canaries_certify_nothing():
    for result in one_run_results([], [], claimed_mu=1.0, **TERMS):
        assert result.epsilon_lower_bound == result.ceiling == 0


def test_a_score_for_each_canary():
    with pytest.raises(ValueError, match="one score for each canary"):
        one_run_results([1.0, 2.0], [True], claimed_mu=1.0, **TERMS)
