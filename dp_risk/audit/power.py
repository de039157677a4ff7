"""How many observations the white-box audit needs before it is run."""

from __future__ import annotations

from scipy.optimize import brentq
from scipy.special import ndtr

from dp_risk.audit.bounds import gaussian_epsilon, mu_from_errors

# More observations than any audit can make.
_MOST = 1 << 40


def needed(
    mu: float,
    *,
    sampling_rate: float,
    steps: int,
    delta: float,
    share: float,
    confidence: float,
    presence: float = 0.5,
) -> int:
    """Return how many observations with a canary certify a share of the true epsilon.

    The errors of the test at threshold 1/2 are taken at their expectation, so that an audit of
    this size reaches `share` in about one half of all runs: ask for a little more than you need.

    Parameters
    ----------
    mu : float
        Sensitivity/noise ratio of one step, above 0 and finite.
    sampling_rate, steps, delta : float, int, float
        The run that is claimed; see `gaussian_epsilon`.
    share : float
        Part of the run's epsilon that the bound is to reach, in (0, 1).
    confidence : float
        In (0, 1).
    presence : float
        Probability that a canary is in a site's data, in (0, 1). With probability
        ``presence * sampling_rate`` an observation is one with the canary; all others count as
        observations without it.

    Returns
    -------
    int
        At least 1.

    Raises
    ------
    ValueError
        On arguments out of range, or where no number of observations is enough.
    """
    if not (0 < mu < float("inf") and 0 < share < 1 and 0 < presence < 1):
        raise ValueError("mu must be above 0 and finite, share and presence in (0, 1)")

    def cost(candidate: float) -> float:
        return gaussian_epsilon(candidate, delta, sampling_rate=sampling_rate, steps=steps)

    goal = share * cost(mu)
    # Epsilon grows at least in proportion to mu wherever it is not zero; zero brackets the rest.
    start = share * mu if cost(share * mu) <= goal else 0.0
    enough: float = brentq(
        lambda candidate: cost(candidate) - goal, start, mu, rtol=1e-4, xtol=1e-9
    )
    ratio, error = 1 / (presence * sampling_rate) - 1, float(ndtr(-mu / 2))

    def reaches(inside: int) -> bool:
        outside = inside * ratio
        bound = mu_from_errors(
            inside * error, inside, outside * error, outside, level=1 - confidence
        )
        return float(bound) >= enough

    high = 1
    while not reaches(high):
        high *= 2
        if high > _MOST:
            raise ValueError("no number of observations reaches this share")
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return high
