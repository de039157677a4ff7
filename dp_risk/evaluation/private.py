"""Metrics of a private holdout from noisy histograms of its scores.

Nothing here reads a private row: the input is released histograms, so all of it is
post-processing. Two rounds (after Cormode & Markov, "Federated calibration and evaluation of
binary classifiers", VLDB 2023): a noisy histogram of the scores' positions on a fixed public scale
chooses bins, then a noisy histogram over (label, bin) yields every metric.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dp_risk.evaluation.bins import Bins, checked_histogram
from dp_risk.evaluation.metrics import ECE_BINS, Estimate
from dp_risk.evaluation.noisy import (
    GUESS,
    auprc,
    auroc,
    blurred,
    estimate,
    from_top,
    ratio,
    refinement,
    simulated_errors,
)
from dp_risk.types import ConfigurationError

Floats = NDArray[np.float64]


def estimates(
    histogram: ArrayLike,
    bins: Bins,
    *,
    noise_std: float,
    capacity: float = 0.01,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Return the metrics of a holdout with 95 % intervals for noise and sampling.

    Parameters
    ----------
    histogram : array_like, shape (2, B)
        Noisy counts by label and bin, summed over sites; units may be shared between cells.
    bins : Bins
        The bins it was taken over.
    noise_std : float
        Standard deviation of the noise in a cell, at least 0.
    capacity : float
        Share of the units that can be reviewed, in (0, 1).
    draws : int
        Simulated errors for the intervals, at least 100.
    seed : int
        Of the simulation.

    Returns
    -------
    dict of str to Estimate
        The metrics of `dp_risk.evaluation.METRICS` (``precision_at_1pct`` is the precision among
        the `capacity` highest scores), ``threshold`` (the probability above which `capacity` of
        the units lie) and ``base_rate``. NaN where the noisy totals leave nothing to estimate.

    Raises
    ------
    ConfigurationError
        If a shape or range does not fit.

    Notes
    -----
    Coverage is measured in benchmarks/private_evaluation.py. Intervals are for a fresh sample of
    the same population, so they cover the exact value on the holdout itself more often than 95 %
    where the noise is small. Where the noise of one cell exceeds 1 % of the negatives, recall at
    1 % false positives is mostly unknown and its interval too short.
    """
    counts = checked_histogram(histogram, (2, len(bins)), noise_std)
    if not 0 < capacity < 1:
        raise ConfigurationError(f"evaluation.capacity must lie in (0, 1), got {capacity}")
    rng = np.random.default_rng(seed)
    noise, sampled = simulated_errors(counts, noise_std, draws, rng)
    fine = refinement(bins)
    observed = (counts @ fine)[None]
    drawn = (counts + noise + sampled) @ fine
    scores = bins.scores.ravel()
    first = blurred(counts, noise_std) * bins.scores.shape[1]

    def spread(metric: Callable[[Floats], Floats]) -> Estimate:
        return estimate(float(metric(observed)[0]), metric(drawn))

    return {
        "auroc": spread(auroc),
        "auprc": spread(lambda h: auprc(h, first)),
        "recall_at_fpr_1pct": spread(_recall),
        "precision_at_1pct": spread(lambda h: _precision(h, capacity)),
        "brier": spread(lambda h: _brier(h, scores)),
        "ece": _ece(observed[0], noise @ fine, sampled @ fine, bins, rng),
        "threshold": _threshold(observed, drawn, bins, capacity),
        "base_rate": spread(lambda h: ratio(h[:, 1].sum(axis=1), h.sum(axis=(1, 2)))),
    }


@dataclass(frozen=True, kw_only=True)
class CalibrationPoint:
    """One point of a calibration curve: mean score of a group of bins, and the observed rate."""

    score: float
    rate: Estimate


def reliability(
    histogram: ArrayLike, bins: Bins, *, noise_std: float, draws: int = 1000, seed: int = 0
) -> list[CalibrationPoint]:
    """Return a calibration curve: neighbouring bins are joined until the noise is small.

    Parameters and errors are those of `estimates`.

    Returns
    -------
    list of CalibrationPoint
        By rising score; every group's count stands out of its noise by 5 standard deviations. Empty
        where not even the whole holdout does.
    """
    counts = checked_histogram(histogram, (2, len(bins)), noise_std)
    drawn = counts + sum(simulated_errors(counts, noise_std, draws, np.random.default_rng(seed)))
    mean = bins.scores.mean(axis=1)
    weight = np.maximum(counts.sum(axis=0), 0.0)
    groups: list[slice] = []
    start = 0
    for stop in range(1, len(bins) + 1):
        if counts[:, start:stop].sum() >= max(5 * noise_std * math.sqrt(2 * (stop - start)), 1.0):
            groups.append(slice(start, stop))
            start = stop
    if groups:  # what is left at the top is too little for a point of its own
        groups[-1] = slice(groups[-1].start, len(bins))
    points = []
    for group in groups:
        part, all_parts = counts[:, group], drawn[:, :, group]
        rate = float(np.clip(part[1].sum() / max(part.sum(), 1.0), 0.0, 1.0))
        ratios = ratio(all_parts[:, 1].sum(axis=1), all_parts.sum(axis=(1, 2)))
        score = float(np.average(mean[group], weights=weight[group] + 1e-12))
        points.append(CalibrationPoint(score=score, rate=estimate(rate, ratios)))
    return points


