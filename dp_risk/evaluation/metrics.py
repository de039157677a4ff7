"""Exact classification metrics with bootstrap intervals.

They read labels and scores without a charge, so they are for public data only. A bootstrap
resample is a vector of multiplicities over rows sorted once by score; every metric is then a few
cumulative sums over a (resamples, rows) matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from dp_risk.types import ConfigurationError

Floats = NDArray[np.float64]

METRICS = ("auroc", "auprc", "recall_at_fpr_1pct", "precision_at_1pct", "brier", "ece")
ECE_BINS = 15
_CELLS = 4_000_000  # of one (resamples, rows) block: 32 MB a matrix


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A metric and its 95 % percentile interval.

    All three are NaN where the metric is undefined (AUROC with one class, for example).

    Parameters
    ----------
    value : float
        The metric on all rows.
    low, high : float
        ``low <= value <= high``.
    """

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float | None]:
        """Return the three numbers ready for JSON: None instead of NaN."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        return {name: x if math.isfinite(x) else None for name, x in numbers.items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class _Ranked:
    """Rows by falling score; `ends` are the last rows of each group of equal scores."""

    labels: Floats
    scores: Floats
    ends: NDArray[np.int64]
    bins: NDArray[np.int64]  # first row of each calibration bin that is not empty


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the area under the ROC curve; ties count one half.

    Parameters
    ----------
    labels : array_like, shape (n,)
        0 or 1.
    scores : array_like, shape (n,)
        Any finite numbers; larger means more likely positive.

    Returns
    -------
    float
        In [0, 1]; NaN unless both classes are present.

    Raises
    ------
    ConfigurationError
        If lengths differ, a label is neither 0 nor 1, or a score is not finite.
    """
    return _point(labels, scores, _auroc)


