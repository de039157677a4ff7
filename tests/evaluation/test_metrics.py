from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    roc_auc_score,
    roc_curve,
)

from dp_risk.evaluation.metrics import METRICS, Estimate, auprc, auroc, evaluate
from dp_risk.types import ConfigurationError


@st.composite
def two_classes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    n = draw(st.integers(2, 60))
    labels = draw(
        st.lists(st.integers(0, 1), min_size=n, max_size=n).filter(lambda v: len(set(v)) == 2)
    )
    grid = draw(st.sampled_from([2, 5, 1000]))  # coarse grids make ties
    scores = draw(st.lists(st.integers(0, grid), min_size=n, max_size=n))
    return np.array(labels), np.array(scores) / grid


@given(two_classes())
@settings(max_examples=150, deadline=None)
def test_metrics_agree_with_scikit_learn(rows: tuple[np.ndarray, np.ndarray]) -> None:
    labels, scores = rows
    assert auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))
    assert auprc(labels, scores) == pytest.approx(average_precision_score(labels, scores))
    result = evaluate(labels, scores, bootstrap=0)
    assert result["brier"].value == pytest.approx(brier_score_loss(labels, scores))
    false_rate, recall, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert result["recall_at_fpr_1pct"].value == pytest.approx(recall[false_rate <= 0.01].max())


@given(two_classes(), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_intervals_hold_their_value(rows: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    for estimate in evaluate(*rows, bootstrap=20, seed=seed).values():
        assert 0.0 <= estimate.low <= estimate.value <= estimate.high <= 1.0 + 1e-12


@given(two_classes())
@settings(max_examples=60, deadline=None)
def test_metrics_ignore_the_order_of_rows(rows: tuple[np.ndarray, np.ndarray]) -> None:
    labels, scores = rows
    forward = evaluate(labels, scores, bootstrap=0)
    backward = evaluate(labels[::-1], scores[::-1], bootstrap=0)
    for name in METRICS:
        assert forward[name].value == pytest.approx(backward[name].value)


def test_the_interval_is_about_right() -> None:
    rng = np.random.default_rng(1)
    labels = rng.random(4000) < 0.3
    scores = 1 / (1 + np.exp(-(rng.standard_normal(4000) + 1.5 * labels)))
    estimate = evaluate(labels, scores)["auroc"]
    area, pos, neg = estimate.value, labels.sum(), (~labels).sum()
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)  # Hanley and McNeil, 1982
    variance = area * (1 - area) + (pos - 1) * (q1 - area**2) + (neg - 1) * (q2 - area**2)
    expected = 2 * 1.96 * math.sqrt(variance / (pos * neg))
    assert estimate.high - estimate.low == pytest.approx(expected, rel=0.3)


def test_the_seed_fixes_the_interval() -> None:
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(2, size=200), rng.random(200)
    assert evaluate(labels, scores, seed=3) == evaluate(labels, scores, seed=3)
    assert evaluate(labels, scores, seed=3) != evaluate(labels, scores, seed=4)


def test_blocks_cover_every_resample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dp_risk.evaluation.metrics._CELLS", 700)
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(2, size=100), rng.random(100)
    assert evaluate(labels, scores)["auroc"].low < evaluate(labels, scores)["auroc"].high


def test_precision_in_the_top_counts_ties_by_their_mean() -> None:
    labels = np.r_[np.ones(1), np.zeros(3), np.zeros(196)]
    scores = np.r_[np.full(4, 0.9), np.full(196, 0.1)]
    assert evaluate(labels, scores, bootstrap=0)["precision_at_1pct"].value == pytest.approx(0.25)


def test_one_false_positive_in_a_hundred_is_one_percent() -> None:
    labels = np.r_[np.zeros(1), np.ones(5), np.zeros(99)]
    scores = np.linspace(1, 0, 105)
    assert evaluate(labels, scores, bootstrap=0)["recall_at_fpr_1pct"].value == 1.0


def test_ece_of_a_known_case() -> None:
    labels, scores = [1, 1, 0, 0], [0.9, 0.9, 0.9, 0.1]
    expected = abs(2 - 2.7) / 4 + 0.1 / 4
    assert evaluate(labels, scores, bootstrap=0)["ece"].value == pytest.approx(expected)


def test_constant_scores_know_nothing() -> None:
    labels = np.array([0, 1] * 10)
    result = evaluate(labels, np.full(20, 0.5))
    assert result["auroc"] == Estimate(value=0.5, low=0.5, high=0.5)
    assert result["auprc"].value == 0.5
    assert result["recall_at_fpr_1pct"].value == 0.0
    assert result["precision_at_1pct"].value == 0.5


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("n", [1, 7])
def test_one_class_leaves_ranking_undefined(label: int, n: int) -> None:
    result = evaluate(np.full(n, label), np.linspace(0.2, 0.8, n))
    assert math.isnan(result["auroc"].value)
    assert math.isnan(result["recall_at_fpr_1pct"].value)
    assert math.isnan(result["auprc"].value) == (label == 0)
    assert math.isfinite(result["brier"].value)
    json.dumps({name: e.to_dict() for name, e in result.items()}, allow_nan=False)


def test_no_rows() -> None:
    assert math.isnan(auroc([], []))
    assert all(math.isnan(e.value) for e in evaluate([], []).values())


@pytest.mark.parametrize(
    ("labels", "scores"),
    [
        ([0, 1], [0.5]),
        ([[0, 1]], [[0.5, 0.5]]),
        ([0, 2], [0.5, 0.5]),
        ([0, math.nan], [0.5, 0.5]),
        ([0, 1], [0.5, math.nan]),
        ([0, 1], [0.5, math.inf]),
        ([0, 1], [0.5, 1.5]),
    ],
)
def test_unusable_input_is_refused_in_one_line(labels: list[float], scores: list[float]) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        evaluate(labels, scores)
    assert "\n" not in str(refusal.value)


def test_a_negative_bootstrap_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"evaluation\.bootstrap"):
        evaluate([0, 1], [0.1, 0.9], bootstrap=-1)
