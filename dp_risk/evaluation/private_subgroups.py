"""Utility of groups of a private holdout from noisy histograms of its scores.

Nothing here reads a private row: the input is released histograms, so all of it is post-processing.
The same metrics as `dp_risk.evaluation.subgroups` has of public units.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dp_risk.evaluation.bins import Bins, checked_histogram
from dp_risk.evaluation.metrics import Estimate
from dp_risk.evaluation.noisy import (
    GUESS,
    auroc,
    estimate,
    ratio,
    refinement,
    simulated_errors,
)
from dp_risk.evaluation.subgroups import (
    GROUP_METRICS,
    MIN_OF_A_LABEL,
    MIN_UNITS,
    UNKNOWN,
    Group,
)

Floats = NDArray[np.float64]

# A count is known when it is this many standard deviations of its noise above zero.
KNOWN_STDS = 3.0
# How far the AUROC of the units inside one bin may be off.
_ORDER = 0.15
# Where a larger share of the pairs of a positive and a negative lie in one bin, their order there,
# which nobody sees, is most of an AUROC.
_MOST_UNSEEN = 0.5


def estimate_group(
    histogram: ArrayLike,
    bins: Bins,
    *,
    flagged: int,
    noise_std: float,
    draws: int = 1000,
    seed: int = 0,
) -> Group:
    """Return the metrics of one group with 95 % intervals for noise and sampling.

    Parameters
    ----------
    histogram : array_like, shape (2, B)
        Noisy counts by label and bin, summed over sites; units may be shared between cells.
    bins : Bins
        The bins it was taken over.
    flagged : int
        Units from this bin on are flagged, in 0..B.
    noise_std : float
        Standard deviation of the noise in a cell, at least 0.
    draws : int
        Simulated errors for the intervals, at least 100.
    seed : int
        Of the simulation.

    Returns
    -------
    Group
        Counts are rounded estimates, at least 0. Metrics of fewer units, or of fewer of a label,
        than `dp_risk.evaluation.subgroups` wants, or than stand out of the noise by `KNOWN_STDS`,
        are NaN, and so is the AUROC of a group that lies mostly in one bin; `reason` says so:
        ``few_units``, ``few_positives``, ``few_negatives`` or ``one_bin``. The AUPRC is always NaN.

    Raises
    ------
    ConfigurationError
        If a shape or range does not fit.

    Notes
    -----
    How the units of a group lie inside a bin is not seen. The interval of the calibration gap
    allows for a quarter of each bin's width, and that of the AUROC for an AUROC inside bins that is
    .15 off: one standard deviation each. The AUPRC of a few wide bins would be mostly such guesses,
    so there is none. Coverage is measured in benchmarks/private_subgroups.py.
    """
    counts = checked_histogram(histogram, (2, len(bins)), noise_std)
    rng = np.random.default_rng(seed)
    noise, sampled = simulated_errors(counts, noise_std, draws, rng)
    drawn = counts + noise + sampled
    negatives, positives = (float(part.sum()) for part in counts)
    # Standard deviation of the noise in the count of one label.
    std = noise_std * math.sqrt(len(bins))

    def clear(count: float, least: int, labels: int) -> bool:
        return count >= max(least, KNOWN_STDS * std * math.sqrt(labels))

    def spread(metric: Callable[[Floats], Floats], least: float = 0.0) -> Estimate:
        return estimate(float(metric(counts[None])[0]), metric(drawn), least=least)

    def rate(labels: slice) -> Estimate:
        return spread(
            lambda h: ratio(h[:, labels, flagged:].sum(axis=(1, 2)), h[:, labels].sum(axis=(1, 2)))
        )

    metrics = dict.fromkeys(GROUP_METRICS, UNKNOWN)
    reason = None
    if not clear(negatives + positives, MIN_UNITS, 2):
        reason = "few_units"
    elif not clear(positives, MIN_OF_A_LABEL, 1):
        reason = "few_positives"
    elif not clear(negatives, MIN_OF_A_LABEL, 1):
        reason = "few_negatives"
    if reason != "few_units":
        metrics["flagged_rate"] = rate(slice(0, 2))
        if clear(positives, 1, 1):
            metrics["true_positive_rate"] = rate(slice(1, 2))
        if clear(negatives, 1, 1):
            metrics["false_positive_rate"] = rate(slice(0, 1))
    if reason is None:
        metrics["calibration_gap"] = _gap(counts, drawn, bins, rng)
        unseen = float(np.maximum(counts, 0.0).prod(axis=0).sum()) / (negatives * positives)
        if unseen > _MOST_UNSEEN:
            reason = "one_bin"
        else:
            fine, order = refinement(bins), _ORDER * unseen * rng.standard_normal(len(drawn))
            value = float(auroc(counts[None] @ fine)[0])
            metrics["auroc"] = estimate(value, auroc(drawn @ fine) + order)
    return Group(
        units=max(0, round(negatives + positives)),
        positives=max(0, round(positives)),
        metrics=metrics,
        reason=reason,
    )


def _gap(counts: Floats, drawn: Floats, bins: Bins, rng: np.random.Generator) -> Estimate:
    """Return the mean score less the share of positives."""
    mean = bins.scores.mean(axis=1)

    def gap(h: Floats) -> Floats:
        total = h.sum(axis=(1, 2))
        return ratio(h.sum(axis=1) @ mean - h[:, 1].sum(axis=1), total)

    width = np.diff(np.concatenate([[0.0], 1 / (1 + np.exp(-bins.edges)), [1.0]]))
    share = np.maximum(counts.sum(axis=0), 0.0) / counts.sum()
    guess = rng.standard_normal((len(drawn), len(bins))) @ (GUESS * width * share)
    return estimate(float(gap(counts[None])[0]), gap(drawn) + guess, least=-1.0)
