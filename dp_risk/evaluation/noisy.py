"""Metrics as functions of noisy histograms over bins, and the spread of their errors.

Noise is never clipped away where a metric is a ratio of (bi)linear forms of the counts: a clipped
empty cell is biased by 0.4 standard deviations, and there are many of them. Functions take
histograms of shape (draws, 2, parts): the counts as they are, or as they would be with other noise.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dp_risk.evaluation.bins import Bins
from dp_risk.evaluation.metrics import Estimate
from dp_risk.types import ConfigurationError

Floats = NDArray[np.float64]

# How far, in widths of its bin, the mean score of a bin's units may be off.
GUESS = 0.25
_CLEAR_STDS = 2.0  # a cumulative count is clear this many standard deviations above zero


def simulated_errors(
    counts: Floats, noise_std: float, draws: int, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Return simulated noise and sampling errors, each of shape (about draws, 2, B).

    A unit's share of a cell is at most 1, so a cell varies at most like a Poisson count. Every
    draw comes with its mirror image: a metric that is linear then has no simulated bias.
    """
    if draws < 100:
        raise ConfigurationError(f"evaluation.draws must be at least 100, got {draws}")
    normal = rng.standard_normal((2, (draws + 1) // 2, *counts.shape))
    noise, sampled = np.concatenate([normal, -normal], axis=1)
    return noise_std * noise, np.sqrt(_proper(counts)) * sampled


def _proper(counts: Floats) -> Floats:
    """Return the nearest histogram without negative cells that has the same total.

    The Euclidean projection on a simplex (Duchi et al. 2008) along the last axis; all zero where
    the total is not positive.
    """
    total = np.maximum(counts.sum(axis=-1, keepdims=True), 0.0)
    falling = -np.sort(-counts, axis=-1)
    excess = (np.cumsum(falling, axis=-1) - total) / np.arange(1, counts.shape[-1] + 1)
    kept = np.maximum((falling > excess).sum(axis=-1, keepdims=True), 1)
    cut = np.take_along_axis(excess, kept - 1, axis=-1)
    return np.where(total > 0, np.maximum(counts - cut, 0.0), 0.0)


def ratio(a: Floats, b: Floats) -> Floats:
    """Return a / b, NaN where b is not above 0."""
    out: Floats = np.full(np.broadcast_shapes(a.shape, b.shape), np.nan)
    np.divide(a, b, out=out, where=b > 0)
    return out


def refinement(bins: Bins) -> Floats:
    """Return the linear map from bins to their K parts, shape (B, B K); it keeps every bin's count.

    Inside a bin the density changes linearly between its edges, where it is that of the
    neighbours: without this, every metric would see a staircase.
    """
    b, k = bins.scores.shape
    density = np.diag(1 / bins.shares)
    width = bins.shares[:, None]
    edge = (width[:-1] * density[1:] + width[1:] * density[:-1]) / (width[:-1] + width[1:])
    edge = np.concatenate([density[:1], edge, density[-1:]])
    offset = (np.arange(k) + 0.5) / k - 0.5
    slope = edge[1:] - edge[:-1]  # (B bins, B counts)
    parts = density[:, None] + slope[:, None] * offset[:, None]  # (B, K, B)
    return np.asarray((parts * width[:, None] / k).reshape(b * k, b).T)


def from_top(counts: Floats) -> Floats:
    """Return cumulative counts from the highest bin down, from 0 on: shape (..., B + 1)."""
    summed = np.cumsum(counts[..., ::-1], axis=-1)
    return np.concatenate([np.zeros((*summed.shape[:-1], 1)), summed], axis=-1)


def blurred(counts: Floats, noise_std: float) -> int:
    """Return how many of the highest bins the noise blurs, given counts of shape (2, B).

    A precision needs a denominator that stands out of the noise.
    """
    seen = from_top(counts.sum(axis=0))
    clear = seen > _CLEAR_STDS * noise_std * np.sqrt(2 * np.arange(len(seen)))
    return int(np.argmax(clear)) if clear.any() else counts.shape[1]


def auroc(h: Floats) -> Floats:
    """Return the area under the ROC curve, shape (draws,).

    Pairs in one bin count one half; unbiased, as the noise of the two labels is independent.
    """
    below = np.cumsum(h[:, 0], axis=1) - h[:, 0] / 2
    area = ratio((h[:, 1] * below).sum(axis=1), h[:, 1].sum(axis=1) * h[:, 0].sum(axis=1))
    return np.where(h.sum(axis=2).min(axis=1) > 0, area, np.nan)


def auprc(h: Floats, first: int) -> Floats:
    """Return average precision, shape (draws,).

    Each part's positives count at the mean of the precision before and after.

    The `first` parts from the top, which the noise blurs, count together.
    """
    hits, seen = from_top(h[:, 1])[:, first:], from_top(h.sum(axis=1))[:, first:]
    middle = ratio(hits[:, 1:] + hits[:, :-1], seen[:, 1:] + seen[:, :-1])
    precision = np.nan_to_num(np.hstack([ratio(hits[:, :1], seen[:, :1]), middle]))
    gained = np.diff(hits, axis=1, prepend=0.0)
    return ratio((gained * precision).sum(axis=1), hits[:, -1])


def estimate(observed: float, drawn: Floats, *, least: float = 0.0) -> Estimate:
    """Return value and interval from a metric and its draws with as much noise again.

    Both lie in [least, 1]. The draws' bias about `observed` is taken off once for the value
    (`observed` has it already) and twice for the draws. Where the bias is large that is itself a
    guess, so the interval holds both the draws and the moved draws. A value beyond the range is
    moved to its end with the whole interval: noise that takes a rate below 0 makes it no surer.
    """
    if not math.isfinite(observed):
        return Estimate(value=math.nan, low=math.nan, high=math.nan)
    usable = drawn[np.isfinite(drawn)]
    bias = float(np.median(usable)) - observed if len(usable) else 0.0
    low = float(np.quantile(np.nan_to_num(drawn, nan=-9.0), 0.025)) - max(2 * bias, 0.0)
    high = float(np.quantile(np.nan_to_num(drawn, nan=9.0), 0.975)) - min(2 * bias, 0.0)
    value = observed - bias
    inside = min(max(value, least), 1.0) - value
    low, value, high = (float(x) for x in np.clip(np.add([low, value, high], inside), least, 1.0))
    return Estimate(value=value, low=min(low, value), high=max(high, value))
