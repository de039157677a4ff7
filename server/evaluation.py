"""Utility from the sites' noisy histograms of holdout scores: all of it is post-processing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dp_risk.evaluation.bins import CELLS, Bins, choose_bins
from dp_risk.evaluation.private import estimates, reliability
from dp_risk.privacy.plan import Plan
from dp_risk.privacy.schedule import EVALUATION, SCORE_BINS
from server.combining import Sum

Ask = Callable[..., Sum]
_DRAWS = 1000
# Name of the array that the sites' histogram mechanisms release.
HISTOGRAM = "histogram"


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """What an evaluation released.

    Parameters
    ----------
    bins : Bins
        The bins of the scores.
    histogram : ndarray of float64, shape (2, len(bins))
        Noisy counts by label and bin, over all sites.
    noise_std : float
        Standard deviation of the noise in a cell.
    threshold : float
        Probability above which the capacity lies; NaN where nothing stands out of the noise.
    """

    bins: Bins
    histogram: NDArray[np.float64]
    noise_std: float
    threshold: float


def evaluate(plan: Plan, ask: Ask, *, capacity: float) -> tuple[dict[str, Any], Seen]:
    """Ask for two histograms and estimate the model's utility from their sums.

    Parameters
    ----------
    plan : Plan
        The run's plan.
    ask : callable
        Takes a purpose, the number of cells, and `edges` for an evaluation; returns the sum of the
        sites' histograms, each of so many cells.
    capacity : float
        Share of units that can be reviewed, in (0, 1).

    Returns
    -------
    dict
        ``metrics`` (name to value, low, high), ``reliability``, ``capacity``, ``bins``, ``sites``.
    Seen
        What a further question can build on.

    Raises
    ------
    FederationError
        If too few sites answer.
    """
    positions = ask(SCORE_BINS, CELLS)
    bins = choose_bins(positions.arrays[HISTOGRAM], positions.std)
    edges = [float(edge) for edge in bins.edges]
    answers = ask(EVALUATION, 2 * len(bins), edges=edges)
    histogram, noise = answers.arrays[HISTOGRAM].reshape(2, len(bins)), answers.std
    found = estimates(
        histogram, bins, noise_std=noise, capacity=capacity, draws=_DRAWS, seed=plan.seed
    )
    record = {
        "metrics": {name: estimate.to_dict() for name, estimate in found.items()},
        "reliability": [
            {"score": point.score, "rate": point.rate.to_dict()}
            for point in reliability(histogram, bins, noise_std=noise, seed=plan.seed)
        ],
        "capacity": capacity,
        "bins": len(bins),
        "sites": len(answers.sites),
    }
    seen = Seen(bins=bins, histogram=histogram, noise_std=noise, threshold=found["threshold"].value)
    return record, seen
