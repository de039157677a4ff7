from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binom, norm
from sklearn.metrics import roc_auc_score

from dp_risk.evaluation.bins import Bins, choose_bins, joined, nearest_edge, score_cells
from dp_risk.evaluation.private_subgroups import estimate_group
from dp_risk.evaluation.subgroups import GROUP_METRICS, evaluate_group
from dp_risk.types import ConfigurationError

from .test_private import positions, scored

RATES = ("flagged_rate", "true_positive_rate", "false_positive_rate")
ESTIMATED = tuple(name for name in GROUP_METRICS if name != "auprc")


def made(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, Bins, int]:
    """Return labels, logits, a few bins and where units are flagged."""
    labels, logits = scored(n, seed)
    scores = 1 / (1 + np.exp(-logits))
    all_bins = choose_bins(positions(logits), 0.0)
    kept = nearest_edge(all_bins, float(np.quantile(scores, 0.95)))
    bins, flagged = joined(all_bins, most=8, kept=kept)
    return labels, logits, bins, flagged


def counted(bins: Bins, labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    cells = score_cells(bins.edges, logits, labels)
    return np.bincount(cells, minlength=2 * len(bins)).reshape(2, -1).astype(float)


def exact(bins: Bins, flagged: int, labels: np.ndarray, logits: np.ndarray):
    threshold = 1 / (1 + math.exp(-bins.edges[flagged - 1]))
    return evaluate_group(labels, 1 / (1 + np.exp(-logits)), threshold=threshold, bootstrap=1)


def test_without_noise_the_estimates_are_nearly_exact() -> None:
    labels, logits, bins, flagged = made(20_000, 0)
    found = estimate_group(counted(bins, labels, logits), bins, flagged=flagged, noise_std=0.0)
    truth = exact(bins, flagged, labels, logits)
    assert (found.units, found.positives, found.reason) == (truth.units, truth.positives, None)
    assert set(found.metrics) == set(GROUP_METRICS)
    for name in RATES:
        assert found.metrics[name].value == pytest.approx(truth.metrics[name].value, abs=1e-3)
    assert found.metrics["auroc"].value == pytest.approx(truth.metrics["auroc"].value, abs=5e-3)
    assert math.isnan(found.metrics["auprc"].value)
    assert found.metrics["calibration_gap"].value == pytest.approx(0.0, abs=0.02)


def test_a_rate_that_noise_takes_below_zero_is_not_certain() -> None:
    _, _, bins, flagged = made(4000, 0)
    counts = np.full((2, len(bins)), 200.0)
    counts[:, flagged:] = -40.0
    found = estimate_group(counts, bins, flagged=flagged, noise_std=20.0)
    for name in RATES:
        rate = found.metrics[name]
        assert (rate.value, rate.low) == (0.0, 0.0)
        # As wide as where the estimate is exactly 0.
        assert rate.high > 0.5 * 1.96 * 20 / counts.sum()


def test_intervals_cover_the_exact_value() -> None:
    labels, logits, bins, flagged = made(3000, 1)
    truth = exact(bins, flagged, labels, logits)
    counts, std, repeats = counted(bins, labels, logits), 15.0, 200
    rng = np.random.default_rng(5)
    missed = dict.fromkeys(ESTIMATED, 0)
    for seed in range(repeats):
        noisy = counts + std * rng.standard_normal(counts.shape)
        found = estimate_group(
            noisy, bins, flagged=flagged, noise_std=std, draws=400, seed=seed
        ).metrics
        for name in ESTIMATED:
            low, high = found[name].low, found[name].high
            missed[name] += not low - 1e-9 <= truth.metrics[name].value <= high + 1e-9
    # Seeded, so that it cannot flake; a coverage of 95 % misses so many in one of 10^6 trials.
    most = binom.isf(1e-6, repeats, 0.05)
    assert max(missed.values()) <= most, missed


def shifted(n: int, rng: np.random.Generator, by: float) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and logits of two normals 1.5 deviations apart, the logits off by so much."""
    labels = (rng.random(n) < 0.3).astype(float)
    place = rng.standard_normal(n) + 1.5 * labels
    return labels, math.log(3 / 7) + 1.5 * place - 1.125 + by


@pytest.mark.parametrize(("by", "std"), [(0.0, 0.0), (3.0, 0.0), (-1.0, 3.0)])
def test_intervals_cover_the_population_of_a_group_unlike_the_others(by: float, std: float) -> None:
    _, _, bins, flagged = made(20_000, 0)
    edge = bins.edges[flagged - 1]
    many, logits = shifted(400_000, np.random.default_rng(0), by)
    truth = {
        "true_positive_rate": float((logits[many == 1] >= edge).mean()),
        "false_positive_rate": float((logits[many == 0] >= edge).mean()),
        "flagged_rate": float((logits >= edge).mean()),
        "auroc": roc_auc_score(many, logits),
        "calibration_gap": float((1 / (1 + np.exp(-logits))).mean() - many.mean()),
    }
    rng, repeats = np.random.default_rng(3), 100
    missed = dict.fromkeys(truth, 0)
    for seed in range(repeats):
        counts = counted(bins, *shifted(800, rng, by))
        counts += std * rng.standard_normal(counts.shape)
        found = estimate_group(
            counts, bins, flagged=flagged, noise_std=std, draws=300, seed=seed
        ).metrics
        for name, value in truth.items():
            missed[name] += not found[name].low - 1e-9 <= value <= found[name].high + 1e-9
    # Seeded, so that it cannot flake; a coverage of 95 % misses so many in one of 10^6 trials.
    assert max(missed.values()) <= binom.isf(1e-6, repeats, 0.05), missed


def test_the_order_inside_one_bin_is_not_guessed() -> None:
    _, _, bins, flagged = made(4000, 0)
    counts = np.full((2, len(bins)), 10.0)
    counts[:, -1] = 3000.0
    found = estimate_group(counts, bins, flagged=flagged, noise_std=1.0)
    assert found.reason == "one_bin"
    assert math.isnan(found.metrics["auroc"].value)
    for name in ("flagged_rate", "true_positive_rate", "calibration_gap"):
        assert math.isfinite(found.metrics[name].value)


def test_noise_is_no_group_and_four_deviations_of_it_are() -> None:
    _, _, bins, flagged = made(4000, 0)
    rng, std, repeats = np.random.default_rng(0), 30.0, 1000
    whole = std * math.sqrt(2 * len(bins))

    def known(units: float) -> int:
        noise = std * rng.standard_normal((repeats, 2, len(bins))) + units / (2 * len(bins))
        found = (
            estimate_group(counts, bins, flagged=flagged, noise_std=std, draws=100)
            for counts in noise
        )
        return sum(group.reason != "few_units" for group in found)

    # Beyond three standard deviations: one of 740, and of 1.19.
    assert known(0.0) <= binom.isf(1e-6, repeats, norm.sf(3.0))
    assert known(4.0 * whole) >= binom.ppf(1e-6, repeats, norm.sf(-1.0))


@given(
    arrays(np.float64, (2, 8), elements=st.floats(-1e6, 1e6)),
    st.sampled_from([0.0, 1.0, 50.0, 1e6]),
    st.integers(0, 8),
)
@settings(max_examples=100, deadline=None)
def test_any_histogram_gives_a_group(counts: np.ndarray, std: float, flagged: int) -> None:
    bins = Bins(
        edges=np.linspace(-2, 2, 7),
        scores=np.sort(np.linspace(0, 1, 32)).reshape(8, 4),
        shares=np.full(8, 1 / 8),
    )
    found = estimate_group(counts, bins, flagged=flagged, noise_std=std, draws=100)
    assert found.units >= 0
    assert found.positives >= 0
    assert found.reason in (None, "few_units", "few_positives", "few_negatives", "one_bin")
    for name, estimate in found.metrics.items():
        least = -1.0 if name == "calibration_gap" else 0.0
        if math.isfinite(estimate.value):
            assert least <= estimate.low <= estimate.value <= estimate.high <= 1.0
        else:
            assert name == "auprc" or found.reason is not None
    assert (found.reason is None) == all(
        math.isfinite(found.metrics[name].value) for name in ("auroc", "calibration_gap")
    )


@pytest.mark.parametrize(
    ("shape", "std"), [((2, 7), 1.0), ((1, 8), 1.0), ((2, 8), -1.0), ((2, 8), math.nan)]
)
def test_what_is_no_histogram_is_refused(shape: tuple[int, int], std: float) -> None:
    bins = Bins(
        edges=np.linspace(-2, 2, 7), scores=np.linspace(0, 1, 8)[:, None], shares=np.full(8, 1 / 8)
    )
    with pytest.raises(ConfigurationError, match="histogram"):
        estimate_group(np.ones(shape), bins, flagged=1, noise_std=std)
