"""How long an honest answer can be: every unit is clipped, and the noise is known."""

from __future__ import annotations

import math

from dp_risk.privacy.plan import Plan
from dp_risk.privacy.schedule import COUNTS, TRAINING

# An honest answer of a round is longer than `longest` with at most this probability.
FAILURE = 1e-9
# A share of it for the count, for the batch and for the noise.
_LOG = math.log(3 / FAILURE)
# Far above the rounding of sums; a grid of shares has another noise by less than this.
_SLACK = 1.01


def longest(plan: Plan, units: float, *, sites: int, noises: float) -> float:
    """Return the largest L2 norm of an honest noisy sum of a round of training.

    Three things are bounded, each with probability 1 - `FAILURE` / 3, with t = log(3 / `FAILURE`).

    - The number of units, where it was released: its noise is below std sqrt(2 t).
    - The batch, Binomial(n steps, q): below its mean by Bernstein's inequality,
      t / 3 + sqrt(t^2 / 9 + 2 n steps q (1 - q) t) at most. Each of its units adds `clip_norm` at
      most.
    - The noise: the moment generating function of a discrete Gaussian is at most that of the
      Gaussian (Canonne, Kamath, Steinke 2020, "The discrete Gaussian for differential privacy"),
      so that the squared norm of d coordinates is below std^2 (d + 2 sqrt(d t) + 2 t) (Hsu, Kakade,
      Zhang 2012, "A tail inequality for quadratic forms of subgaussian random vectors").

    Rounding to the grid moves each site's sum by sqrt(d) / 2 grid steps at most.

    Parameters
    ----------
    plan : Plan
        The run's plan.
    units : float
        Declared or released number of units in the sum, at least 0.
    sites : int
        Sites that are in the sum.
    noises : float
        How often the noise that is accounted is in the sum, and in the number of units.

    Returns
    -------
    float
        Infinite without noise: nothing is clipped then.
    """
    if not plan.private:
        return math.inf
    grid, steps = plan.grid, plan.steps_per_round
    count = plan.sums[COUNTS].grid.std if plan.counts_noise else 0.0
    trials = steps * (units + count * math.sqrt(2 * noises * _LOG))
    rate, third = plan.sampling_rate, _LOG / 3
    spread = 2 * trials * rate * (1 - rate) * _LOG
    batch = min(trials, rate * trials + third + math.sqrt(third**2 + spread))
    dimension = plan.sums[TRAINING].dimension
    rounding = sites * steps * grid.step * math.sqrt(dimension) / 2
    tail = dimension + 2 * math.sqrt(dimension * _LOG) + 2 * _LOG
    noise = grid.std * math.sqrt(noises * steps * tail)
    return (plan.clip_norm * batch + rounding + noise) * _SLACK
