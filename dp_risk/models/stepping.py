"""From noisy gradients to weights: post-processing, the same at a server and at a tuning site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Weights = Mapping[str, NDArray[Any]]
_TINY = 1e-8


@dataclass(frozen=True, kw_only=True)
class Stepper:
    """Momentum SGD or Adam on the mean gradient, and an exponential average of the weights.

    Adam is Algorithm 1 of Kingma & Ba 2015, "Adam: a method for stochastic optimization", with
    `momentum` as its first decay rate.

    Parameters
    ----------
    learning_rate : float
        Step size for the mean gradient, above 0.
    momentum : float
        In [0, 1).
    averaging : float
        Weight of the past in the average, in [0, 1); 0 returns the last weights.
    adam : float or None
        Weight of the past in Adam's mean of squared gradients, in (0, 1); None: momentum SGD.
    """

    learning_rate: float
    momentum: float
    averaging: float
    adam: float | None = None

    def start(self, weights: Weights) -> Trajectory:
        """Return the trajectory at its start."""
        zero = {name: np.zeros(array.shape) for name, array in weights.items()}
        return Trajectory(weights=dict(weights), velocity=zero, squares=zero, average=zero, steps=0)

    def step(self, at: Trajectory, gradient: Weights) -> Trajectory:
        """Move by one mean gradient."""
        steps, squares = at.steps + 1, at.squares
        if self.adam is None:
            velocity = {k: self.momentum * v + gradient[k] for k, v in at.velocity.items()}
            moves = velocity
        else:
            first, second = self.momentum, self.adam
            velocity = {k: first * v + (1 - first) * gradient[k] for k, v in at.velocity.items()}
            squares = {k: second * v + (1 - second) * gradient[k] ** 2 for k, v in squares.items()}
            moves = {
                k: v / (1 - first**steps) / (np.sqrt(squares[k] / (1 - second**steps)) + _TINY)
                for k, v in velocity.items()
            }
        weights = {k: w - self.learning_rate * moves[k] for k, w in at.weights.items()}
        keep = self.averaging
        average = {k: keep * a + (1 - keep) * weights[k] for k, a in at.average.items()}
        return Trajectory(
            weights=weights, velocity=velocity, squares=squares, average=average, steps=steps
        )

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
    squares: Weights
    average: Weights
    steps: int
