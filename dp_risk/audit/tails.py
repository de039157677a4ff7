"""p-values that are exact or bounds, and the verdict over many of them.

Every test here holds at any level: an audit decides at 1e-6, where a normal approximation of a
binomial or of a sum of squares no longer does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from dp_risk.audit.findings import Check

ALPHA = 1e-6  # False-alarm probability of one check on an honest trainer.
_FARTHEST = 64.0  # Squared standard scores are capped here: all counts beyond share one mass.


@dataclass(frozen=True, kw_only=True)
class Tail:
    """One test.

    Parameters
    ----------
    p_value : float
        At most level `a` with probability at most `a` on an honest trainer, for all that the
        test looked at together. NaN counts as 0.
    figure : str
        What was measured, in one line.
    """

    p_value: float
    figure: str


def verdict(name: str, tails: Sequence[Tail], summary: str, *, alpha: float) -> Check:
    """Decide on many tests at once, by Bonferroni.

    Parameters
    ----------
    name : str
        Name of the check.
    tails : sequence of Tail
        How many there are must not depend on what is tested. None at all means that there was too
        little to look at: the check holds, and says that it tested nothing.
    summary : str
        The figure of a check that holds, or why nothing was tested.
    alpha : float
        Probability that it fails on an honest trainer, in (0, 1).
    """
    if not tails:
        return Check(name=name, passed=True, figure=f"not tested: {summary}")
    worst = min(tails, key=lambda tail: np.nan_to_num(tail.p_value))
    p_value = min(1.0, float(np.nan_to_num(worst.p_value)) * len(tails))
    allowed = f"p {p_value:.2g} over {len(tails)} tests, at least {alpha:g} allowed"
    passed = p_value > alpha
    return Check(
        name=name, passed=passed, figure=f"{summary if passed else worst.figure}; {allowed}"
    )


def _two_sided(below: NDArray[Any], above: NDArray[Any]) -> NDArray[np.float64]:
    doubled = np.minimum(1.0, 2 * np.minimum(below, above))
    return np.asarray(np.nan_to_num(doubled, nan=0.0), dtype=np.float64)


def chi_square(total: ArrayLike, freedom: ArrayLike) -> NDArray[np.float64]:
    """Two-sided p-values of sums of squared standard normals, elementwise."""
    return _two_sided(special.chdtr(freedom, total), special.chdtrc(freedom, total))


def binomial(count: ArrayLike, trials: ArrayLike, rate: ArrayLike) -> NDArray[np.float64]:
    """Two-sided p-values of binomial counts, elementwise; conservative, as counts are discrete."""
    count, trials, rate = np.broadcast_arrays(count, trials, rate)
    below = np.where(count >= trials, 1.0, special.bdtr(count, np.maximum(trials, 1), rate))
    above = np.where(count <= 0, 1.0, special.bdtrc(count - 1, np.maximum(trials, 1), rate))
    return _two_sided(below, above)


def cosine(value: ArrayLike, dimension: ArrayLike) -> NDArray[np.float64]:
    """Two-sided p-values of the cosine between two independent isotropic vectors, elementwise.

    Its square follows Beta(1/2, (dimension - 1)/2): Student's law of a correlation, exact for
    Gaussian vectors of any length.
    """
    rest = np.clip(1 - np.square(np.asarray(value, dtype=np.float64)), 0, 1)
    half = (np.asarray(dimension) - 1) / 2
    return np.asarray(np.nan_to_num(special.betainc(half, 0.5, rest), nan=0.0))


def share(value: float, first: int, second: int) -> float:
    """Two-sided p-value of a part's share in a sum of squares.

    Parameters
    ----------
    value : float
        Squares of the part over all squares.
    first, second : int
        Degrees of freedom of the part and of the rest, at least 1.
    """
    below = special.betainc(first / 2, second / 2, value)
    above = special.betainc(second / 2, first / 2, 1 - value)
    return float(_two_sided(below, above))


def dispersion(counts: NDArray[np.int64], trials: int, rate: float) -> tuple[float, float]:
    """Compare the spread of independent binomial counts with what it should be.

    Parameters
    ----------
    counts : ndarray of int64, shape (any,)
        Independent counts under the hypothesis.
    trials : int
        Of each count, at least 1.
    rate : float
        In (0, 1).

    Returns
    -------
    p_value : float
        Two-sided. A Chernoff bound from the exact law of the capped squared standard score:
        chi-square tails are wrong at 1e-6 where `trials * rate` is small.
    ratio : float
        Mean squared deviation from the expected count over the binomial variance.
    """
    mean, variance = trials * rate, trials * rate * (1 - rate)
    reach = np.sqrt(_FARTHEST * variance)
    window = np.arange(max(0, np.ceil(mean - reach)), min(trials, np.floor(mean + reach)) + 1)
    mass = stats.binom.pmf(window, trials, rate)
    beyond = stats.binom.cdf(window[0] - 1, trials, rate) + stats.binom.sf(window[-1], trials, rate)
    scores = np.append(np.minimum((window - mean) ** 2 / variance, _FARTHEST), _FARTHEST)
    mass = np.append(mass, beyond)
    squares = (counts - mean) ** 2 / variance
    # The bound holds for each slope; the best of a grid is the best to two digits.
    expected = float(mass @ scores)
    scores, total = scores - expected, float((np.minimum(squares, _FARTHEST) - expected).sum())
    slopes = np.geomspace(1e-4, 1e3, 300)
    slopes = np.concatenate([-slopes, slopes])
    logs = special.logsumexp(slopes[:, None] * scores, b=mass, axis=1)
    best = float((len(counts) * logs - slopes * total).min())
    return min(1.0, 2 * float(np.exp(min(best, 0.0)))), float(squares.mean())
