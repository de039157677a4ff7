"""Integer Gaussian noise on a fixed grid, and how far it is from what is accounted.

Floating-point Gaussians leak through their low bits (Mironov 2012, "On significance of the least
significant bits for differential privacy"), so sums are rounded to an integer grid and get discrete
Gaussian noise (Canonne, Kamath, Steinke 2020, "The discrete Gaussian for differential privacy",
Algorithm 3). The standard deviation is always a power of two in grid steps, which makes every
acceptance probability a fraction that integer arithmetic holds exactly. Where several sites share
the noise, it is the share's standard deviation that is the power of two: the step is fitted to the
sum of the shares.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal, localcontext

import numpy as np
from numpy.typing import NDArray

from dp_risk.privacy.randomness import Randomness

_MIN_CLIP_NORM = 1e-100
_MIN_BITS, _MAX_BITS = 20, 24
_MAX_STEPS = 2.0**62
# Comparisons are exact to 2**-128; what is cut off lies beyond 10 standard deviations.
_SAMPLER_DISTANCE = 2.0**-78


def _exp_thresholds() -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return the high and low words of 2**128 exp(-v) for v = 1 .. 44."""
    with localcontext() as context:
        context.prec = 60
        values = [int((-Decimal(v)).exp() * 2**128) for v in range(1, 45)]
    high = np.array([v >> 64 for v in values], dtype=np.uint64)
    return high, np.array([v % 2**64 for v in values], dtype=np.uint64)


_EXP, _EXP_LOW = _exp_thresholds()
_EXP_ASCENDING, _EXP_LOW_ASCENDING = _EXP[::-1].copy(), _EXP_LOW[::-1].copy()


def _geometric(randomness: Randomness, size: int) -> NDArray[np.int64]:
    """Return v with P(v >= k) = exp(-k)."""
    words = randomness.words(size)
    reached = np.searchsorted(_EXP_ASCENDING, words, side="right").astype(np.int64)
    last = np.maximum(reached - 1, 0)
    tied = np.flatnonzero((reached > 0) & (_EXP_ASCENDING[last] == words))
    reached[tied] -= randomness.words(len(tied)) < _EXP_LOW_ASCENDING[last[tied]]
    return len(_EXP) - reached


def _bernoulli_exp(
    numerator: NDArray[np.int64], bits: int, randomness: Randomness
) -> NDArray[np.bool_]:
    """Return True with probability exp(-numerator / 2**bits), numerators in [0, 2**bits)."""
    alive = np.arange(len(numerator))
    scaled = numerator.astype(np.uint64) << np.uint64(64 - bits)
    odd = np.zeros(len(numerator), dtype=np.bool_)
    k = 1
    while len(alive):
        words = randomness.words(len(alive))
        bound = scaled[alive] // np.uint64(k)
        success = words < bound
        for tie in np.flatnonzero(words == bound):
            # The remainder of the division decides, with a second word.
            low = (int(scaled[alive[tie]]) % k << 64) // k
            success[tie] = int(randomness.words(1)[0]) < low
        odd[alive[~success]] = k % 2 == 1
        alive = alive[success]
        k += 1
    return odd


def discrete_gaussian(bits: int, size: int, randomness: Randomness) -> NDArray[np.int64]:
    """Draw from the discrete Gaussian with standard deviation parameter 2**bits.

    Parameters
    ----------
    bits : int
        log2 of the standard deviation in grid steps, 1 to 24.
    size : int
        Number of draws.
    randomness : Randomness
        Source of bits.

    Returns
    -------
    ndarray of int64, shape (size,)
    """
    if not 1 <= bits <= _MAX_BITS:
        raise ValueError(f"bits must lie in [1, {_MAX_BITS}]")
    out = np.empty(size, dtype=np.int64)
    filled, scale = 0, 1 << bits
    while filled < size:
        want = int(2.2 * (size - filled)) + 16
        words = randomness.words(want)
        offset = (words & np.uint64(scale - 1)).astype(np.int64)
        negative = (words >> np.uint64(63)).astype(np.bool_)
        keep = _bernoulli_exp(offset, bits, randomness)
        offset, negative = offset[keep], negative[keep]
        magnitude = offset + scale * _geometric(randomness, len(offset))
        keep = ~(negative & (magnitude == 0))
        magnitude, negative = magnitude[keep], negative[keep]
        square = (magnitude - scale) ** 2
        whole, part = square >> (2 * bits + 1), square & ((1 << (2 * bits + 1)) - 1)
        keep = _bernoulli_exp(part, 2 * bits + 1, randomness)
        words = randomness.words(len(whole))
        row = np.minimum(whole, len(_EXP)) - 1
        below = words < _EXP[row]
        tied = np.flatnonzero(words == _EXP[row])
        below[tied] = randomness.words(len(tied)) < _EXP_LOW[row[tied]]
        keep &= (whole == 0) | ((whole <= len(_EXP)) & below)
        magnitude = np.where(negative, -magnitude, magnitude)[keep][: size - filled]
        out[filled : filled + len(magnitude)] = magnitude
        filled += len(magnitude)
    return out


