"""Rules that combine the mean gradients of sites of which some may lie: pure functions.

Each takes an array of shape (sites, d), one mean gradient a row, and returns one of shape (d,).
Every site has one vote, whatever its size: a site's own word on its size weighs nothing.

References
----------
Yin, Chen, Ramchandran, Bartlett 2018, "Byzantine-robust distributed learning: towards optimal
statistical rates" (median and trimmed mean). Blanchard, El Mhamdi, Guerraoui, Stainer 2017,
"Machine learning with adversaries: Byzantine tolerant gradient descent" (Krum and multi-Krum).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Gradients = NDArray[np.float64]
# Pure noise that a rule is tried on: its standard deviation is known to better than 1 %.
_DRAWS, _COLUMNS = 20, 1000


class Rule(StrEnum):
    """How the answers of sites become one gradient."""

    SUM = "sum"
    MEDIAN = "median"
    TRIMMED_MEAN = "trimmed_mean"
    KRUM = "krum"
    MULTI_KRUM = "multi_krum"


def fewest(rule: Rule, byzantine: int) -> int:
    """Return how many sites a rule needs so that so many of them may lie."""
    if rule is Rule.SUM:
        return 1
    return 2 * byzantine + (3 if rule in (Rule.KRUM, Rule.MULTI_KRUM) else 1)


def median(means: Gradients) -> Gradients:
    """Return the median of each coordinate (Yin et al. 2018, Definition 1)."""
    return np.asarray(np.median(means, axis=0))


def trimmed_mean(means: Gradients, byzantine: int) -> Gradients:
    """Return the mean of each coordinate without the `byzantine` largest and smallest values.

    Definition 2 of Yin et al. 2018.
    """
    return np.asarray(np.sort(means, axis=0)[byzantine : len(means) - byzantine].mean(axis=0))


def krum(means: Gradients, byzantine: int) -> Gradients:
    """Return the one gradient that has the nearest neighbours (Blanchard et al. 2017, section 4).

    A gradient's score is the sum of its squared distances to the ``sites - byzantine - 2`` others
    that are nearest to it.
    """
    return np.asarray(means[_scores(means, byzantine).argmin()])


def multi_krum(means: Gradients, byzantine: int) -> Gradients:
    """Return the mean of the ``sites - byzantine`` gradients with the lowest scores of `krum`."""
    best = np.argsort(_scores(means, byzantine), kind="stable")
    return np.asarray(means[best[: len(means) - byzantine]].mean(axis=0))


def combine(rule: Rule, means: Gradients, byzantine: int) -> Gradients:
    """Apply a rule other than the sum.

    Parameters
    ----------
    rule : Rule
        Which.
    means : ndarray, shape (sites, d)
        Finite mean gradients.
    byzantine : int
        Sites that may lie, at least 0.

    Raises
    ------
    ValueError
        If there are fewer sites than the rule needs, or the rule is the sum.
    """
    if len(means) < fewest(rule, byzantine):
        raise ValueError(f"{rule} needs {fewest(rule, byzantine)} sites, {len(means)} are there")
    if rule is Rule.MEDIAN:
        return median(means)
    if rule is Rule.TRIMMED_MEAN:
        return trimmed_mean(means, byzantine)
    if rule is Rule.KRUM:
        return krum(means, byzantine)
    if rule is Rule.MULTI_KRUM:
        return multi_krum(means, byzantine)
    raise ValueError("a sum is not made of mean gradients")


def noise(rule: Rule, stds: Sequence[float], byzantine: int, *, dimension: int) -> float:
    """Return the noise in one coordinate of what a rule returns.

    The rule is applied to noise alone, of a fixed seed. The median of many sites has sqrt(pi / 2)
    times the noise of their sum over their units, whatever their sizes.

    Parameters
    ----------
    rule : Rule
        Any but the sum.
    stds : sequence of float
        Standard deviation of the noise in a coordinate of each site's mean gradient, at least 0.
    byzantine : int
        Sites that may lie.
    dimension : int
        Coordinates of a gradient, at least 1: Krum compares whole gradients.
    """
    rng, scales = np.random.default_rng(0), np.asarray(stds, dtype=np.float64)[:, None]
    whole = rule in (Rule.KRUM, Rule.MULTI_KRUM)
    columns = min(dimension, _COLUMNS) if whole else _COLUMNS
    squares = [
        (combine(rule, scales * rng.standard_normal((len(stds), columns)), byzantine) ** 2).mean()
        for _ in range(_DRAWS)
    ]
    return float(np.sqrt(np.mean(squares)))


def believed(sizes: Sequence[float], byzantine: int) -> list[float]:
    """Return the sites' sizes, none beyond what some honest site claims.

    The `byzantine` largest count as the next one, and so do the smallest.

    Parameters
    ----------
    sizes : sequence of float
        What the sites claim, more than twice as many as may lie.
    byzantine : int
        Sites that may lie.
    """
    order = sorted(sizes)
    low, high = order[byzantine], order[len(order) - 1 - byzantine]
    return [min(max(size, low), high) for size in sizes]


def _scores(means: Gradients, byzantine: int) -> NDArray[np.float64]:
    near = max(1, len(means) - byzantine - 2)
    # Row by row: a Gram matrix would lose small distances between long gradients.
    squares = np.stack([((means - one) ** 2).sum(axis=1) for one in means])
    # The nearest is the gradient itself, at 0.
    return np.asarray(np.sort(squares, axis=1)[:, 1 : near + 1].sum(axis=1))
