"""From noisy gradients to weights: post-processing, the same at a server and at a tuning site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Weights = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Stepper:
    """Momentum SGD on the mean gradient, and an exponential average of the weights.

    Parameters
    ----------
    learning_rate : float
        Step size for the mean gradient, above 0.
    momentum : float
        In [0, 1).
    averaging : float
        Weight of the past in the average, in [0, 1); 0 returns the last weights.
    """

    learning_rate: float
    momentum: float
    averaging: float

    def start(self, weights: Weights) -> Trajectory:
        """Return the trajectory at its start."""
        zero = {name: np.zeros(array.shape) for name, array in weights.items()}
        return Trajectory(weights=dict(weights), velocity=zero, average=zero, steps=0)

    def step(self, at: Trajectory, gradient: Weights) -> Trajectory:
        """Move by one mean gradient."""
        velocity = {k: self.momentum * v + gradient[k] for k, v in at.velocity.items()}
        weights = {k: w - self.learning_rate * velocity[k] for k, w in at.weights.items()}
        keep = self.averaging
        average = {k: keep * a + (1 - keep) * weights[k] for k, a in at.average.items()}
        return Trajectory(weights=weights, velocity=velocity, average=average, steps=at.steps + 1)

    def result(self, at: Trajectory) -> dict[str, NDArray[np.float64]]:
        """Return the averaged weights, without the bias of the start."""
        if at.steps == 0:
            return {name: np.asarray(w, dtype=np.float64) for name, w in at.weights.items()}
        share = 1 - self.averaging**at.steps
        return {name: a / share for name, a in at.average.items()}


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """Where training stands."""

    weights: Weights
    velocity: Weights
    average: Weights
    steps: int
