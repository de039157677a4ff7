from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit
from sklearn.metrics import average_precision_score, roc_auc_score

from dp_risk.evaluation.subgroups import (
    GROUP_METRICS,
    MIN_OF_A_LABEL,
    MIN_UNITS,
    evaluate_group,
    review_threshold,
)
from dp_risk.types import ConfigurationError

RATES = ("flagged_rate", "true_positive_rate", "false_positive_rate")


def rows(positives: int, negatives: int, seed: int = 0, apart: float = 1.0):
    rng = np.random.default_rng(seed)
    labels = np.repeat([1.0, 0.0], [positives, negatives])
    return labels, expit(rng.normal(size=len(labels)) + apart * labels - 1)


def test_the_figures_are_those_of_scikit_learn_and_scipy() -> None:
    labels, scores = rows(40, 160)
    found = evaluate_group(labels, scores, threshold=0.5)
    assert (found.units, found.positives, found.reason) == (200, 40, None)
    assert set(found.metrics) == set(GROUP_METRICS)
    assert found.metrics["auroc"].value == pytest.approx(roc_auc_score(labels, scores))
    assert found.metrics["auprc"].value == pytest.approx(average_precision_score(labels, scores))
    gap = scores - labels
    low, high = stats.t.interval(0.95, 199, gap.mean(), stats.sem(gap))
    bounds = (found.metrics["calibration_gap"].low, found.metrics["calibration_gap"].high)
    assert bounds == pytest.approx((low, high))
    for name, chosen in zip(RATES, (labels >= 0, labels == 1, labels == 0), strict=True):
        hits = int((scores[chosen] >= 0.5).sum())
        exact = stats.binomtest(hits, int(chosen.sum()))
        interval = exact.proportion_ci(0.95, method="exact")
        estimate = found.metrics[name]
        assert estimate.value == hits / chosen.sum()
        assert (estimate.low, estimate.high) == pytest.approx(tuple(interval))


def test_nobody_flagged_is_not_certainty() -> None:
    labels, scores = rows(40, 40)
    none = evaluate_group(labels, scores, threshold=1.0).metrics["true_positive_rate"]
    assert (none.value, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 40))
    everybody = evaluate_group(labels, scores, threshold=0.0).metrics["true_positive_rate"]
    assert (everybody.value, everybody.high) == (1.0, 1.0)
    assert everybody.low == pytest.approx(0.025 ** (1 / 40))


@pytest.mark.parametrize(
    ("positives", "negatives", "reason", "known"),
    [
        (0, 0, "few_units", ()),
        (10, 9, "few_units", ()),
        (0, 20, "one_label", ("flagged_rate", "false_positive_rate")),
        (20, 0, "one_label", ("flagged_rate", "true_positive_rate")),
        (29, 400, "few_positives", RATES),
        (400, 29, "few_negatives", RATES),
        (10, 10, "few_positives", RATES),
        (30, 30, None, GROUP_METRICS),
    ],
)
def test_a_group_says_what_it_lacks_and_why(
    positives: int, negatives: int, reason: str | None, known: tuple[str, ...]
) -> None:
    found = evaluate_group(*rows(positives, negatives), threshold=0.5, bootstrap=20)
    assert found.reason == reason
    assert {n for n, e in found.metrics.items() if not math.isnan(e.value)} == set(known)
    for name in set(GROUP_METRICS) - set(known):
        assert set(found.metrics[name].to_dict().values()) == {None}


@given(
    labels=st.lists(st.sampled_from([0.0, 1.0]), max_size=150),
    data=st.data(),
    threshold=st.floats(0, 1),
)
@settings(deadline=None, max_examples=80)
def test_no_rows_break_it_and_intervals_hold_their_value(
    labels: list[float], data: st.DataObject, threshold: float
) -> None:
    n = len(labels)
    drawn = data.draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))  # many ties
    scores = np.array(drawn, dtype=float) / 4
    found = evaluate_group(labels, scores, threshold=threshold, bootstrap=10)
    assert (found.units, found.positives) == (n, sum(labels))
    small = min(sum(labels), n - sum(labels))
    assert (found.reason is None) == (n >= MIN_UNITS and small >= MIN_OF_A_LABEL)
    for estimate in found.metrics.values():
        assert math.isnan(estimate.value) or estimate.low <= estimate.value <= estimate.high


def test_the_intervals_repeat_with_the_seed() -> None:
    labels, scores = rows(50, 50)
    once, again, other = (
        evaluate_group(labels, scores, threshold=0.5, seed=seed) for seed in (1, 1, 2)
    )
    assert once == again
    assert once.metrics["auroc"] != other.metrics["auroc"]


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, 1]])
def test_rows_that_are_no_rows_are_refused(labels: list[int]) -> None:
    with pytest.raises(ConfigurationError):
        evaluate_group(labels, [0.1, 0.2, 0.3], threshold=0.5)


@given(
    scores=st.lists(st.integers(0, 20), min_size=1, max_size=200),
    capacity=st.floats(0.001, 0.999),
)
def test_the_threshold_is_reached_by_the_capacity_and_no_fewer(
    scores: list[int], capacity: float
) -> None:
    ranked = np.array(scores) / 20
    threshold = review_threshold(ranked, capacity)
    room = math.ceil(capacity * len(ranked))
    assert (ranked >= threshold).sum() >= room
    assert (ranked > threshold).sum() < room


@pytest.mark.parametrize(("scores", "capacity"), [([], 0.1), ([0.5], 0.0), ([0.5], 1.0)])
def test_a_threshold_of_nothing_is_refused(scores: list[float], capacity: float) -> None:
    with pytest.raises(ConfigurationError):
        review_threshold(scores, capacity)


@pytest.mark.parametrize("apart", [1.0, 2.0])
def test_intervals_of_the_smallest_groups_cover(apart: float) -> None:
    labels, scores = rows(20_000, 200_000, seed=9, apart=apart)
    truth = {
        "auroc": roc_auc_score(labels, scores),
        "auprc": average_precision_score(labels, scores),  # of one positive in eleven, as below
        "true_positive_rate": (scores[labels == 1] >= 0.5).mean(),
    }
    repeats, hits = 300, dict.fromkeys(truth, 0)
    for seed in range(repeats):
        sample = rows(MIN_OF_A_LABEL, 10 * MIN_OF_A_LABEL, seed=seed, apart=apart)
        found = evaluate_group(*sample, threshold=0.5, seed=seed).metrics
        for name, value in truth.items():
            hits[name] += found[name].low <= value <= found[name].high
    # 95 % less what a bootstrap of so few loses, and three standard deviations of the count.
    assert all(count >= 0.86 * repeats for count in hits.values()), hits
