"""The least noise that keeps a cost within a target, in few evaluations of the cost."""

from __future__ import annotations

import math
from collections.abc import Callable

# What is found lies so little above the least, as a natural logarithm.
TOLERANCE = 1e-5
_LONGEST_STEP = math.log(4)
_MOST_LOG = 50.0


def smallest(cost: Callable[[float], float], target: float, start: float) -> float:
    """Return a noise multiplier whose cost is within a target, and hardly more than the least.

    Secant steps on logarithms, where costs are nearly straight, aimed at half the tolerance inside
    the target; halving, where they leave the bracket.

    Parameters
    ----------
    cost : callable
        Cost of a noise multiplier, falling in it; at least 0, may be infinite.
    target : float
        Above 0.
    start : float
        First guess, above 0.

    Returns
    -------
    float
        Of a cost that was evaluated and is not above `target`; either that cost or the noise
        multiplier is within a part of `TOLERANCE` of the limit.
    """

    def excess(place: float) -> float:
        value = cost(math.exp(place)) / target
        return max(-_MOST_LOG, min(_MOST_LOG, math.log(value))) if value > 0 else -_MOST_LOG

    low, high = -math.inf, math.inf
    place, slope = math.log(start), -1.0
    found = excess(place)
    while not -TOLERANCE <= found <= 0:
        # What costs exactly the target is enough, whatever a logarithm makes of it.
        low, high = (place, high) if found > 0 else (low, place)
        if high - low < TOLERANCE:
            return math.exp(high)
        step = -(found + TOLERANCE / 2) / slope
        following = place + max(-_LONGEST_STEP, min(_LONGEST_STEP, step))
        if not low < following < high:
            following = (low + high) / 2
        value = excess(following)
        slope = max(-8.0, min(-0.1, (value - found) / (following - place)))
        place, found = following, value
    return math.exp(place)
