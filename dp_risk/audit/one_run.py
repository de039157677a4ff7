"""The one-run audit: many canaries, each in by a fair coin, and one run of the mechanism."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import gammaln, ndtr, ndtri

from dp_risk.audit.bounds import gaussian_epsilon
from dp_risk.audit.findings import BOUND, CONDITIONAL, Result

COINS = "Each canary was in by the auditor's own fair coin, independent of everything else."
GAUSSIAN_CURVE = "The run's trade-off curve for one unit is that of a Gaussian mechanism."
# Bisection stops here: far below what the count of canaries resolves.
_PRECISION = 1e-4
_MOST_EPSILON, _MOST_MU = 64.0, 16.0
# Numbers of guesses that are tried when one is chosen.
_CHOICES = 24


class Bound(Protocol):
    """A lower bound on epsilon from counts: `one_run` or `one_run_fdp`."""

    def __call__(
        self, correct: int, guesses: int, canaries: int, *, delta: float, confidence: float
    ) -> float:
        """Return the bound, at least 0."""
        ...


def one_run(correct: int, guesses: int, canaries: int, *, delta: float, confidence: float) -> float:
    """Return a lower bound on epsilon from guesses about canaries.

    Steinke, Nasr & Jagielski 2023, "Privacy auditing with one (1) training run", Theorem 5.2:
    under (epsilon, delta)-DP and with q = e^epsilon / (1 + e^epsilon) the probability of at least
    v correct guesses out of r is at most beta + 2 m delta alpha, where
    beta = P[Bin(r, q) >= v] and alpha = max over i of P[v > Bin(r, q) >= v - i] / i.

    Parameters
    ----------
    correct, guesses, canaries : int
        v, r and m, ``0 <= correct <= guesses <= canaries``. The number of guesses is fixed before
        any score is seen.
    delta : float
        In [0, 1).
    confidence : float
        In (0, 1).

    Returns
    -------
    float
        The largest epsilon that is rejected, or 0.

    Raises
    ------
    ValueError
        On other counts, or another argument out of range.
    """
    _check(correct, guesses, canaries, delta, confidence)
    if correct == 0:
        return 0.0
    k = np.arange(guesses + 1)
    log_choose = gammaln(guesses + 1) - gammaln(k + 1) - gammaln(guesses - k + 1)
    distance = np.arange(1, correct + 1)

    def rejected(epsilon: float) -> bool:
        log_right, log_wrong = -math.log1p(math.exp(-epsilon)), -np.logaddexp(0.0, epsilon)
        mass = np.exp(log_choose + k * log_right + (guesses - k) * log_wrong)
        beta = mass[correct:].sum()
        alpha = np.max(np.cumsum(mass[correct - 1 :: -1]) / distance)
        return bool(beta + 2 * canaries * delta * alpha < 1 - confidence)

    return _largest(rejected, _MOST_EPSILON)


def one_run_fdp(
    correct: int, guesses: int, canaries: int, *, delta: float, confidence: float
) -> float:
    """Return a lower bound on epsilon from guesses, for a Gaussian trade-off curve.

    Mahloujifar, Melis & Chaudhuri 2025, "Auditing f-differential privacy in one run",
    Algorithm 3. Let r(i) and h(i) be the probabilities that a random canary is guessed correctly,
    or wrongly, while at least i guesses are correct. A flip of the canary's own coin turns the
    event of the first into that of the second with one correct guess less, so mu-GDP needs
    Phi^-1(h(i - 1)) >= Phi^-1(r(i)) - mu; and each count i in between adds to r and h as i to
    guesses - i. If r + h at the end exceeds guesses / canaries, which it equals, then as many
    correct guesses were less likely than the level, and mu is rejected.

    Parameters
    ----------
    correct, guesses, canaries, delta, confidence : int, int, int, float, float
        See `one_run`; delta is above 0 and is where the curve is read off.

    Returns
    -------
    float
        The epsilon at `delta` of the largest mu that is rejected, or 0.

    Raises
    ------
    ValueError
        On counts out of order, or another argument out of range.
    """
    _check(correct, guesses, canaries, delta, confidence)
    if correct == 0:
        return 0.0
    start = (1 - confidence) / canaries

    def rejected(mu: float) -> bool:
        right, wrong = start * correct, start * (guesses - correct)
        for i in range(correct - 1, -1, -1):
            least = float(ndtr(ndtri(right) - mu))
            if least <= wrong:  # then nothing changes any more
                return False
            right += (least - wrong) * i / (guesses - i)
            wrong = least
            if right + wrong > guesses / canaries:
                return True
        return False

    return gaussian_epsilon(_largest(rejected, _MOST_MU), delta)


def _largest(rejected: Callable[[float], bool], most: float) -> float:
    """Return the largest value that is rejected, from below, where rejection falls in it."""
    if not rejected(0.0):
        return 0.0
    low, high = 0.0, most
    while high - low > _PRECISION:
        middle = (low + high) / 2
        low, high = (middle, high) if rejected(middle) else (low, middle)
    return low


def guess(scores: ArrayLike, count: int) -> NDArray[np.int8]:
    """Guess which canaries were in.

    Parameters
    ----------
    scores : array_like
        One for each canary; higher where it looks to have been in.
    count : int
        How many guesses to make, at most the number of scores. The upper half of them says "in"
        and the lower half "out"; an odd one says "in".

    Returns
    -------
    ndarray of int8
        1 for in, -1 for out and 0 for no guess, as many as scores.

    Raises
    ------
    ValueError
        On scores that are not finite, or another count.
    """
    scores = np.asarray(scores, float)
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite")
    if not 0 <= count <= scores.size:
        raise ValueError("there are at most as many guesses as canaries")
    order = np.argsort(scores, kind="stable")
    guesses = np.zeros(scores.size, np.int8)
    guesses[order[: count // 2]] = -1
    guesses[order[scores.size - (count + 1) // 2 :]] = 1
    return guesses


def best_guesses(bound: Bound, mu: float, canaries: int, *, delta: float, confidence: float) -> int:
    """Choose the number of guesses from the claim alone.

    Parameters
    ----------
    bound : Bound
        What will judge the guesses.
    mu : float
        Distance between scores of canaries that are in and out, in units of their noise, as the
        claimed mechanism has it; at least 0.
    canaries : int
        How many there are.
    delta, confidence : float
        Those of the bound.

    Returns
    -------
    int
        The even number at which the expected count of correct guesses certifies most.

    Raises
    ------
    ValueError
        On a `mu` that is negative or not finite, or another argument out of range.
    """
    if not 0 <= mu < math.inf:
        raise ValueError("mu must be finite and at least 0")
    choices = np.unique(np.geomspace(1, max(canaries // 2, 1), _CHOICES).astype(int)) * 2
    choices = choices[choices <= canaries]
    if not choices.size:
        return canaries

    def certified(count: int) -> float:
        correct = int(count * _precision(mu, count / canaries))
        return bound(correct, count, canaries, delta=delta, confidence=confidence)

    return max((int(count) for count in choices), key=certified)


def _precision(mu: float, fraction: float) -> float:
    """Return the expected share of correct guesses when a fraction of all canaries is guessed."""

    def beyond(threshold: float) -> tuple[float, float]:
        return float(ndtr(mu / 2 - threshold)), float(ndtr(-mu / 2 - threshold))

    # Where all are guessed, the two ends meet in the middle.
    threshold = brentq(lambda t: sum(beyond(t)) - fraction, 0, mu + 10) if fraction < 1 else 0.0
    inside, outside = beyond(threshold)
    return inside / (inside + outside)


def one_run_results(
    scores: ArrayLike, present: ArrayLike, *, claimed_mu: float, delta: float, confidence: float
) -> tuple[Result, Result]:
    """Audit one run by the scores of its canaries.

    Each of the two forms makes its own number of guesses, chosen from the claim. Each holds at
    `confidence` by itself.

    Parameters
    ----------
    scores : array_like
        One for each canary; higher where it looks to have been in.
    present : array_like of bool
        Which canaries were in.
    claimed_mu : float
        See `best_guesses`.
    delta, confidence : float
        The claim's delta, in (0, 1), and the confidence of each result.

    Returns
    -------
    tuple of Result
        The (epsilon, delta) form, a bound, and the f-DP form, conditional on a Gaussian curve.

    Raises
    ------
    ValueError
        Without a score for each canary, on scores that are not finite, or another argument out of
        range.
    """
    present = np.asarray(present, bool)
    if present.shape != np.shape(scores):
        raise ValueError("there is one score for each canary")
    canaries = present.size

    def audit(bound: Bound, method: str, guarantee: str, *assumptions: str) -> Result:
        count = best_guesses(bound, claimed_mu, canaries, delta=delta, confidence=confidence)
        correct = int(np.sum(guess(scores, count) == np.where(present, 1, -1)))
        return Result(
            method=f"{method}, {count} guesses",
            canaries=canaries,
            observations=count,
            confidence=confidence,
            epsilon_lower_bound=bound(correct, count, canaries, delta=delta, confidence=confidence),
            ceiling=bound(count, count, canaries, delta=delta, confidence=confidence),
            guarantee=guarantee,
            assumptions=assumptions,
        )

    return (
        audit(one_run, "one run (Steinke et al. 2023)", BOUND, COINS),
        audit(
            one_run_fdp,
            "one run, f-DP (Mahloujifar et al. 2025)",
            CONDITIONAL,
            COINS,
            GAUSSIAN_CURVE,
        ),
    )


def _check(correct: int, guesses: int, canaries: int, delta: float, confidence: float) -> None:
    if not 0 <= correct <= guesses <= canaries:
        raise ValueError("there are at most as many correct guesses as guesses, and as canaries")
    if not (0 <= delta < 1 and 0 < confidence < 1):
        raise ValueError("delta must lie in [0, 1) and confidence in (0, 1)")