def _depth(cumulative: Floats, target: Floats) -> Floats:
    """Return how many bins from the top hold `target`.

    A noisy cumulative curve crosses the target more than once. Sorting its values (monotone
    rearrangement: Chernozhukov, Fernandez-Val & Galichon 2010) keeps the share of the curve below
    the target, where taking the first crossing would be biased.
    """
    curve = np.sort(cumulative, axis=1)
    after = np.clip((curve < target[:, None]).sum(axis=1), 1, curve.shape[1] - 1)
    rows = np.arange(len(curve))
    low, high = curve[rows, after - 1], curve[rows, after]
    inside = np.clip((target - low) / np.maximum(high - low, 1e-12), 0.0, 1.0)
    return np.asarray(after - 1 + inside)


def _at(cumulative: Floats, depth: Floats) -> Floats:
    before = np.minimum(depth.astype(np.int64), cumulative.shape[1] - 2)
    rows = np.arange(len(cumulative))
    low, high = cumulative[rows, before], cumulative[rows, before + 1]
    return np.asarray(low + (depth - before) * (high - low))


def _recall(h: Floats) -> Floats:
    false, hits = from_top(h[:, 0]), from_top(h[:, 1])
    recall = ratio(_at(hits, _depth(false, 0.01 * false[:, -1])), hits[:, -1])
    return np.where(false[:, -1] > 0, recall, np.nan)


def _capacity_depth(h: Floats, capacity: float) -> tuple[Floats, Floats]:
    seen = from_top(h.sum(axis=1))
    target = capacity * seen[:, -1]
    return _depth(seen, target), target


def _precision(h: Floats, capacity: float) -> Floats:
    depth, target = _capacity_depth(h, capacity)
    return ratio(_at(from_top(h[:, 1]), depth), target)


def _threshold(observed: Floats, drawn: Floats, bins: Bins, capacity: float) -> Estimate:
    """Return the score at the capacity; the interval ends at the edges of bins.

    Where a score lies inside its bin is a guess, so the interval does not use it.
    """
    depth, total = _capacity_depth(observed, capacity)
    if total[0] <= 0:
        return Estimate(value=math.nan, low=math.nan, high=math.nan)
    b, k = bins.scores.shape
    at = b * k - depth[0] - 0.5
    value = float(np.interp(at, np.arange(b * k), bins.scores.ravel()))
    place = b - _capacity_depth(drawn, capacity)[0] / k
    ends = np.concatenate([[0.0], 1 / (1 + np.exp(-bins.edges)), [1.0]])
    low = ends[math.floor(np.quantile(place, 0.025))]
    high = ends[math.ceil(np.quantile(place, 0.975))]
    return Estimate(value=value, low=float(min(low, value)), high=float(max(high, value)))


def _brier(h: Floats, scores: Floats) -> Floats:
    return ratio(h[:, 0] @ scores**2 + h[:, 1] @ (1 - scores) ** 2, h.sum(axis=(1, 2)))


def _ece(
    counts: Floats, noise: Floats, sampled: Floats, bins: Bins, rng: np.random.Generator
) -> Estimate:
    """Find the errors under which the observed sum of noisy |gaps| is typical.

    Noise inflates |gap|, so errors are `scale` times the gaps' shape, and the interval holds the
    scales under which the observed sum is neither too large nor too small.
    """
    total = counts.sum()
    if total <= 0:
        return Estimate(value=math.nan, low=math.nan, high=math.nan)
    b, k = bins.scores.shape
    scores = bins.scores.ravel()
    group = np.minimum((scores * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    member = (group[:, None] == np.arange(ECE_BINS)).astype(np.float64)
    to_gap = np.stack([scores[:, None] * member, (scores[:, None] - 1) * member])
    gap, noisy, random = (np.tensordot(x, to_gap, 2) for x in (counts, noise, sampled))
    observed = np.abs(gap).sum()
    shape = np.sqrt(np.maximum(gap**2 - noisy.var(axis=0), 0.0)) + 0.25 * noisy.std(axis=0)
    shape = np.maximum(shape, 1e-9)
    width = np.diff(np.concatenate([[0.0], 1 / (1 + np.exp(-bins.edges)), [1.0]]))
    guess = GUESS * width * np.abs(counts.sum(axis=0).reshape(b, k).sum(axis=1))
    rest = (random * np.sign(gap)).sum(axis=1) + rng.standard_normal((len(random), b)) @ guess
    scales = np.linspace(0.0, 3.0, 121)
    sums = np.stack([np.abs(s * shape + noisy).sum(axis=1) for s in scales])
    sizes = scales * shape.sum() / total
    ends = [
        float(np.interp(observed, np.maximum.accumulate(curve), sizes))
        for curve in (
            np.quantile(sums + rest, 0.975, axis=1),
            np.quantile(sums, 0.5, axis=1),
            np.quantile(sums + rest, 0.025, axis=1),
        )
    ]
    low, value, high = np.clip(ends, 0.0, 1.0)
    return Estimate(value=float(value), low=float(min(low, value)), high=float(max(high, value)))
