"""Utility from the sites' noisy histograms of holdout scores: all of it is post-processing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dp_risk.evaluation.bins import CELLS, choose_bins
from dp_risk.evaluation.private import estimates, reliability
from dp_risk.privacy.noise import Grid
from dp_risk.privacy.plan import EVALUATION, SCORE_BINS, Plan
from server.aggregation import Weights, total

Ask = Callable[..., list[Weights]]
_DRAWS = 1000


def evaluate(plan: Plan, ask: Ask, *, capacity: float) -> dict[str, Any]:
    """Ask for two histograms and estimate the model's utility from their sums.

    Parameters
    ----------
    plan : Plan
        The run's plan.
    ask : callable
        Takes a purpose, the number of cells, and `edges` for an evaluation; returns the sites'
        releases, each one histogram of so many cells.
    capacity : float
        Share of units that can be reviewed, in (0, 1).

    Returns
    -------
    dict
        ``metrics`` (name to value, low, high), ``reliability``, ``capacity``, ``bins``, ``sites``.

    Raises
    ------
    FederationError
        If too few sites answer.
    """
    positions, noise = _summed(ask(SCORE_BINS, CELLS), plan.score_bins_noise)
    bins = choose_bins(positions, noise)
    edges = [float(edge) for edge in bins.edges]
    answers = ask(EVALUATION, 2 * len(bins), edges=edges)
    flat, noise = _summed(answers, plan.evaluation_noise)
    histogram = flat.reshape(2, len(bins))
    found = estimates(
        histogram, bins, noise_std=noise, capacity=capacity, draws=_DRAWS, seed=plan.seed
    )
    return {
        "metrics": {name: estimate.to_dict() for name, estimate in found.items()},
        "reliability": [
            {"score": point.score, "rate": point.rate.to_dict()}
            for point in reliability(histogram, bins, noise_std=noise, seed=plan.seed)
        ],
        "capacity": capacity,
        "bins": len(bins),
        "sites": len(answers),
    }


def _summed(answers: list[Weights], noise_multiplier: float) -> tuple[NDArray[np.float64], float]:
    """Return the sum of the sites' histograms, and the noise's standard deviation in a cell."""
    histogram = total(answers)["histogram"]
    grid = Grid(clip_norm=1.0, noise_multiplier=noise_multiplier, dimension=len(histogram))
    return histogram, grid.std * math.sqrt(len(answers))
