from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dp_risk.evaluation.bins import (
    CELLS,
    HIGH,
    LOW,
    Bins,
    choose_bins,
    joined,
    nearest_edge,
    score_cells,
    score_position,
)
from dp_risk.types import ConfigurationError


def histogram(logits: np.ndarray) -> np.ndarray:
    places = np.clip(score_position(logits), LOW, HIGH)
    return np.histogram(places, CELLS, (LOW, HIGH))[0].astype(float)


def test_positions_rise_and_tell_small_and_large_logits_apart() -> None:
    logits = np.linspace(-20, 20, 4001)
    assert (np.diff(score_position(logits)) > 0).all()
    cell = (HIGH - LOW) / CELLS
    assert score_position([0.3])[0] - score_position([-0.3])[0] > 10 * cell
    assert HIGH - score_position([15.0])[0] > cell
    assert not np.isfinite(score_position([math.nan, math.inf, -math.inf])).any()


@given(
    arrays(np.float64, CELLS, elements=st.floats(-1e3, 1e3)),
    st.sampled_from([0.0, 1.0, 30.0, 1e6]),
    st.sampled_from([-1e3, 0.0, 1e5]),
)
@settings(max_examples=100, deadline=None)
def test_any_histogram_gives_bins(noise: np.ndarray, std: float, level: float) -> None:
    bins = choose_bins(noise + level, std)
    assert 4 <= len(bins) <= 40
    assert (np.diff(bins.edges) > 0).all()
    assert (np.diff(bins.scores.ravel()) >= 0).all()
    assert bins.shares.sum() == pytest.approx(1.0)
    probability = 1 / (1 + np.exp(-bins.edges))
    assert (bins.scores[:-1].max(axis=1) <= probability + 1e-12).all()
    assert (bins.scores[1:].min(axis=1) >= probability - 1e-12).all()


@pytest.mark.parametrize(("centre", "spread"), [(0.0, 0.1), (0.0, 5.0), (-4.0, 0.3), (-1.5, 2.0)])
def test_bins_hold_about_equal_shares_and_split_the_top(centre: float, spread: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(centre, spread, 10_000)
    bins = choose_bins(histogram(logits) + 11 * rng.standard_normal(CELLS), 11.0)
    held = np.bincount(score_cells(bins.edges, logits, np.zeros(10_000)), minlength=2 * len(bins))
    held = held[: len(bins)] / 10_000
    assert len(bins) >= 20
    assert held.max() < 0.15
    assert 0.0 < held[-3:].sum() < 0.1


def test_more_noise_makes_fewer_bins() -> None:
    counts = histogram(np.random.default_rng(0).normal(0, 2, 1000))
    assert len(choose_bins(counts, 50.0)) < len(choose_bins(counts, 1.0))


def test_one_score_for_all_makes_bins_all_the_same() -> None:
    bins = choose_bins(histogram(np.full(5000, 0.3)), 5.0)
    held = np.bincount(
        score_cells(bins.edges, np.full(5000, 0.3), np.zeros(5000)), minlength=2 * len(bins)
    )
    assert held.max() == 5000


@given(
    arrays(np.float64, 20, elements=st.floats(allow_nan=True, allow_infinity=True)),
    arrays(np.float64, 20, elements=st.sampled_from([0.0, 1.0, 2.0, -1.0, math.nan])),
)
@settings(max_examples=60, deadline=None)
def test_cells_are_label_and_bin_or_nowhere(logits: np.ndarray, labels: np.ndarray) -> None:
    edges = np.array([-1.0, 0.0, 2.0])
    for cell, z, y in zip(score_cells(edges, logits, labels), logits, labels, strict=True):
        usable = math.isfinite(z) and y in (0.0, 1.0)
        assert cell == (int(y) * 4 + int((z >= edges).sum()) if usable else -1)


def test_no_rows_have_no_cells() -> None:
    assert score_cells([0.0], [], []).shape == (0,)


@pytest.mark.parametrize("edges", [[1.0, 1.0], [1.0, 0.0], [math.nan], [math.inf], [[0.0]]])
def test_edges_that_do_not_increase_are_refused(edges: list[float]) -> None:
    with pytest.raises(ConfigurationError, match="edges") as refusal:
        score_cells(edges, [0.0], [0.0])
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"edges": np.array([1.0, 0.0])}, "edges"),
        ({"edges": np.array([0.0])}, "row of scores"),
        ({"scores": np.full((3, 2), 1.5)}, "scores"),
        ({"scores": np.full((3, 2), math.nan)}, "scores"),
        ({"shares": np.zeros(3)}, "shares"),
        ({"shares": np.ones(2)}, "shares"),
    ],
)
def test_bins_that_do_not_fit_are_refused(change: dict[str, np.ndarray], named: str) -> None:
    good = {"edges": np.array([0.0, 1.0]), "scores": np.full((3, 2), 0.5), "shares": np.ones(3) / 3}
    Bins(**good)
    with pytest.raises(ConfigurationError, match=named):
        Bins(**{**good, **change})


@pytest.mark.parametrize(
    ("counts", "noise"),
    [(np.zeros(3), 1.0), (np.full(CELLS, math.nan), 1.0), (np.zeros(CELLS), -1.0)],
)
def test_unusable_histograms_are_refused(counts: np.ndarray, noise: float) -> None:
    with pytest.raises(ConfigurationError, match="histogram"):
        choose_bins(counts, noise)


@given(
    st.integers(0, 5),
    st.integers(2, 12),
    st.floats(0.0, 1.0),
    st.sampled_from([0.0, 30.0]),
)
@settings(max_examples=100, deadline=None)
def test_joined_bins_are_few_and_keep_the_edge_that_is_asked_for(
    seed: int, most: int, at: float, std: float
) -> None:
    logits = np.random.default_rng(seed).normal(-1.5, 2.0, 5000)
    bins = choose_bins(histogram(logits), std)
    together, below = joined(bins, most=most, kept=nearest_edge(bins, at))
    assert 2 <= len(together) <= most
    assert set(together.edges) <= set(bins.edges)
    assert together.shares.sum() == pytest.approx(bins.shares.sum())
    assert (np.diff(together.scores.ravel()) >= 0).all()
    wanted = math.log(max(at, 1e-12) / max(1 - at, 1e-12))
    kept = together.edges[below - 1]
    assert abs(kept - wanted) <= np.abs(bins.edges - wanted).min() + 1e-9
    # The mean score of a joined bin is that of its parts.
    start = 0
    for edge_end, scores in zip([*together.edges, math.inf], together.scores, strict=True):
        stop = int((bins.edges < edge_end).sum()) + 1 if math.isfinite(edge_end) else len(bins)
        mean = np.average(bins.scores[start:stop].mean(axis=1), weights=bins.shares[start:stop])
        assert scores.mean() == pytest.approx(mean, abs=0.05)
        start = stop
