"""Poisson sampling at the price of the batch, not of the data set."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dp_risk.privacy.alias import MASS_BITS, Alias
from dp_risk.privacy.randomness import Randomness

# From here on a comparison for every unit costs less than a gap for every chosen one.
_DENSE = 0.125
_MOST_COLUMNS = 4096
# Units or gaps at a time: what they need stays in the cache of one core.
_BLOCK = 1 << 15


def _block(rate: float) -> int:
    """Return the gap from which on all gaps are one outcome of the table."""
    columns = 1 << math.ceil(math.log2(4 / rate)) if rate > 4 / _MOST_COLUMNS else _MOST_COLUMNS
    return columns - 1


@lru_cache(maxsize=64)
def _gaps(rate: float) -> Alias:
    """Return the law of min(gap, block), where a gap is k with probability rate (1 - rate)**k."""
    one = 1 << 256
    miss = int((1 - Fraction(rate)) * one)
    survival, beyond = one, [1 << MASS_BITS]
    for _ in range(_block(rate)):
        survival = survival * miss >> 256
        beyond.append(survival >> (256 - MASS_BITS))
    return Alias([*(a - b for a, b in pairwise(beyond)), beyond[-1]])


def poisson_sample(units: int, rate: float, randomness: Randomness) -> NDArray[np.int64]:
    """Choose each unit independently with probability `rate`.

    Up to a rate of 1/8 the gaps between chosen units are drawn, which are geometric, so that the
    work is O(rate * units); `distance` says how near they come to their exact law. Above it every
    unit compares bits of its own with the rate, exactly: work is O(units), that of the batch.

    Parameters
    ----------
    units : int
        Number of units, at least 0.
    rate : float
        Sampling rate, in (0, 1]; 1 takes every unit.
    randomness : Randomness
        Source of bits.

    Returns
    -------
    ndarray of int64
        Indices in increasing order, without repetition; may be empty.
    """
    if not 0 < rate <= 1:
        raise ValueError("a sampling rate lies in (0, 1]")
    if rate == 1:
        return np.arange(units)
    choose = _compared if rate > _DENSE else _leapt
    return choose(units, rate, randomness)


def _compared(units: int, rate: float, randomness: Randomness) -> NDArray[np.int64]:
    # A rate above 1/8 is a whole number of 2**-56: 16 bits, and 64 more where they tie.
    whole = int(Fraction(rate) * 2**80)
    high, low = np.uint16(whole >> 64), np.uint64(whole % 2**64)
    chunks = [np.empty(0, dtype=np.int64)]
    for start in range(0, units, _BLOCK):
        size = min(_BLOCK, units - start)
        bits = randomness.words(-(-size // 4)).view("<u2")[:size]
        chosen = bits < high
        tied = np.flatnonzero(bits == high)
        chosen[tied] = randomness.words(len(tied)) < low
        chunks.append(np.flatnonzero(chosen) + start)
    return np.concatenate(chunks)


def _leapt(units: int, rate: float, randomness: Randomness) -> NDArray[np.int64]:
    table, block = _gaps(rate), _block(rate)
    chunks = [np.empty(0, dtype=np.int64)]
    position = -1
    while position < units - 1:
        mean = (units - position) * (rate + 1 / block)
        size = min(int(mean + 3 * math.sqrt(mean)) + 4, _BLOCK)
        gaps = table.draw(randomness.words(size), randomness)
        # The last outcome means "no unit among the next block": go on from there.
        positions = np.cumsum(gaps + (gaps < block)) + position
        chunks.append(positions[gaps < block])
        position = int(positions[-1])
    index = np.concatenate(chunks)
    return index[: np.searchsorted(index, units)]


def distance(units: int, rate: float, steps: int) -> float:
    """Total variation distance between `steps` batches and exact Poisson batches.

    Every mass of a gap's law is rounded to 2**-128, so that a gap is within ``(block + 1) *
    2**-128`` of it; a batch takes one gap for each chosen unit, for each empty block, and one that
    leads beyond the last unit.
    """
    if rate > _DENSE:
        return 0.0
    block = _block(rate)
    draws = steps * (units * (rate + 1 / block) + 1)
    return draws * (block + 1) * 2.0**-MASS_BITS
