"""Membership inference with reference models: scores, what they show, and how little that proves.

RMIA, the relative attack of Zarifzadeh, Liu & Shokri ("Low-cost high-power membership inference
attacks", ICML 2024). Passing it means nothing: natural units rarely show, noise or not.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri
from scipy.stats import rankdata

from dp_risk.audit.bounds import LARGEST, clopper_pearson
from dp_risk.audit.findings import HEURISTIC, Result

# False positive rates at which the attack is reported.
RATES = (0.01, 0.001)
# The rate that the threshold of the bound aims at.
AIMED = 0.01
ASSUMPTIONS = (
    "Units are natural rows on either side of a hash, not canaries put in by coins: the figure "
    "proves nothing about a unit that is worse off than these.",
    "Units count as independent though one model was trained on all of them.",
    "The threshold was fixed on reference models.",
)
_POINTS = 120


def ratios(target: ArrayLike, references: ArrayLike) -> NDArray[np.float64]:
    """Return how much likelier each unit is under the target than under the references.

    Parameters
    ----------
    target : array_like, shape (units,)
        Log of the probability that the target gives to the unit's label, at most 0.
    references : array_like, shape (references, units)
        The same of each reference model. A reference is trained on a random half of the units,
        so that their mean stands for models with and without the unit (online).

    Returns
    -------
    ndarray
        Log ratios.

    Raises
    ------
    ValueError
        On no reference, shapes that do not fit, or logs that are not finite.
    """
    seen, others = np.asarray(target, float), np.asarray(references, float)
    if others.ndim != 2 or not len(others) or others.shape[1:] != seen.shape:
        raise ValueError("references must have shape (references, units), and be at least one")
    if not (np.isfinite(seen).all() and np.isfinite(others).all()):
        raise ValueError("log probabilities must be finite")
    mean: NDArray[np.float64] = np.logaddexp.reduce(others, axis=0) - math.log(len(others))
    return seen - mean


def rmia(units: ArrayLike, population: ArrayLike) -> NDArray[np.float64]:
    """Return the score of each unit: the part of the population that its log ratio dominates.

    The paper's pairwise test with gamma = 1; half of a tie counts.

    Parameters
    ----------
    units, population : array_like, shape (n,) and (z,)
        Log ratios; no run was trained on the population, and z is at least 1.

    Returns
    -------
    ndarray of float64, shape (n,)
        In [0, 1].

    Raises
    ------
    ValueError
        Without a population.
    """
    found, others = np.asarray(units, float), np.sort(np.asarray(population, float))
    if not len(others):
        raise ValueError("the pairwise test needs a population")
    below = np.searchsorted(others, found, "left") + np.searchsorted(others, found, "right")
    return np.asarray(below / (2.0 * len(others)))


def curve(members: ArrayLike, others: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the counts of members and of others above each threshold, from none to all.

    Equal scores are above a threshold together: an attack does not tell them apart.
    """
    inside, outside = np.asarray(members, float), np.asarray(others, float)
    cuts = np.unique(np.concatenate([inside, outside]))[::-1]
    counts = [
        np.concatenate([[0], len(one) - np.searchsorted(np.sort(one), cuts, "left")])
        for one in (inside, outside)
    ]
    return counts[0].astype(np.int64), counts[1].astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class At:
    """The attack at one false positive rate.

    Parameters
    ----------
    rate : float
        The rate that was asked for.
    true_positive, low, high : float
        The largest rate of members above a threshold that so few others exceed, and its
        Clopper-Pearson interval.
    epsilon : float
        What that point would naively correspond to: no bound of anything.
    """

    rate: float
    true_positive: float
    low: float
    high: float
    epsilon: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Attack:
    """What an attack on one model shows.

    Parameters
    ----------
    members, others : int
        Units that were trained on, and that were not.
    auc, auc_low, auc_high : float
        Area under the curve, and its interval (DeLong, DeLong & Clarke-Pearson 1988).
    at : sequence of At
        One for each of `RATES`.
    false_positive, true_positive : sequence of float
        Points of the curve, about a hundred, evenly spaced on a logarithmic axis.
    """

    members: int
    others: int
    auc: float
    auc_low: float
    auc_high: float
    at: Sequence[At]
    false_positive: Sequence[float]
    true_positive: Sequence[float]

    def to_dict(self) -> dict[str, Any]:
        """Encode as plain JSON."""
        return {
            "members": self.members,
            "others": self.others,
            "auc": self.auc,
            "auc_low": self.auc_low,
            "auc_high": self.auc_high,
            "tpr_at_fpr": [dataclasses.asdict(at) for at in self.at],
            "roc": {
                "false_positive": list(self.false_positive),
                "true_positive": list(self.true_positive),
            },
        }


