"""Public bins of a model's scores, chosen from a noisy histogram of their positions.

The first of two rounds of private evaluation (after Cormode & Markov, "Federated calibration and
evaluation of binary classifiers", VLDB 2023). Nothing here reads a private row but `score_position`
and `score_cells`, which a site uses inside a mechanism.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dp_risk.evaluation.metrics import ECE_BINS
from dp_risk.privacy.schedule import SCORE_CELLS
from dp_risk.types import ConfigurationError

Floats = NDArray[np.float64]

# Positions are asinh(logit): about linear within +-1, logarithmic beyond, cut off at +-20.
HIGH = math.asinh(20.0)
LOW = -HIGH
CELLS = SCORE_CELLS

_MIN_BINS, _MAX_BINS = 4, 20
_BIN_STDS = 4.0  # a bin should hold this many standard deviations of a position cell's noise
_TOP = 0.005  # the highest scores are split down to bins of this share
_ATOMS = 8  # points that stand for the scores inside a bin
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


def score_cells(edges: ArrayLike, logits: ArrayLike, labels: ArrayLike) -> NDArray[np.int64]:
    """Return the histogram cell of each row: ``label * B + bin``.

    Parameters
    ----------
    edges : array_like, shape (B - 1,)
        Inner edges of B bins in logits, strictly increasing; an edge belongs to the bin above it.
    logits : array_like, shape (n,)
        Any floats.
    labels : array_like, shape (n,)
        0 or 1.

    Returns
    -------
    ndarray of int64, shape (n,)
        In [0, 2 B); -1 where the logit is not finite or the label neither 0 nor 1.

    Raises
    ------
    ConfigurationError
        If the edges do not increase.
    """
    inner = checked_edges(edges)
    z, y = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    usable = np.isfinite(z) & ((y == 0) | (y == 1))
    place = np.searchsorted(inner, np.where(usable, z, 0.0), side="right")
    return np.where(usable, (len(inner) + 1) * (y == 1) + place, -1)


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
        edges, scores = checked_edges(self.edges), self.scores
        if scores.ndim != 2 or len(scores) != len(edges) + 1:
            raise ConfigurationError("evaluation: bins need one row of scores between two edges")
        if self.shares.shape != (len(scores),) or not (self.shares > 0).all():
            raise ConfigurationError("evaluation: the shares of bins must be positive")
        if not (scores.size and ((scores >= 0) & (scores <= 1)).all()):
            raise ConfigurationError("evaluation: the scores of bins must lie in [0, 1]")

    def __len__(self) -> int:
        return len(self.scores)


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
    counts = checked_histogram(histogram, (CELLS,), noise_std)
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


def nearest_edge(bins: Bins, at: float) -> int:
    """Return which of the inner edges is nearest to a probability, in logits."""
    clipped = min(max(at, 1e-12), 1 - 1e-12)
    return int(np.abs(bins.edges - math.log(clipped / (1 - clipped))).argmin())


def joined(bins: Bins, *, most: int, kept: int) -> tuple[Bins, int]:
    """Join neighbouring bins to a few of about equal share.

    Parameters
    ----------
    bins : Bins
        At least two.
    most : int
        Number of joined bins at most, at least 2.
    kept : int
        Which of the inner edges stays one.

    Returns
    -------
    Bins
        The joined bins.
    int
        How many of them lie below that edge.
    """
    below = np.cumsum(bins.shares)[:-1] / bins.shares.sum()
    wanted = np.arange(1, most - 1) / (most - 1)
    edges = sorted({kept, *(int(np.abs(below - level).argmin()) for level in wanted)})
    parts = np.split(np.arange(len(bins)), np.array(edges) + 1)
    atoms = bins.scores.shape[1]
    level = (np.arange(atoms) + 0.5) / atoms
    scores = []
    for part in parts:
        weight = np.repeat(bins.shares[part] / atoms, atoms)
        middle = (np.cumsum(weight) - weight / 2) / weight.sum()
        scores.append(np.interp(level, middle, bins.scores[part].ravel()))
    together = Bins(
        edges=bins.edges[edges],
        scores=np.array(scores),
        shares=np.array([bins.shares[part].sum() for part in parts]),
    )
    return together, edges.index(kept) + 1


def checked_histogram(histogram: ArrayLike, shape: tuple[int, ...], noise_std: float) -> Floats:
    """Return a histogram as an array of the given shape.

    Raises
    ------
    ConfigurationError
        If it has another shape or is not finite, or the noise is negative or not finite.
    """
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