def sum_distance(std: float, shares: int) -> float:
    """Return how far a sum of noise shares is from what is accounted, a coordinate.

    The total variation distance between a sum of n discrete Gaussians of parameter `std` and one
    rounded Gaussian of variance S^2 - 1/12, S^2 = n std^2. The sum is within 10 (n - 1)
    exp(-pi^2 std^2) of one discrete Gaussian of variance S^2 (Kairouz, Liu, Steinke 2021, "The
    distributed discrete Gaussian mechanism for federated learning with secure aggregation": 10
    sum_k exp(-2 pi^2 std^2 k / (k + 1)), k = 1 .. n - 1). That is about 1/(2057 S^4) from the
    rounded one, since their variances agree and their fourth cumulants differ by 1/120; 1/(1000
    S^4) bounds it (tested numerically).

    Parameters
    ----------
    std : float
        Parameter of one share in grid steps, at least 1.
    shares : int
        Number of independent shares, at least 1.
    """
    return 1 / (1000 * (shares * std**2) ** 2) + 10 * (shares - 1) * math.exp(
        -((math.pi * std) ** 2)
    )


def _power_of_two(least: float) -> int:
    """Return the smallest b with 2**b >= least, exactly: all sites find the same."""
    mantissa, exponent = math.frexp(least)
    return exponent - (mantissa == 0.5)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The integer grid of one kind of release: its step, its noise, its distance.

    Rounding moves a neighbouring pair of sums by at most `clip_norm` plus sqrt(dimension) steps;
    the step is chosen so that the noise is `noise_multiplier` times that, which makes
    `noise_multiplier` the accounted one. The noise is the sum of `shares` draws of 2**bits steps,
    one at each of so many sites; what one site rounds moves no other site's sum.

    Parameters
    ----------
    clip_norm : float
        L2 sensitivity of the sum before rounding, above 0.
    noise_multiplier : float
        Accounted standard deviation divided by sensitivity, above 0.
    dimension : int
        Number of coordinates, at least 1.
    shares : int
        Number of releases whose noise is accounted together, at least 1.

    Raises
    ------
    ValueError
        If the noise multiplier or dimension needs a finer grid than 24 bits give.
    """

    clip_norm: float
    noise_multiplier: float
    dimension: int
    shares: int = 1

    def __post_init__(self) -> None:
        positive = self.clip_norm > 0 and self.noise_multiplier > 0 and self.dimension >= 1
        if not (positive and self.noise_multiplier < math.inf and self.shares >= 1):
            raise ValueError("clip_norm, noise_multiplier, dimension and shares must be positive")
        # Where floats lose their precision, neither the step nor the clipping would be exact.
        if not _MIN_CLIP_NORM <= self.clip_norm <= 1 / _MIN_CLIP_NORM:
            raise ValueError("clip_norm is too small or too large for the grid")
        if self.bits > _MAX_BITS:
            raise ValueError("the noise multiplier times sqrt(dimension) is too large for the grid")

    @property
    def bits(self) -> int:
        """log2 of one share's standard deviation in steps: rounding costs at most 1 %."""
        need = 101 * self.noise_multiplier * math.sqrt(self.dimension) / math.sqrt(self.shares)
        return max(_MIN_BITS, _power_of_two(need))

    @property
    def step(self) -> float:
        """Size of one grid step, in the units of `clip_norm`."""
        # A rounded Gaussian of variance S^2 - 1/12 matches the discrete Gaussian's variance S^2.
        accounted_std = math.sqrt(self.shares * 4.0**self.bits - 1 / 12)
        return self.clip_norm / (accounted_std / self.noise_multiplier - math.sqrt(self.dimension))

    @property
    def std(self) -> float:
        """Standard deviation of all shares together, in the units of `clip_norm`."""
        return self.share_std * math.sqrt(self.shares)

    @property
    def share_std(self) -> float:
        """Standard deviation of the noise of one release, in the units of `clip_norm`."""
        return self.step * 2.0**self.bits

    def distance(self, releases: int) -> float:
        """Total variation distance between what is drawn and what is accounted.

        `sum_distance`, and the sampler's own for every share; rounding is post-processing.
        """
        drawn = sum_distance(2.0**self.bits, self.shares) + self.shares * _SAMPLER_DISTANCE
        return releases * self.dimension * drawn

    def release(self, total: NDArray[np.float64], randomness: Randomness) -> NDArray[np.float64]:
        """Round a sum to the grid and add one share of the noise.

        Parameters
        ----------
        total : ndarray, shape (dimension,)
            The clipped sum, finite.
        randomness : Randomness
            Source of bits.

        Returns
        -------
        ndarray of float64, shape (dimension,)
            A multiple of `step` in every coordinate.
        """
        # Beyond what an integer holds a sum would wrap round; clipping moves nobody further apart.
        steps = np.clip(np.rint(total / self.step), -_MAX_STEPS, _MAX_STEPS).astype(np.int64)
        noise = discrete_gaussian(self.bits, len(steps), randomness)
        return (steps + noise).astype(np.float64) * self.step
