from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binom

from dp_risk.evaluation.bins import CELLS, HIGH, LOW, Bins, choose_bins, score_cells, score_position
from dp_risk.evaluation.metrics import METRICS, evaluate
from dp_risk.evaluation.private import estimates, reliability
from dp_risk.types import ConfigurationError

KEYS = {*METRICS, "threshold", "base_rate"}


def scored(n: int, seed: int, *, shift: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and calibrated logits."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1.5, shift, n)
    return (rng.random(n) < 1 / (1 + np.exp(-logits))).astype(float), logits


def positions(logits: np.ndarray) -> np.ndarray:
    places = np.clip(score_position(logits), LOW, HIGH)
    return np.histogram(places, CELLS, (LOW, HIGH))[0].astype(float)


def counted(bins: Bins, labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    return np.bincount(score_cells(bins.edges, logits, labels), minlength=2 * len(bins)).reshape(
        2, -1
    )


def exact(labels: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    result = evaluate(labels, 1 / (1 + np.exp(-logits)), bootstrap=0)
    return {name: estimate.value for name, estimate in result.items()}


def test_without_noise_the_estimates_are_nearly_exact() -> None:
    labels, logits = scored(20_000, 0)
    bins = choose_bins(positions(logits), 0.0)
    found = estimates(counted(bins, labels, logits), bins, noise_std=0.0)
    for name, value in exact(labels, logits).items():
        assert found[name].value == pytest.approx(value, abs=0.02), name
    assert found["auroc"].value == pytest.approx(exact(labels, logits)["auroc"], abs=1e-3)
    assert found["brier"].value == pytest.approx(exact(labels, logits)["brier"], abs=1e-3)
    assert found["base_rate"].value == pytest.approx(labels.mean(), abs=1e-3)
    top = np.quantile(1 / (1 + np.exp(-logits)), 0.99)
    assert found["threshold"].low <= top <= found["threshold"].high
    assert found["threshold"].value == pytest.approx(top, abs=0.02)


def test_a_larger_capacity_has_a_lower_threshold_and_precision() -> None:
    labels, logits = scored(20_000, 0)
    bins = choose_bins(positions(logits), 0.0)
    histogram = counted(bins, labels, logits)
    few, many = (estimates(histogram, bins, noise_std=1.0, capacity=c) for c in (0.01, 0.2))
    order = np.argsort(-logits)[:4000]
    assert many["precision_at_1pct"].value == pytest.approx(labels[order].mean(), abs=0.01)
    assert many["precision_at_1pct"].value < few["precision_at_1pct"].value
    assert many["threshold"].value < few["threshold"].value


@pytest.mark.parametrize(("noise_std", "covered"), [(4.5, 0.9), (15.0, 0.9)])
def test_intervals_cover_and_biases_are_small(noise_std: float, covered: float) -> None:
    labels, logits = scored(8000, 1)
    truth, counts = exact(labels, logits), positions(logits)
    rng = np.random.default_rng(2)  # fixed: a regression test, not a random one
    hits: dict[str, list[bool]] = {}
    errors: dict[str, list[float]] = {}
    for _ in range(60):
        bins = choose_bins(counts + 2.4 * noise_std * rng.standard_normal(CELLS), 2.4 * noise_std)
        histogram = counted(bins, labels, logits)
        noisy = histogram + noise_std * rng.standard_normal(histogram.shape)
        for name, e in estimates(noisy, bins, noise_std=noise_std, draws=300).items():
            if name in truth:
                hits.setdefault(name, []).append(e.low <= truth[name] <= e.high)
                errors.setdefault(name, []).append(e.value - truth[name])
    for name in truth:
        assert np.mean(hits[name]) >= covered, name
    assert abs(np.mean(errors["ece"])) < 0.005  # without the correction: 0.016 at the larger noise
    assert math.sqrt(np.mean(np.square(errors["auroc"]))) < (0.01 if noise_std < 10 else 0.03)


@pytest.mark.statistical
def test_the_interval_holds_sampling_as_well_as_noise() -> None:
    # Each of 200 holdouts is a fresh sample of a population of 400,000 rows. At a coverage of .95,
    # at most 170 hits have a probability below 1e-6; the bound on the width is the other side.
    labels, logits = scored(400_000, 3)
    truth = exact(labels, logits)["auroc"]
    rng = np.random.default_rng()
    bins = choose_bins(positions(logits[:3000]), 0.0)
    hits = 0
    widths = []
    for _ in range(200):
        rows = rng.integers(len(labels), size=3000)
        histogram = counted(bins, labels[rows], logits[rows])
        noisy = histogram + 5.0 * rng.standard_normal(histogram.shape)
        e = estimates(noisy, bins, noise_std=5.0, draws=200)["auroc"]
        hits += e.low <= truth <= e.high
        widths.append(e.high - e.low)
    assert binom.cdf(170, 200, 0.95) < 1e-6
    assert hits > 170
    assert np.mean(widths) < 0.07


def test_a_perfect_and_a_useless_model() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(4000) < 0.3).astype(float)
    for logits, expected in ((6 * labels - 3, 1.0), (rng.normal(0, 0.1, 4000), 0.5)):
        bins = choose_bins(positions(logits) + 10 * rng.standard_normal(CELLS), 10.0)
        histogram = counted(bins, labels, logits)
        noisy = histogram + 4 * rng.standard_normal(histogram.shape)
        assert estimates(noisy, bins, noise_std=4.0)["auroc"].value == pytest.approx(
            expected, abs=0.05
        )


histograms = st.sampled_from([0.0, 1.0, 1e4, -50.0]).flatmap(
    lambda level: arrays(np.float64, (2, 12), elements=st.floats(-100, 100)).map(
        lambda noise: noise + level
    )
)


@given(histograms, st.sampled_from([0.0, 1.0, 30.0]), st.floats(0.001, 0.999))
@settings(max_examples=60, deadline=None)
def test_any_histogram_gives_ordered_intervals_or_nothing(
    histogram: np.ndarray, noise_std: float, capacity: float
) -> None:
    bins = Bins(
        edges=np.linspace(-2, 2, 11),
        scores=np.linspace(0.05, 0.95, 36).reshape(12, 3),
        shares=np.full(12, 1 / 12),
    )
    found = estimates(histogram, bins, noise_std=noise_std, capacity=capacity, draws=100)
    assert set(found) == KEYS
    for e in found.values():
        assert math.isnan(e.value) or 0.0 <= e.low <= e.value <= e.high <= 1.0
        assert math.isnan(e.value) == math.isnan(e.low) == math.isnan(e.high)
    json.dumps({name: e.to_dict() for name, e in found.items()}, allow_nan=False)
    for point in reliability(histogram, bins, noise_std=noise_std, draws=100):
        assert 0.0 <= point.rate.low <= point.rate.value <= point.rate.high <= 1.0


def test_nothing_to_estimate_is_nan_and_one_class_ranks_nothing() -> None:
    bins = choose_bins(np.zeros(CELLS), 1.0)
    shape = (2, len(bins))
    empty = estimates(np.full(shape, -1.0), bins, noise_std=1.0)
    assert all(math.isnan(e.value) for e in empty.values())
    one = np.zeros(shape)
    one[0] = 50.0
    assert math.isnan(estimates(one, bins, noise_std=0.0)["auroc"].value)
    assert estimates(one, bins, noise_std=0.0)["base_rate"].value == 0.0


def test_positives_lost_in_the_noise_leave_the_widest_interval() -> None:
    labels, logits = scored(4000, 4)
    bins = choose_bins(positions(logits), 1.0)
    histogram = counted(bins, labels, logits).astype(float)
    histogram[1] = 1.0
    found = estimates(histogram, bins, noise_std=40.0)["auroc"]
    assert (found.low, found.high) == (0.0, 1.0)


def test_the_seed_fixes_the_intervals() -> None:
    labels, logits = scored(2000, 5)
    bins = choose_bins(positions(logits), 1.0)
    histogram = counted(bins, labels, logits)
    first, same, other = (estimates(histogram, bins, noise_std=3.0, seed=s) for s in (1, 1, 2))
    assert first == same
    assert first != other


def test_the_calibration_curve_lies_on_the_diagonal_of_a_calibrated_model() -> None:
    labels, logits = scored(20_000, 6)
    bins = choose_bins(positions(logits), 5.0)
    histogram = counted(bins, labels, logits)
    noisy = histogram + 5 * np.random.default_rng(0).standard_normal(histogram.shape)
    points = reliability(noisy, bins, noise_std=5.0)
    assert len(points) >= 5
    assert [p.score for p in points] == sorted(p.score for p in points)
    for point in points:
        assert point.rate.low - 0.03 <= point.score <= point.rate.high + 0.03
    assert reliability(np.zeros((2, len(bins))), bins, noise_std=5.0) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"capacity": 0.0}, "capacity"),
        ({"capacity": 1.0}, "capacity"),
        ({"draws": 99}, "draws"),
        ({"noise_std": -1.0}, "noise"),
        ({"noise_std": math.nan}, "noise"),
        ({"histogram": np.zeros((2, 3))}, "shape"),
        ({"histogram": np.full((2, 4), math.inf)}, "finite"),
    ],
)
def test_unusable_input_is_refused_in_one_line(change: dict[str, object], named: str) -> None:
    bins = Bins(edges=np.arange(3.0), scores=np.full((4, 1), 0.5), shares=np.full(4, 0.25))
    arguments = {"histogram": np.zeros((2, 4)), "noise_std": 1.0, **change}
    with pytest.raises(ConfigurationError, match=named) as refusal:
        estimates(arguments.pop("histogram"), bins, **arguments)
    assert "\n" not in str(refusal.value)


def test_a_curve_needs_draws_too() -> None:
    bins = choose_bins(np.zeros(CELLS), 1.0)
    with pytest.raises(ConfigurationError, match="draws"):
        reliability(np.zeros((2, len(bins))), bins, noise_std=1.0, draws=1)