def judge(members: ArrayLike, others: ArrayLike, *, delta: float, confidence: float) -> Attack:
    """Return what scores of members and of others show.

    Parameters
    ----------
    members, others : array_like
        Scores; at least two of each.
    delta : float
        The claim's, in [0, 1).
    confidence : float
        Of every interval, in (0, 1).

    Raises
    ------
    ValueError
        On fewer scores, or scores that are not finite.
    """
    inside, outside = np.asarray(members, float), np.asarray(others, float)
    if min(inside.size, outside.size) < 2:
        raise ValueError("an attack is judged by at least two members and two others")
    if not (np.isfinite(inside).all() and np.isfinite(outside).all()):
        raise ValueError("scores must be finite")
    right, wrong = curve(inside, outside)
    area, error = _area(inside, outside)
    reach = float(ndtri((1 + confidence) / 2)) * error
    at = []
    for rate in RATES:
        # Rounded down: with too few others this is the point where none is above.
        found = int(right[wrong <= rate * outside.size + 1e-9][-1])
        low, high = interval(found, inside.size, confidence=confidence)
        point = found / inside.size
        at.append(At(rate=rate, true_positive=point, low=low, high=high,
                     epsilon=_naive(point, rate, delta)))  # fmt: skip
    wanted = np.geomspace(1 / outside.size, 1.0, _POINTS) * outside.size
    kept = np.unique(np.searchsorted(wrong, wanted + 1e-9, "right") - 1)
    return Attack(
        members=inside.size,
        others=outside.size,
        auc=area,
        auc_low=max(0.0, area - reach),
        auc_high=min(1.0, area + reach),
        at=at,
        false_positive=(wrong[kept] / outside.size).tolist(),
        true_positive=(right[kept] / inside.size).tolist(),
    )


def _area(members: NDArray[np.float64], others: NDArray[np.float64]) -> tuple[float, float]:
    """Return the area under the curve and its standard error, by placements."""
    m, n = len(members), len(others)
    ranks = rankdata(np.concatenate([members, others]))
    above = (ranks[:m] - rankdata(members)) / n
    below = 1 - (ranks[m:] - rankdata(others)) / m
    return float(above.mean()), math.sqrt(above.var(ddof=1) / m + below.var(ddof=1) / n)


def interval(found: int, trials: int, *, confidence: float) -> tuple[float, float]:
    """Return the two-sided Clopper-Pearson interval of a probability."""
    level = (1 - confidence) / 2
    low = 1 - clopper_pearson(trials - found, trials, level)
    return low, clopper_pearson(found, trials, level)


def _naive(true_positive: float, false_positive: float, delta: float) -> float:
    if true_positive <= delta:
        return 0.0
    return min(max(0.0, math.log((true_positive - delta) / false_positive)), LARGEST)


def counts_epsilon(
    found: int, members: int, false: int, others: int, *, delta: float, level: float
) -> float:
    """Return the epsilon below which these counts are unlikely, for units put in by coins.

    Every (epsilon, delta)-DP mechanism keeps TPR <= e^epsilon FPR + delta; the rates are bounded
    by Clopper & Pearson, half of the level each (Jagielski, Ullman & Oprea 2020).

    Parameters
    ----------
    found, members : int
        Members above a threshold that was fixed before, and all of them.
    false, others : int
        Others above it, and all of them.
    delta : float
        In [0, 1).
    level : float
        In (0, 1).

    Returns
    -------
    float
        At least 0.
    """
    true_positive = 1 - clopper_pearson(members - found, members, level / 2)
    return _naive(true_positive, clopper_pearson(false, others, level / 2), delta)


def threshold(others: Sequence[ArrayLike]) -> float:
    """Return the threshold that `AIMED` of the others exceed, on reference models alone.

    Parameters
    ----------
    others : sequence of array_like
        For each reference model, attacked in its turn, the scores of units it never saw.
    """
    joined = np.concatenate([np.asarray(one, float) for one in others])
    return float(np.quantile(joined, 1 - AIMED, method="higher"))


def result(
    members: ArrayLike, others: ArrayLike, *, at: float, delta: float, confidence: float
) -> Result:
    """Return the naive bound at a threshold that was fixed before, labelled a heuristic.

    Parameters
    ----------
    members, others : array_like
        Scores on the target.
    at : float
        Units with a score above it are called members.
    delta, confidence : float
        The claim's delta, and the confidence of the bound.
    """
    inside, outside = np.asarray(members, float), np.asarray(others, float)
    sizes = {"delta": delta, "level": 1 - confidence}
    m, n = inside.size, outside.size
    bound = counts_epsilon(int((inside > at).sum()), m, int((outside > at).sum()), n, **sizes)
    return Result(
        method="membership inference, RMIA (Zarifzadeh et al. 2024)",
        canaries=m,
        observations=m + n,
        confidence=confidence,
        epsilon_lower_bound=bound,
        ceiling=counts_epsilon(m, m, 0, n, **sizes),
        guarantee=HEURISTIC,
        assumptions=ASSUMPTIONS,
    )
