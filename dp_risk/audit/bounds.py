"""From canaries with known inclusion to a lower bound on epsilon: the white-box audit.

The epsilon of a mu is computed here and not by `dp_risk.privacy.accounting`, so that one mistake
cannot hide the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import betainccinv, log_ndtr, ndtr, ndtri

from dp_risk.audit.findings import CONDITIONAL, Result

WHITE_BOX_ASSUMPTIONS = (
    "The noise is Gaussian with the same std in every step (check noise_shape).",
    "The noise is independent over steps, sites and coordinates (check noise_independence).",
    "Batches are Poisson samples at the configured rate, as logged (check sampler).",
)
# The loss grid has _CELLS * max(2, mu) cells per standard deviation of one step's loss. What it
# adds is of second order in their size: below _EXCESS of epsilon, or, where epsilon is itself a
# few cells, below a twentieth of one. Both are taken off.
_CELLS = 10
_EXCESS = 2e-3
# No epsilon above this is told apart from it: it protects nothing, and floats overflow.
LARGEST = 100.0


@dataclass(frozen=True, kw_only=True)
class WhiteBox:
    """What the white-box audit certifies.

    Parameters
    ----------
    mu_lower : float
        Lower bound on the sensitivity/noise ratio of one step, at least 0.
    result : Result
        The same as an epsilon of the whole run.
    """

    mu_lower: float
    result: Result


def _upper(successes: ArrayLike, trials: ArrayLike, level: float) -> NDArray[np.float64]:
    """Clopper-Pearson upper bounds; counts may be fractional (expected counts)."""
    k, n = np.broadcast_arrays(np.asarray(successes, float), np.asarray(trials, float))
    full = k >= n
    return np.where(full, 1.0, betainccinv(k + 1, np.where(full, 1.0, n - k), level))


def clopper_pearson(successes: int, trials: int, level: float) -> float:
    """Return an upper bound of a probability (Clopper & Pearson 1934).

    Parameters
    ----------
    successes, trials : int
        What was counted, ``0 <= successes <= trials``.
    level : float
        Probability, at most, that the bound lies below the truth; in (0, 1).

    Returns
    -------
    float
        In (0, 1]; 1 without trials.

    Raises
    ------
    ValueError
        On other counts or another level.
    """
    if not 0 <= successes <= trials:
        raise ValueError("successes must lie between 0 and trials")
    _check_level(level)
    return float(_upper(successes, trials, level))


def mu_from_errors(
    missed: ArrayLike, inside: ArrayLike, false: ArrayLike, outside: ArrayLike, *, level: float
) -> NDArray[np.float64]:
    """Return lower bounds on mu from the errors of a test (Nasr et al. 2023, Section 4).

    A mechanism that is mu-GDP keeps every test below
    Phi^-1(1 - false positive rate) - Phi^-1(false negative rate) = mu (Dong, Roth & Su 2022).

    Parameters
    ----------
    missed, inside : array_like
        Observations with the canary that the test calls empty, and how many there are.
    false, outside : array_like
        Observations without it that the test calls full, and how many there are. All four
        broadcast; expected counts may be fractional.
    level : float
        Probability, at most, that a bound exceeds the truth; half goes to each rate.

    Returns
    -------
    ndarray
        At least 0.

    Raises
    ------
    ValueError
        On a level outside (0, 1).
    """
    _check_level(level)
    false_positive = _upper(false, outside, level / 2)
    false_negative = _upper(missed, inside, level / 2)
    # -Phi^-1(p) is Phi^-1(1 - p) without the loss of digits near 1.
    bound: NDArray[np.float64] = np.maximum(-ndtri(false_positive) - ndtri(false_negative), 0.0)
    return bound


def mu_lower(inside: ArrayLike, outside: ArrayLike, *, threshold: float, level: float) -> float:
    """Return a lower bound on the sensitivity/noise ratio of one step.

    Parameters
    ----------
    inside, outside : array_like
        Observations of steps whose batch held the canary, and of steps whose batch did not.
    threshold : float
        At or below it the test says "outside". It is fixed before any observation is seen.
    level : float
        Probability, at most, that the bound exceeds the truth; in (0, 1).

    Returns
    -------
    float
        At least 0; 0 where either side has no observation.

    Raises
    ------
    ValueError
        On observations that are not finite, or a level outside (0, 1).
    """
    inside, outside = np.asarray(inside, float).ravel(), np.asarray(outside, float).ravel()
    if not (np.isfinite(inside).all() and np.isfinite(outside).all()):
        raise ValueError("observations must be finite")
    missed, false = int(np.sum(inside <= threshold)), int(np.sum(outside > threshold))
    return float(mu_from_errors(missed, inside.size, false, outside.size, level=level))


@lru_cache(maxsize=1024)
def gaussian_epsilon(
    mu: float, delta: float, *, sampling_rate: float = 1.0, steps: int = 1
) -> float:
    """Return what a lower bound on mu says about epsilon.

    The epsilon of `steps` Poisson-sampled Gaussian mechanisms with sensitivity/noise ratio `mu`,
    under add/remove adjacency. Without sampling it is exact (Balle & Wang 2018, Theorem 8).
    With sampling it is the pessimistic privacy loss distribution of `dp_accounting` (Doroshenko
    et al. 2022) on a grid that follows the loss of one step, less two parts in a thousand and a
    twentieth of a cell: more than what the grid adds, so that the value does not exceed the
    truth. An optimistic distribution is no use here, for it loses a part of every one of many
    steps.

    Parameters
    ----------
    mu : float
        At least 0.
    delta : float
        In (0, 1).
    sampling_rate : float
        In (0, 1].
    steps : int
        At least 1.

    Returns
    -------
    float
        0 for no mu, infinity for an infinite one.

    Raises
    ------
    ValueError
        On other arguments.
    """
    if not mu >= 0:
        raise ValueError("mu must be at least 0")
    if not 0 < delta < 1:
        raise ValueError("delta must lie in (0, 1)")
    if not (0 < sampling_rate <= 1 and steps >= 1):
        raise ValueError("the sampling rate must lie in (0, 1] and steps be at least 1")
    if mu == 0 or math.isinf(mu):
        return min(mu, LARGEST)
    if sampling_rate == 1:
        return min(_unsampled(mu * math.sqrt(steps), delta), LARGEST)
    from dp_accounting.pld import privacy_loss_distribution as pld

    cell = _spread(mu, sampling_rate) / (_CELLS * max(2.0, mu))
    loss = pld.from_gaussian_mechanism(
        1 / mu, sampling_prob=sampling_rate, value_discretization_interval=cell
    )
    epsilon = float(loss.self_compose(steps).get_epsilon_for_delta(delta))
    return min(max(0.0, epsilon * (1 - _EXCESS) - cell / 20), LARGEST)


def _unsampled(mu: float, delta: float) -> float:
    def excess(epsilon: float) -> float:
        low = math.exp(epsilon + float(log_ndtr(-epsilon / mu - mu / 2)))
        return float(ndtr(mu / 2 - epsilon / mu)) - low - delta

    if excess(0.0) <= 0:
        return 0.0
    return float(brentq(excess, 0.0, mu * (mu / 2 + 40), xtol=1e-12))


def _spread(mu: float, sampling_rate: float) -> float:
    """Return the std of the privacy loss of one step."""
    x = np.linspace(-10.0, mu + 10.0, 4001)
    weight = (1 - sampling_rate) * np.exp(-(x**2) / 2)
    weight += sampling_rate * np.exp(-((x - mu) ** 2) / 2)
    step = math.log(sampling_rate) + mu * x - mu * mu / 2
    loss = np.logaddexp(math.log1p(-sampling_rate), step)
    mean = np.average(loss, weights=weight)
    return math.sqrt(np.average((loss - mean) ** 2, weights=weight))


def white_box(
    inside: ArrayLike,
    outside: ArrayLike,
    *,
    canaries: int,
    sampling_rate: float,
    steps: int,
    delta: float,
    confidence: float,
    threshold: float = 0.5,
) -> WhiteBox:
    """Bound the epsilon of a run from what an adversary inside it sees of its canaries.

    Nasr et al. 2023, "Tight auditing of differentially private machine learning": observations
    bound mu, and a run of Poisson-sampled Gaussian steps with that mu has an epsilon.

    Parameters
    ----------
    inside, outside : array_like
        Observations scaled so that they are 1 plus noise where a step's batch held the canary,
        and noise where it did not.
    canaries : int
        Distinct canaries among them.
    sampling_rate, steps : float, int
        The run that is claimed.
    delta : float
        The claim's, in (0, 1).
    confidence : float
        In (0, 1).
    threshold : float
        Fixed before any observation is seen; a bound at a chosen one is not valid.

    Returns
    -------
    WhiteBox
        Conditional on the assumptions that it names.

    Raises
    ------
    ValueError
        On observations that are not finite, or another argument out of range.
    """
    level = 1 - confidence
    found = mu_lower(inside, outside, threshold=threshold, level=level)
    sizes = np.size(inside), np.size(outside)
    perfect = float(mu_from_errors(0, sizes[0], 0, sizes[1], level=level))

    def cost(mu: float) -> float:
        return gaussian_epsilon(mu, delta, sampling_rate=sampling_rate, steps=steps)

    result = Result(
        method="white-box gradient canaries (Nasr et al. 2023)",
        canaries=canaries,
        observations=sum(sizes),
        confidence=confidence,
        epsilon_lower_bound=cost(found),
        ceiling=cost(perfect),
        guarantee=CONDITIONAL,
        assumptions=WHITE_BOX_ASSUMPTIONS,
    )
    return WhiteBox(mu_lower=found, result=result)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError("a level must lie in (0, 1)")
