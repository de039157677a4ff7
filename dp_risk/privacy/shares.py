"""One site's share of a noisy sum that only all sites together make, on their common grid.

In trust `distributed` each of |U| sites adds noise so that any |U| - max_colluding of them carry
what is accounted. Every site finds the same grid from public facts alone: the plan and |U|.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dp_risk.privacy.noise import Grid
from dp_risk.privacy.randomness import Randomness

# The sampler never draws further from zero than 12 standard deviations.
_TAIL = 12
# A multiple of the step below this comes back from a float as the same whole number.
_MOST_EXACT = 2**51


@dataclass(frozen=True, kw_only=True)
class ShareGrid:
    """The grid of one secure sum over `participants` sites.

    Adding or removing a unit moves one site's sum by `clip_norm`, by sqrt(dimension) steps of
    rounding, and by the float slack of dividing by the step: at most units * sqrt(dimension) *
    2**-52 clip norms. The noise of any `participants` - `max_colluding` shares is
    `noise_multiplier` times all of that; the shares of the others are post-processing.

    Parameters
    ----------
    clip_norm : float
        L2 sensitivity of one site's sum before rounding, above 0.
    noise_multiplier : float
        Accounted standard deviation of the sum divided by sensitivity, above 0.
    dimension : int
        Number of coordinates, at least 1.
    participants : int
        |U|, the sites that answer the round.
    max_colluding : int
        Sites whose shares may be known to the server, at least 0 and below `participants`.
    units : int
        Most units of one site that the sum holds: public, at least 1. A sum beyond `units` clip
        norms is clamped to that before noise, which moves no two sums further apart.

    Raises
    ------
    ValueError
        If a number is out of range, or 64 bits do not hold `participants` sums with their noise.
    """

    clip_norm: float
    noise_multiplier: float
    dimension: int
    participants: int
    max_colluding: int
    units: int

    def __post_init__(self) -> None:
        if not 0 <= self.max_colluding < self.participants or self.units < 1:
            raise ValueError("participants exceed max_colluding, and units are at least 1")
        most = self._bound / self.step + _TAIL * 2**self._grid.bits
        if not (most < _MOST_EXACT and self.participants * most < 2**63):
            raise ValueError("64 bits do not hold the sum of so many units with its noise")

    @cached_property
    def _grid(self) -> Grid:
        slack = self.units * math.sqrt(self.dimension) * 2.0**-52
        return Grid(
            clip_norm=self.clip_norm * (1 + slack),
            noise_multiplier=self.noise_multiplier,
            dimension=self.dimension,
            shares=self.participants - self.max_colluding,
        )

    @property
    def _bound(self) -> float:
        return self.units * self.clip_norm

    @property
    def step(self) -> float:
        """Size of one grid step, in the units of `clip_norm`."""
        return self._grid.step

    @property
    def share_std(self) -> float:
        """Standard deviation of one site's noise: the accounted one / sqrt(|U| - colluding)."""
        return self._grid.share_std

    @property
    def accounted_std(self) -> float:
        """Standard deviation of the noise of |U| - max_colluding sites, which is accounted."""
        return self._grid.std

    @property
    def std(self) -> float:
        """Standard deviation of the noise in the sum of all `participants` shares."""
        return self.share_std * math.sqrt(self.participants)

    def distance(self, releases: int) -> float:
        """Total variation distance between what is drawn and what is accounted."""
        return self._grid.distance(releases)

    def release(self, total: NDArray[np.float64], randomness: Randomness) -> NDArray[np.float64]:
        """Round a site's sum to the grid and add its share of the noise.

        Alone this is worth less than the plan's noise: it leaves a site only masked.

        Parameters
        ----------
        total : ndarray, shape (dimension,)
            The clipped sum, finite.
        randomness : Randomness
            Source of bits.

        Returns
        -------
        ndarray of float64, shape (dimension,)
            A multiple of `step` in every coordinate, exactly what `encode` reads back.
        """
        return self._grid.release(np.clip(total, -self._bound, self._bound), randomness)

    def encode(self, share: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return a share in whole steps.

        Raises
        ------
        ValueError
            If the share has another shape, or no grid point in some coordinate.
        """
        found = np.asarray(share, np.float64)
        steps = np.rint(found / self.step)
        on_grid = (np.abs(steps) < _MOST_EXACT) & (steps * self.step == found)
        if found.shape != (self.dimension,) or not on_grid.all():
            raise ValueError("a share is one axis of grid points")
        return steps.astype(np.int64)

    def decode(self, total: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return a sum of whole steps in the units of `clip_norm`, shape (dimension,)."""
        return total.astype(np.float64) * self.step


def grid_of(
    share: ShareGrid | None, *, clip_norm: float, noise_multiplier: float, dimension: int
) -> Grid | ShareGrid:
    """Return the grid that a mechanism rounds to and draws from.

    Parameters
    ----------
    share : ShareGrid or None
        Of the secure sum that the mechanism's output goes into; None where a site adds all of the
        noise itself.
    clip_norm, noise_multiplier, dimension
        The mechanism's own, as in `ShareGrid`.

    Raises
    ------
    ValueError
        If the share is of a sum of another kind, or a number is out of the grid's range.
    """
    if share is None:
        return Grid(clip_norm=clip_norm, noise_multiplier=noise_multiplier, dimension=dimension)
    own = (clip_norm, noise_multiplier, dimension)
    if (share.clip_norm, share.noise_multiplier, share.dimension) != own:
        raise ValueError("a share of another sum than the mechanism's")
    return share
