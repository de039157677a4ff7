"""Metrics of a private holdout from noisy histograms of its scores.

Nothing here reads a private row: the input is released histograms, so all of it is
post-processing. Two rounds (after Cormode & Markov, "Federated calibration and evaluation of
binary classifiers", VLDB 2023): a noisy histogram of the scores' positions on a fixed public scale
chooses bins, then a noisy histogram over (label, bin) yields every metric.

Noise is never clipped away where a metric is a ratio of (bi)linear forms of the counts: a clipped
empty cell is biased by 0.4 standard deviations, and there are many of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dp_risk.evaluation.metrics import ECE_BINS, Estimate
from dp_risk.types import ConfigurationError

Floats = NDArray[np.float64]

# Positions are asinh(logit): about linear within +-1, logarithmic beyond, cut off at +-20.
HIGH = math.asinh(20.0)
LOW = -HIGH
CELLS = 256

_MIN_BINS, _MAX_BINS = 4, 20
_BIN_STDS = 4.0  # a bin should hold this many standard deviations of a position cell's noise
_TOP = 0.005  # the highest scores are split down to bins of this share
_ATOMS = 8  # points that stand for the scores inside a bin
_CLEAR_STDS = 4.0  # a precision needs a denominator this many standard deviations above zero
_GUESS = 0.15  # how far, in widths of its bin, the mean score of a bin may be off
_SHIFTS = 16  # of the histogram, in denoising
_DETAIL_STDS = 2.5  # a difference counts above this many standard deviations


def score_position(logits: ArrayLike) -> Floats:
    """Return where logits lie on the fixed public scale.

    Parameters
    ----------
    logits : array_like, shape (n,)
        Any floats.

    Returns
    -------
    ndarray of float64, shape (n,)
        ``asinh(logits)``: increasing, not finite where the logit is not; a histogram over
        [`LOW`, `HIGH`] covers logits in [-20, 20].
    """
    return np.arcsinh(np.asarray(logits, dtype=np.float64))


def score_cells(edges: ArrayLike, logits: ArrayLike, labels: ArrayLike) -> NDArray[np.int64]:
    """Return the histogram cell of each row: ``label * B + bin``.

    Parameters
    ----------
    edges : array_like, shape (B - 1,)
        Inner edges in logits, strictly increasing. An edge belongs to the bin above it.
    logits : array_like, shape (n,)
        Any floats.
    labels : array_like, shape (n,)
        0 or 1.

    Returns
    -------
    ndarray of int64, shape (n,)
        In [0, 2 B); -1 where the logit is not finite or the label neither 0 nor 1.
    """
    inner = np.asarray(edges, dtype=np.float64)
    z, y = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    usable = np.isfinite(z) & ((y == 0) | (y == 1))
    bins = np.searchsorted(inner, np.where(usable, z, 0.0), side="right")
    return np.where(usable, np.where(usable, y, 0).astype(np.int64) * (len(inner) + 1) + bins, -1)


def checked_edges(edges: ArrayLike) -> Floats:
    """Return the inner edges of bins as an array, shape (B - 1,).

    Raises
    ------
    ConfigurationError
        If they are not one axis of finite, strictly increasing numbers.
    """
    inner = np.asarray(edges, dtype=np.float64)
    if inner.ndim != 1 or not (np.isfinite(inner).all() and (np.diff(inner) > 0).all()):
        raise ConfigurationError("evaluation: the edges of bins must increase")
    return inner


@dataclass(frozen=True, kw_only=True, eq=False)
class Bins:
    """Public bins of the logits.

    Parameters
    ----------
    edges : ndarray of float64, shape (B - 1,)
        Inner edges in logits, strictly increasing. An edge belongs to the bin above it.
    scores : ndarray of float64, shape (B, K)
        How probabilities lie inside each bin: K about equally frequent ones, ascending.
    shares : ndarray of float64, shape (B,)
        About which share of the scores each bin holds, above 0.

    Raises
    ------
    ConfigurationError
        If the shapes do not fit, the edges do not increase or a score is outside [0, 1].
    """

    edges: Floats
    scores: Floats
    shares: Floats

    def __post_init__(self) -> None:
        edges, scores = self.edges, self.scores
        if checked_edges(edges).ndim != 1 or scores.ndim != 2 or len(scores) != len(edges) + 1:
            raise ConfigurationError("evaluation: bins need one row of scores between two edges")
        if self.shares.shape != (len(scores),) or not (self.shares > 0).all():
            raise ConfigurationError("evaluation: the shares of bins must be positive")
        if not (scores.size and ((scores >= 0) & (scores <= 1)).all()):
            raise ConfigurationError("evaluation: the scores of bins must lie in [0, 1]")

    def __len__(self) -> int:
        return len(self.scores)

    def cells(self, logits: ArrayLike, labels: ArrayLike) -> NDArray[np.int64]:
        """Return the histogram cell of each row; see `score_cells`."""
        return score_cells(self.edges, logits, labels)


def choose_bins(histogram: ArrayLike, noise_std: float) -> Bins:
    """Choose bins of about equal mass, finer at the top, from noisy positions.

    Parameters
    ----------
    histogram : array_like, shape (CELLS,)
        Noisy counts over [`LOW`, `HIGH`], summed over sites; may be negative or all noise.
    noise_std : float
        Standard deviation of the noise in a cell, at least 0.

    Returns
    -------
    Bins
        Between 4 and about 30 bins, each expected to hold several noise standard deviations.

    Raises
    ------
    ConfigurationError
        If the histogram has another shape or is not finite, or the noise is negative.
    """
    counts = _checked(histogram, (CELLS,), noise_std)
    total = max(counts.sum(), 0.0)
    per_bin = max(_BIN_STDS * noise_std, 1.0)
    n_bins = int(np.clip(total / per_bin, _MIN_BINS, _MAX_BINS))
    density = np.maximum(_denoised(counts, noise_std), 0.0)
    # A little mass everywhere: levels then always lie at different positions.
    density = density / max(density.sum(), 1e-300) + 1e-6 / CELLS
    below = np.append(0.0, np.cumsum(density)) / density.sum()
    positions = np.linspace(LOW, HIGH, CELLS + 1)

    fixed = np.arange(1, ECE_BINS) / ECE_BINS
    fixed = np.interp(score_position(np.log(fixed / (1 - fixed))), positions, below)
    levels = [0.0, 1.0]
    top = 0.5 / n_bins
    while top >= _TOP and top * total >= 0.75 * per_bin:
        levels.append(1.0 - top)
        top /= 2
    for candidates, gap in ((fixed, 0.2), (np.arange(1, n_bins) / n_bins, 0.4)):
        for level in candidates:
            if min(abs(level - other) for other in levels) >= gap / n_bins:
                levels.append(float(level))
    ends = np.sort(levels)
    shares = np.diff(ends)
    inner = (np.arange(_ATOMS) + 0.5) / _ATOMS
    edges, points = (
        np.sinh(np.interp(at, below, positions))
        for at in (ends[1:-1], ends[:-1, None] + shares[:, None] * inner)
    )
    return Bins(edges=edges, scores=1 / (1 + np.exp(-points)), shares=shares)


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
    """
    counts = _checked(histogram, (2, len(bins)), noise_std)
    if not 0 < capacity < 1:
        raise ConfigurationError(f"evaluation.capacity must lie in (0, 1), got {capacity}")
    if draws < 100:
        raise ConfigurationError(f"evaluation.draws must be at least 100, got {draws}")
    rng = np.random.default_rng(seed)
    noise = noise_std * rng.standard_normal((draws, 2, len(bins)))
    sampled = np.sqrt(_proper(counts)) * rng.standard_normal(noise.shape)
    fine = _refinement(bins)
    observed = (counts @ fine)[None]
    drawn = (counts + noise + sampled) @ fine
    scores = bins.scores.ravel()
    seen = _from_top(counts.sum(axis=0))
    clear = seen > _CLEAR_STDS * noise_std * np.sqrt(2 * np.arange(len(seen)))
    first = int(np.argmax(clear) if clear.any() else len(bins)) * bins.scores.shape[1]

    def spread(metric: Callable[[Floats], Floats]) -> Estimate:
        return _estimate(float(metric(observed)[0]), metric(drawn))

    return {
        "auroc": spread(_auroc),
        "auprc": spread(lambda h: _auprc(h, first)),
        "recall_at_fpr_1pct": spread(_recall),
        "precision_at_1pct": spread(lambda h: _precision(h, capacity)),
        "brier": spread(lambda h: _brier(h, scores)),
        "ece": _ece(observed[0], noise @ fine, sampled @ fine, bins, rng),
        "threshold": _threshold(observed, drawn, bins, capacity),
        "base_rate": spread(lambda h: _ratio(h[:, 1].sum(axis=1), h.sum(axis=(1, 2)))),
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
    counts = _checked(histogram, (2, len(bins)), noise_std)
    rng = np.random.default_rng(seed)
    std = np.sqrt(noise_std**2 + _proper(counts))
    drawn = counts + std * rng.standard_normal((draws, 2, len(bins)))
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
        ratios = _ratio(all_parts[:, 1].sum(axis=1), all_parts.sum(axis=(1, 2)))
        score = float(np.average(mean[group], weights=weight[group] + 1e-12))
        points.append(CalibrationPoint(score=score, rate=_estimate(rate, ratios)))
    return points


def _checked(histogram: ArrayLike, shape: tuple[int, ...], noise_std: float) -> Floats:
    counts = np.asarray(histogram, dtype=np.float64)
    if counts.shape != shape or not np.isfinite(counts).all():
        raise ConfigurationError(f"evaluation: a histogram must be finite with shape {shape}")
    if not (math.isfinite(noise_std) and noise_std >= 0):
        raise ConfigurationError("evaluation: the noise of a histogram must be at least 0")
    return counts


def _denoised(counts: Floats, noise_std: float) -> Floats:
    """Smooth a histogram over stretches without structure above the noise.

    The mean over shifts of a Haar fit (translation-invariant denoising: Coifman & Donoho 1995).
    """
    shifts = range(-_SHIFTS // 2, _SHIFTS // 2)
    fits = [np.roll(_haar(np.roll(counts, s), noise_std), -s) for s in shifts]
    return np.asarray(np.mean(fits, axis=0))


def _haar(counts: Floats, noise_std: float) -> Floats:
    """Keep the differences between neighbouring stretches that stand out of the noise."""
    if len(counts) == 1:
        return counts
    left, right = counts[::2], counts[1::2]
    sums = _haar(left + right, noise_std * math.sqrt(2))
    detail = left - right
    detail = np.where(np.abs(detail) > _DETAIL_STDS * noise_std * math.sqrt(2), detail, 0.0)
    return np.stack([(sums + detail) / 2, (sums - detail) / 2], axis=1).ravel()


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


def _ratio(a: Floats, b: Floats) -> Floats:
    out: Floats = np.full(np.broadcast_shapes(a.shape, b.shape), np.nan)
    np.divide(a, b, out=out, where=b > 0)
    return out


def _refinement(bins: Bins) -> Floats:
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


def _from_top(counts: Floats) -> Floats:
    """Return cumulative counts from the highest bin down, from 0 on: shape (..., B + 1)."""
    summed = np.cumsum(counts[..., ::-1], axis=-1)
    return np.concatenate([np.zeros((*summed.shape[:-1], 1)), summed], axis=-1)


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
    return after - 1 + inside


def _at(cumulative: Floats, depth: Floats) -> Floats:
    before = np.minimum(depth.astype(np.int64), cumulative.shape[1] - 2)
    rows = np.arange(len(cumulative))
    low, high = cumulative[rows, before], cumulative[rows, before + 1]
    return low + (depth - before) * (high - low)


def _auroc(h: Floats) -> Floats:
    """Pairs in one bin count one half; unbiased, as the noise of the two labels is independent."""
    below = np.cumsum(h[:, 0], axis=1) - h[:, 0] / 2
    area = _ratio((h[:, 1] * below).sum(axis=1), h[:, 1].sum(axis=1) * h[:, 0].sum(axis=1))
    return np.where(h.sum(axis=2).min(axis=1) > 0, area, np.nan)


def _auprc(h: Floats, first: int) -> Floats:
    """Average precision, each part's positives at the mean of the precision before and after.

    The `first` parts from the top, which the noise blurs, count together.
    """
    hits, seen = _from_top(h[:, 1])[:, first:], _from_top(h.sum(axis=1))[:, first:]
    rest = np.diff(hits, axis=1) * _ratio(hits[:, 1:] + hits[:, :-1], seen[:, 1:] + seen[:, :-1])
    return _ratio(hits[:, 0] * _ratio(hits[:, 0], seen[:, 0]) + rest.sum(axis=1), hits[:, -1])


def _recall(h: Floats) -> Floats:
    false, hits = _from_top(h[:, 0]), _from_top(h[:, 1])
    recall = _ratio(_at(hits, _depth(false, 0.01 * false[:, -1])), hits[:, -1])
    return np.where(false[:, -1] > 0, recall, np.nan)


def _capacity_depth(h: Floats, capacity: float) -> tuple[Floats, Floats]:
    seen = _from_top(h.sum(axis=1))
    target = capacity * seen[:, -1]
    return _depth(seen, target), target


def _precision(h: Floats, capacity: float) -> Floats:
    depth, target = _capacity_depth(h, capacity)
    return _ratio(_at(_from_top(h[:, 1]), depth), target)


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
    return _ratio(h[:, 0] @ scores**2 + h[:, 1] @ (1 - scores) ** 2, h.sum(axis=(1, 2)))


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
    guess = _GUESS * width * np.abs(counts.sum(axis=0).reshape(b, k).sum(axis=1))
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


def _estimate(observed: float, drawn: Floats) -> Estimate:
    """Return value and interval from a metric and its draws with as much noise again.

    The draws' bias about `observed` is taken off once for the value (`observed` has it already)
    and twice for the draws. Where the bias is large that is itself a guess, so the interval holds
    both the draws and the moved draws.
    """
    if not math.isfinite(observed):
        return Estimate(value=math.nan, low=math.nan, high=math.nan)
    usable = drawn[np.isfinite(drawn)]
    bias = float(np.median(usable)) - observed if len(usable) else 0.0
    low = float(np.quantile(np.nan_to_num(drawn, nan=-9.0), 0.025)) - max(2 * bias, 0.0)
    high = float(np.quantile(np.nan_to_num(drawn, nan=9.0), 0.975)) - min(2 * bias, 0.0)
    low, value, high = (float(x) for x in np.clip([low, observed - bias, high], 0.0, 1.0))
    return Estimate(value=value, low=min(low, value), high=max(high, value))
