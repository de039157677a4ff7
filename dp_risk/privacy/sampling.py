"""Poisson sampling at the price of the batch, not of the data set."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dp_risk.privacy.randomness import Randomness


@lru_cache(maxsize=64)
def _gap_thresholds(rate: float) -> NDArray[np.uint64]:
    """Return floor(2**64 P(gap <= k)) for k in 0..block-1; the rest is a longer gap."""
    block = min(math.ceil(4 / rate), 4096)
    one = 1 << 256
    miss = int((1 - Fraction(rate)) * one)
    survival, cumulative = one, []
    for _ in range(block):
        survival = survival * miss >> 256
        cumulative.append(min((one - survival) >> 192, 2**64 - 1))
    return np.array(cumulative, dtype=np.uint64)


def poisson_sample(units: int, rate: float, randomness: Randomness) -> NDArray[np.int64]:
    """Choose each unit independently with probability `rate`.

    The gaps between chosen units are geometric, so the work is O(rate * units). Each gap is drawn
    with 64-bit thresholds and is within 4096 * 2**-64 of its exact law (`distance`).

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
    thresholds = _gap_thresholds(rate)
    chunks: list[NDArray[np.int64]] = []
    position = -1
    while position < units - 1:
        want = int((units - position) * (rate + 1 / len(thresholds)) * 1.1) + 16
        words = randomness.words(want)
        gaps = np.searchsorted(thresholds, words, side="right").astype(np.int64)
        chosen = gaps < len(thresholds)
        # A draw beyond the table means "no unit among the next block": go on from there.
        positions = position + np.cumsum(np.where(chosen, gaps + 1, len(thresholds)))
        chunks.append(positions[chosen])
        position = int(positions[-1])
    index = np.concatenate(chunks) if chunks else np.empty(0, dtype=np.int64)
    return index[index < units]


def distance(units: int, rate: float, steps: int) -> float:
    """Total variation distance between `steps` batches and exact Poisson batches."""
    if rate == 1:
        return 0.0
    block = len(_gap_thresholds(rate))
    draws = 2 * steps * (units * (rate + 1 / block) + 32)
    return draws * block * 2.0**-64
