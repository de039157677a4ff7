"""Exact draws from a law on few whole numbers, at the price of one table look-up.

Walker's alias method (Walker 1977, "An efficient method for generating discrete random variables
with general distributions"; built as in Vose 1991) in integers: every mass is a multiple of
2**-128, and every draw compares 128 uniform bits, the second 64 only where the first ones tie.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dp_risk.privacy.randomness import Randomness

MASS_BITS = 128


def whole_masses(weights: Sequence[int]) -> list[int]:
    """Return masses that sum to 2**128 in proportion to some weights.

    Each is rounded down and the largest takes the rest, so that the total variation distance to
    the exact proportions is below ``len(weights) * 2**-128``.

    Parameters
    ----------
    weights : sequence of int
        At least 0, not all of them 0.
    """
    total = sum(weights)
    masses = [(weight << MASS_BITS) // total for weight in weights]
    masses[max(range(len(masses)), key=masses.__getitem__)] += (1 << MASS_BITS) - sum(masses)
    return masses


class Alias:
    """A law on 0 .. n - 1 with masses in multiples of 2**-128, drawn exactly.

    Every column of the table is as likely as any other and holds two outcomes, its own up to a
    threshold and another one above: the top bits of a word choose the column, the others and where
    they tie those of one more word the outcome.

    Parameters
    ----------
    masses : sequence of int
        At least 0, with sum 2**128; at most 2**16 of them.

    Raises
    ------
    ValueError
        If the masses are no law.
    """

    def __init__(self, masses: Sequence[int]) -> None:
        bits = max(len(masses) - 1, 0).bit_length()
        if not 1 <= bits <= 16 or min(masses) < 0 or sum(masses) != 1 << MASS_BITS:
            raise ValueError("2 to 2**16 masses sum to 2**128")
        room = 1 << (MASS_BITS - bits)
        # A column holds its own outcome's mass, and what is left of it another's.
        own = [*masses, *[0] * ((1 << bits) - len(masses))]
        other = list(range(1 << bits))
        poor = [j for j, mass in enumerate(own) if mass < room]
        rich = [j for j, mass in enumerate(own) if mass > room]
        while poor:
            taker, giver = poor.pop(), rich[-1]
            other[taker] = giver
            own[giver] -= room - own[taker]
            if own[giver] <= room:
                rich.pop()
                if own[giver] < room:
                    poor.append(giver)
        self._shift, self._rest = np.uint64(64 - bits), np.uint64((1 << (64 - bits)) - 1)
        self._other = np.array(other, dtype=np.int64)
        self._high = np.array([mass >> 64 for mass in own], dtype=np.uint64)
        self._low = np.array([mass % 2**64 for mass in own], dtype=np.uint64)

    def draw(self, words: NDArray[np.uint64], randomness: Randomness) -> NDArray[np.int64]:
        """Turn uniform words into draws.

        Parameters
        ----------
        words : ndarray of uint64, shape (n,)
            Independent and used for nothing else.
        randomness : Randomness
            Source of a second word for each tie.

        Returns
        -------
        ndarray of int64, shape (n,)
        """
        column = (words >> self._shift).view(np.int64)
        rest, bound = words & self._rest, self._high[column]
        drawn = np.where(rest < bound, column, self._other[column])
        tied = np.flatnonzero(rest == bound)
        if len(tied):
            place = column[tied]
            below = randomness.words(len(tied)) < self._low[place]
            drawn[tied] = np.where(below, place, self._other[place])
        return drawn
