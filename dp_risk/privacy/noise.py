"""Integer Gaussian noise on a fixed grid, and how far it is from what is accounted.

Floating-point Gaussians leak through their low bits (Mironov 2012, "On significance of the least
significant bits for differential privacy"), so sums are rounded to an integer grid and get discrete
Gaussian noise (Canonne, Kamath, Steinke 2020, "The discrete Gaussian for differential privacy").
The standard deviation is always a power of two in grid steps, so that one table serves them all
and every exponent is a fraction that integers hold exactly. Where several sites share
the noise, it is the share's standard deviation that is the power of two: the step is fitted to the
sum of the shares.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dp_risk.privacy.alias import Alias, whole_masses
from dp_risk.privacy.randomness import Randomness

_MIN_CLIP_NORM = 1e-30
_MIN_BITS, _MAX_BITS = 20, 24
_MAX_STEPS = 2.0**62
# A draw is a cell of 2**(bits - 6) magnitudes, and a place in it.
_CELL_BITS = 6
# No magnitude lies beyond so many standard deviations: at most 2**-105 of the mass.
_TAIL = 12
# That, and 12 * 2**6 masses that are rounded to 2**-128.
_SAMPLER_DISTANCE = 2.0**-104
# Draws at a time: what they need stays in the cache of one core.
_BLOCK = 1 << 13
# Far above the rounding of a floating-point exponential, far below what would be slow.
_UNSURE = 2.0**-40


@lru_cache(maxsize=_CELL_BITS)
def _cells(bits: int) -> tuple[Alias, NDArray[np.uint64]]:
    """Return the law of the cells, and the words below which any place in a cell is kept.

    Of 2**bits cells to a standard deviation, cell h has a mass in proportion to
    exp(-(h / 2**bits)**2 / 2), which is what it would be if its first place stood for all.
    """
    weights = []
    with localcontext() as context:
        context.prec = 80
        # exp(-(h + 1)**2 c) is exp(-h**2 c) exp(-(2 h + 1) c).
        ratio = (Decimal(-1) / 2 ** (2 * bits + 1)).exp()
        weight, square = Decimal(1), ratio * ratio
        for _ in range(_TAIL << bits):
            weights.append(int(weight * 2**160))
            weight, ratio = weight * ratio, ratio * square
    cell = np.arange(_TAIL << bits)
    surely = np.exp(-(2 * cell + 1) / 2.0 ** (2 * bits + 1)) - 2.0**-30
    # Zero has one sign only: its cell is always looked at.
    surely[0] = 0.0
    # Whole multiples of 2**32, above the bits of a word that choose the place.
    return Alias(whole_masses(weights)), (surely * 2.0**32).astype(np.uint64) << np.uint64(32)


def _kept(
    cell: NDArray[np.int64], words: NDArray[np.uint64], bits: int, randomness: Randomness
) -> NDArray[np.bool_]:
    """Decide which draws are kept: the sign, the uniform and the place are those of `words`."""
    fine = max(bits - _CELL_BITS, 0)
    place = (words & np.uint64((1 << fine) - 1)).view(np.int64)
    uniform = (words << np.uint64(1)) >> np.uint64(fine + 1)
    cost = ((cell << (fine + 1)) + place) * place
    gap = np.exp(cost * -(2.0 ** -(2 * bits + 1))) - uniform * 2.0 ** (fine - 63)
    kept: NDArray[np.bool_] = gap > 0
    for i in np.flatnonzero(np.abs(gap) < _UNSURE):
        kept[i] = _exactly_kept(int(cost[i]), bits, int(uniform[i]), 63 - fine, randomness)
    negative = words.view(np.int64) < 0
    kept[negative & (cell == 0) & (place == 0)] = False
    return kept


def _exactly_kept(
    cost: int, bits: int, uniform: int, uniform_bits: int, randomness: Randomness
) -> bool:
    """Return True with probability exp(-cost / 2**(2 bits + 1)), the first uniform bits given."""
    for word in randomness.words(2):
        uniform, uniform_bits = (uniform << 64) + int(word), uniform_bits + 64
    with localcontext() as context:
        context.prec = 80
        return uniform < int((-Decimal(cost) / 2 ** (2 * bits + 1)).exp() * 2**uniform_bits)


def _block(bits: int, size: int, randomness: Randomness) -> NDArray[np.int64]:
    """Propose `size` draws and return those that are kept."""
    table, surely = _cells(min(bits, _CELL_BITS))
    fine = max(bits - _CELL_BITS, 0)
    words = randomness.words(2 * size)
    cell, words = table.draw(words[:size], randomness), words[size:]
    magnitude = (cell << fine) | (words & np.uint64((1 << fine) - 1)).view(np.int64)
    # All ones where negative: flipping them and taking them away turns the sign.
    sign = words.view(np.int64) >> 63
    drawn: NDArray[np.int64] = (magnitude ^ sign) - sign
    unsure = np.flatnonzero(words << np.uint64(1) >= surely[cell])
    kept = _kept(cell[unsure], words[unsure], bits, randomness)
    return np.delete(drawn, unsure[~kept])


def discrete_gaussian(bits: int, size: int, randomness: Randomness) -> NDArray[np.int64]:
    """Draw from the discrete Gaussian with standard deviation parameter 2**bits.

    A magnitude is ``m = h L + l`` with ``L = 2**(bits - 6)`` and ``0 <= l < L``. Cell h is drawn in
    proportion to ``exp(-(h L)**2 / (2 s**2))``, s = 2**bits, from a table that is the same for all
    bits from 6 on; sign and place l are uniform; and the draw is kept with probability
    ``exp(-(2 h L l + l**2) / (2 s**2))``. The product is ``exp(-m**2 / (2 s**2))`` for every m and
    both signs, of which zero keeps one: the discrete Gaussian. 99 % are kept.

    Whether a draw is kept is decided by one uniform of 45 bits or more. 98 % lie below a bound of
    their cell and need no exponential; the others compare with one in floating point, and where
    that is not sure (2**-39), with 128 more bits and an exponential of 80 digits.

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
        Of magnitudes below 12 standard deviations.

    Notes
    -----
    A draw is within a total variation distance of 2**-104 of its law. The cells left out beyond 12
    standard deviations have at most 2**-105 of the mass (2**-107 from 6 bits on). At most 768
    masses are rounded to 2**-128 by `Alias`, and what is kept of them by less than that.
    """
    if not 1 <= bits <= _MAX_BITS:
        raise ValueError(f"bits must lie in [1, {_MAX_BITS}]")
    out = np.empty(size, dtype=np.int64)
    filled = 0
    while filled < size:
        left = size - filled
        drawn = _block(bits, min(left + left // 64 + 4, _BLOCK), randomness)[:left]
        out[filled : filled + len(drawn)] = drawn
        filled += len(drawn)
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
