"""Noisy counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dp_risk.privacy.accounting import Event
from dp_risk.privacy.mechanism import Arrays
from dp_risk.privacy.noise import Grid
from dp_risk.privacy.randomness import Randomness


@dataclass(frozen=True, kw_only=True)
class GaussianCount:
    """The number of units, with integer Gaussian noise.

    Privacy
    -------
    Sensitivity 1 under adding or removing one unit; event Gaussian(noise_multiplier).

    Parameters
    ----------
    noise_multiplier : float
        Standard deviation of the noise in units, above 0.
    """

    noise_multiplier: float

    @property
    def event(self) -> Event:
        """What one call costs."""
        return Event(noise_multiplier=self.noise_multiplier)

    @property
    def sensitivity(self) -> float:
        """One unit changes the count by one."""
        return 1.0

    def __call__(self, private: int, randomness: Randomness) -> Arrays:
        """Return {"units": noisy count}, shape (1,); may be negative."""
        grid = Grid(clip_norm=1.0, noise_multiplier=self.noise_multiplier, dimension=1)
        return {"units": grid.release(np.array([float(private)]), randomness)}
