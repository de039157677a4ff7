"""The membership attack's statistics: definitions, intervals, and attacks with a known answer."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from dp_risk.audit.membership import (
    ASSUMPTIONS,
    counts_epsilon,
    curve,
    interval,
    judge,
    ratios,
    result,
    rmia,
    threshold,
)

TERMS = {"delta": 1e-5, "confidence": 0.95}
logs = st.floats(-30, 0)
scores = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=2, max_size=40)


@given(st.lists(st.tuples(logs, logs, logs), max_size=20))
def test_a_ratio_is_that_of_the_probability_to_the_mean_of_the_references(rows):
    target, *references = np.array(rows).reshape(-1, 3).T
    found = ratios(target, references)
    mean = np.mean(np.exp(references), axis=0)
    np.testing.assert_allclose(np.exp(found), np.exp(target) / mean, rtol=1e-9)


@pytest.mark.parametrize(
    ("target", "references"),
    [([-1.0], []), ([-1.0], [-1.0]), ([-1.0], [[-1.0, -1.0]]), ([math.nan], [[-1.0]]),
     ([-1.0], [[-math.inf]])],
)  # fmt: skip
def test_what_gives_no_ratio_is_refused(target, references):
    with pytest.raises(ValueError, match="must"):
        ratios(target, references)


@given(scores, scores)
def test_a_score_is_the_part_of_the_population_that_is_dominated(units, population):
    found = rmia(units, population)
    for score, unit in zip(found, units, strict=True):
        wins = [1.0 if unit > z else 0.5 if unit == z else 0.0 for z in population]
        assert score == pytest.approx(np.mean(wins))


def test_no_population_no_score():
    with pytest.raises(ValueError, match="population"):
        rmia([0.1], [])


@given(scores, scores)
def test_the_curve_counts_what_is_above(members, others):
    right, wrong = curve(members, others)
    cuts = [math.inf, *sorted({*members, *others}, reverse=True)]
    assert right.tolist() == [sum(s >= cut for s in members) for cut in cuts]
    assert wrong.tolist() == [sum(s >= cut for s in others) for cut in cuts]


@given(scores, scores)
def test_what_is_judged_is_in_order_and_plain_json(members, others):
    found = judge(members, others, **TERMS)
    wins = np.subtract.outer(members, others)
    assert found.auc == pytest.approx(np.mean((wins > 0) + 0.5 * (wins == 0)))
    assert 0 <= found.auc_low <= found.auc <= found.auc_high <= 1
    for at in found.at:
        allowed = [c for c in [math.inf, *others, *members]
                   if np.mean(np.array(others) >= c) <= at.rate]  # fmt: skip
        assert at.true_positive == max(np.mean(np.array(members) >= c) for c in allowed)
        assert at.low <= at.true_positive <= at.high
    assert found.false_positive == sorted(found.false_positive)
    assert found.true_positive == sorted(found.true_positive)
    assert (found.false_positive[-1], found.true_positive[-1]) == (1.0, 1.0)
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()


@pytest.mark.parametrize(
    ("members", "others"), [([0.1], [0.1, 0.2]), ([0.1, 0.2], []), ([0.1, math.nan], [0.1, 0.2])]
)
def test_too_few_or_broken_scores_are_refused(members, others):
    with pytest.raises(ValueError, match=r"at least two|finite"):
        judge(members, others, **TERMS)


@given(st.integers(0, 300), st.integers(0, 300), st.sampled_from([0.9, 0.95, 0.999]))
def test_intervals_are_scipys(found, more, confidence):
    if found + more:
        exact = binomtest(found, found + more).proportion_ci(confidence)
        ours = interval(found, found + more, confidence=confidence)
        assert ours == pytest.approx((exact.low, exact.high), abs=1e-9)


@pytest.mark.statistical
def test_a_gaussian_attack_is_judged_as_it_is():
    """Within 5.2 standard errors: false alarms below 1e-6 together, by binomial and beta."""
    rng, n, mu = np.random.default_rng(3), 40_000, 1.0
    found = judge(rng.normal(size=n) + mu, rng.normal(size=n), **TERMS)
    area = norm.cdf(mu / math.sqrt(2))
    error = (found.auc_high - found.auc_low) / (2 * norm.ppf(0.975))
    assert abs(found.auc - area) < 5.2 * error
    assert error < 0.01
    for at in found.at:
        cut = norm.isf(at.rate)
        truth = norm.sf(cut - mu)
        # The threshold is a quantile of the others: its own error counts as well.
        slope = norm.pdf(cut - mu) / norm.pdf(cut)
        spread = math.sqrt(truth * (1 - truth) / n + slope**2 * at.rate * (1 - at.rate) / n)
        assert abs(at.true_positive - truth) < 5.2 * spread + 3 / n * slope
        assert at.epsilon == pytest.approx(math.log((at.true_positive - 1e-5) / at.rate))


@pytest.mark.statistical
def test_an_area_of_chance_lies_in_its_interval_as_often_as_it_should():
    """3,000 null attacks: binomial, so 5 standard errors are a false alarm in 1.7 million."""
    rng, rounds = np.random.default_rng(4), 3000
    inside = 0
    for _ in range(rounds):
        found = judge(rng.normal(size=150), rng.normal(size=200), **TERMS)
        inside += found.auc_low <= 0.5 <= found.auc_high
    # At these sizes the interval's coverage itself is within a hundredth of .95.
    assert abs(inside / rounds - 0.95) < 0.01 + 5 * math.sqrt(0.95 * 0.05 / rounds)


def test_counts_of_nothing_and_of_all():
    sizes = {"delta": 1e-5, "level": 0.05}
    assert counts_epsilon(0, 0, 0, 0, **sizes) == 0
    assert counts_epsilon(10, 1000, 10, 1000, **sizes) == 0
    assert counts_epsilon(0, 1000, 500, 1000, **sizes) == 0
    assert counts_epsilon(1000, 1000, 0, 1000, **sizes) > 5


@given(st.integers(0, 99), st.integers(1, 100))
def test_better_counts_certify_more(found, false):
    def bound(right, wrong, delta=1e-5, level=0.05):
        return counts_epsilon(right, 100, wrong, 100, delta=delta, level=level)

    here = bound(found, false)
    assert here <= bound(found + 1, false)
    assert here <= bound(found, false - 1)
    assert bound(found, false, delta=0.1) <= here
    assert bound(found, false, level=0.001) <= here


def test_the_threshold_is_exceeded_by_a_hundredth_of_the_references_others():
    parts = [np.arange(500.0), np.arange(500.0, 1000.0)]
    at = threshold(parts)
    assert np.sum(np.concatenate(parts) > at) == 9  # at most a hundredth
    assert threshold([np.zeros(10)]) == 0


def test_the_result_is_a_heuristic_with_its_ceiling():
    found = result(np.ones(300), np.zeros(400), at=0.5, **TERMS)
    assert found.guarantee == "heuristic"
    assert found.epsilon_lower_bound == found.ceiling > 3
    assert (found.canaries, found.observations) == (300, 700)
    assert found.assumptions == ASSUMPTIONS
    assert result(np.zeros(300), np.ones(400), at=0.5, **TERMS).epsilon_lower_bound == 0
    # A score at the threshold is not above it.
    assert result(np.ones(300), np.zeros(400), at=1.0, **TERMS).epsilon_lower_bound == 0