def auprc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the average precision (the area under the precision-recall steps).

    Parameters and errors are those of `auroc`.

    Returns
    -------
    float
        In (0, 1]; NaN without a positive row.
    """
    return _point(labels, scores, _auprc)


def evaluate(
    labels: ArrayLike, scores: ArrayLike, *, bootstrap: int = 200, seed: int = 0
) -> dict[str, Estimate]:
    """Return every metric of `METRICS` with a bootstrap interval.

    Parameters
    ----------
    labels : array_like, shape (n,)
        0 or 1; public.
    scores : array_like, shape (n,)
        Probabilities of the positive class, in [0, 1].
    bootstrap : int
        Resamples, at least 0; with 0 the interval is the value itself.
    seed : int
        Of the resampling.

    Returns
    -------
    dict of str to Estimate
        ``auroc``, ``auprc``, ``recall_at_fpr_1pct`` (largest recall at a threshold with false
        positive rate at most 1 %), ``precision_at_1pct`` (in the ``ceil(n / 100)`` highest scores;
        a tie at the cut counts by its mean), ``brier`` and ``ece`` (15 bins of equal width).

    Raises
    ------
    ConfigurationError
        If lengths differ, a label is neither 0 nor 1, a score is outside [0, 1] or `bootstrap` is
        negative.
    """
    y, p = checked(labels, scores)
    if len(p) and (p.min() < 0.0 or p.max() > 1.0):
        raise ConfigurationError("evaluation: scores must be probabilities in [0, 1]")
    if bootstrap < 0:
        raise ConfigurationError(f"evaluation.bootstrap must be at least 0, got {bootstrap}")
    if not len(y):
        return {name: Estimate(value=math.nan, low=math.nan, high=math.nan) for name in METRICS}
    ranked, rng = _rank(y, p), np.random.default_rng(seed)
    point = _all(ranked, np.ones((1, len(y))))
    blocks = []
    step = max(1, _CELLS // len(y))
    for start in range(0, bootstrap, step):
        blocks.append(_all(ranked, _resamples(rng, min(step, bootstrap - start), len(y))))
    found = {
        name: _estimate(float(point[name][0]), [block[name] for block in blocks])
        for name in METRICS
    }
    if blocks:
        top = math.ceil(len(y) / 100)
        found["precision_at_1pct"] = _widened(found["precision_at_1pct"], top)
    return found


def _widened(estimate: Estimate, trials: int) -> Estimate:
    """Return a rate's interval, no shorter than Clopper & Pearson's: 10 of 10 are not certain."""
    hits = estimate.value * trials
    low = float(stats.beta.ppf(0.025, hits, trials - hits + 1)) if hits > 0 else 0.0
    high = float(stats.beta.ppf(0.975, hits + 1, trials - hits)) if hits < trials else 1.0
    return Estimate(value=estimate.value, low=min(low, estimate.low), high=max(high, estimate.high))


def checked(labels: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    """Return labels and scores as vectors, each of shape (n,).

    Raises
    ------
    ConfigurationError
        If lengths differ, a label is neither 0 nor 1, or a score is not finite.
    """
    y, s = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if y.ndim != 1 or y.shape != s.shape:
        raise ConfigurationError(
            f"evaluation: labels {y.shape} and scores {s.shape} must be vectors of one length"
        )
    if not np.isin(y, (0.0, 1.0)).all():
        raise ConfigurationError("evaluation: labels must be 0 or 1")
    if not np.isfinite(s).all():
        raise ConfigurationError("evaluation: scores must be finite; the model may have diverged")
    return y, s


def _rank(y: Floats, s: Floats) -> _Ranked:
    order = np.argsort(-s, kind="stable")
    y, s = y[order], s[order]
    ends = np.append(np.flatnonzero(np.diff(s)), len(s) - 1)
    bucket = np.minimum(np.floor(s * ECE_BINS), ECE_BINS - 1)
    bins = np.append(0, np.flatnonzero(np.diff(bucket)) + 1)
    return _Ranked(labels=y, scores=s, ends=ends, bins=bins)


def _resamples(rng: np.random.Generator, count: int, n: int) -> Floats:
    drawn = rng.integers(n, size=(count, n)) + n * np.arange(count)[:, None]
    return np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n).astype(np.float64)


def _point(
    labels: ArrayLike, scores: ArrayLike, metric: Callable[[Floats, Floats], Floats]
) -> float:
    y, s = checked(labels, scores)
    if not len(y):
        return math.nan
    ranked = _rank(y, s)
    return float(metric(*_curve(ranked, np.ones((1, len(y)))))[0])


def _curve(ranked: _Ranked, weights: Floats) -> tuple[Floats, Floats]:
    """Return true and false positives at each distinct threshold, from (0, 0) on."""
    hits = np.cumsum(weights * ranked.labels, axis=1)[:, ranked.ends]
    false = np.cumsum(weights, axis=1)[:, ranked.ends] - hits
    start = np.zeros((len(weights), 1))
    return np.hstack([start, hits]), np.hstack([start, false])


def _divide(a: Floats, b: Floats) -> Floats:
    out: Floats = np.full(np.broadcast_shapes(a.shape, b.shape), np.nan)
    np.divide(a, b, out=out, where=b > 0)
    return out


def _auroc(hits: Floats, false: Floats) -> Floats:
    area = np.sum(np.diff(false, axis=1) * (hits[:, 1:] + hits[:, :-1]), axis=1) / 2
    return _divide(area, hits[:, -1] * false[:, -1])


def _auprc(hits: Floats, false: Floats) -> Floats:
    seen = hits[:, 1:] + false[:, 1:]
    precision = hits[:, 1:] / np.maximum(seen, 1.0)
    return _divide(np.sum(np.diff(hits, axis=1) * precision, axis=1), hits[:, -1])


def _recall(hits: Floats, false: Floats) -> Floats:
    # A count against a product: the ratio false / total rounds 1 of 100 either way.
    allowed = false <= 0.01 * false[:, -1:] + 1e-9
    recall = _divide(np.max(np.where(allowed, hits, 0.0), axis=1), hits[:, -1])
    return np.where(false[:, -1] > 0, recall, np.nan)


def _top(hits: Floats, false: Floats) -> Floats:
    seen = hits + false
    top = math.ceil(float(seen[0, -1]) / 100)
    after = np.argmax(seen >= top, axis=1)[:, None]
    seen_after, hits_after = (np.take_along_axis(x, after, axis=1)[:, 0] for x in (seen, hits))
    seen_before, hits_before = (
        np.take_along_axis(x, after - 1, axis=1)[:, 0] for x in (seen, hits)
    )
    rate = (hits_after - hits_before) / (seen_after - seen_before)
    return (hits_before + rate * (top - seen_before)) / top


def _all(ranked: _Ranked, weights: Floats) -> dict[str, Floats]:
    hits, false = _curve(ranked, weights)
    n = weights.sum(axis=1)
    gap = weights * (ranked.scores - ranked.labels)
    return {
        "auroc": _auroc(hits, false),
        "auprc": _auprc(hits, false),
        "recall_at_fpr_1pct": _recall(hits, false),
        "precision_at_1pct": _top(hits, false),
        "brier": weights @ (ranked.scores - ranked.labels) ** 2 / n,
        "ece": np.abs(np.add.reduceat(gap, ranked.bins, axis=1)).sum(axis=1) / n,
    }


def _estimate(value: float, blocks: list[Floats]) -> Estimate:
    draws = np.concatenate(blocks) if blocks else np.empty(0)
    draws = draws[np.isfinite(draws)]
    if math.isnan(value) or not len(draws):
        return Estimate(value=value, low=value, high=value)
    low, high = np.quantile(draws, [0.025, 0.975])
    # ECE is biased upwards under resampling: its raw interval can lie above the value.
    return Estimate(value=value, low=min(float(low), value), high=max(float(high), value))
