"""Poisson sampling at the price of the batch, not of the data set."""

from __future__ import annotations

import bisect
import math
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dp_risk.privacy.randomness import Randomness


@lru_cache(maxsize=64)
def _gap_thresholds(rate: float) -> tuple[NDArray[np.uint64], list[int]]:
    """Return floor(2**128 P(gap <= k)) for k in 0..block-1: the high words, and in full.

    The rest of the mass is a longer gap.
    """
    block = min(math.ceil(4 / rate), 4096)
    one = 1 << 256
    miss = int((1 - Fraction(rate)) * one)
    survival, cumulative = one, []
    for _ in range(block):
        survival = survival * miss >> 256
        cumulative.append(min((one - survival) >> 128, 2**128 - 1))
    return np.array([c >> 64 for c in cumulative], dtype=np.uint64), cumulative


def _gaps(rate: float, size: int, randomness: Randomness) -> NDArray[np.int64]:
    """Draw gaps; a second word is drawn only where the first one ties with a threshold."""
    high, full = _gap_thresholds(rate)
    words = randomness.words(size)
    gaps = np.searchsorted(high, words, side="right").astype(np.int64)
    for tie in np.flatnonzero((gaps > 0) & (high[np.maximum(gaps - 1, 0)] == words)):
        exact = (int(words[tie]) << 64) + int(randomness.words(1)[0])
        gaps[tie] = bisect.bisect_right(full, exact)
    return gaps


def poisson_sample(units: int, rate: float, randomness: Randomness) -> NDArray[np.int64]:
    """Choose each unit independently with probability `rate`.

    The gaps between chosen units are geometric, so the work is O(rate * units). Each gap is drawn
    with 128-bit thresholds and is within 4096 * 2**-129 of its exact law (`distance`).

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
    block = len(_gap_thresholds(rate)[1])
    chunks: list[NDArray[np.int64]] = []
    position = -1
    while position < units - 1:
        want = int((units - position) * (rate + 1 / block) * 1.1) + 16
        gaps = _gaps(rate, want, randomness)
        chosen = gaps < block
        # A draw beyond the table means "no unit among the next block": go on from there.
        positions = position + np.cumsum(np.where(chosen, gaps + 1, block))
        chunks.append(positions[chosen])
        position = int(positions[-1])
    index = np.concatenate(chunks) if chunks else np.empty(0, dtype=np.int64)
    return index[index < units]


def distance(units: int, rate: float, steps: int) -> float:
    """Total variation distance between `steps` batches and exact Poisson batches."""
    if rate == 1:
        return 0.0
    block = len(_gap_thresholds(rate)[1])
    draws = steps * (units * (rate + 1 / block) + 1)
    return draws * (block + 1) * 2.0**-129
