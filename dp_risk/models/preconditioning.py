"""Steps that are long where much is known and short where noise would lead."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dp_risk.models.opening import Opening
from dp_risk.models.prior import Block, Prior

Weights = Mapping[str, NDArray[Any]]

# Length of the walk, in log-odds, that the noise of all steps alone would make, and the least
# ridge (docs/benchmarks.md, "Defaults").
WALK, LEAST_RIDGE = 6.0, 0.004
_MOST_RIDGE = 1e9
_BISECTIONS = 60


@dataclass(frozen=True, kw_only=True, eq=False)
class Preconditioner:
    """A positive semidefinite matrix a block, from mean gradients to steps.

    Parameters
    ----------
    prior : sequence of Block
        Which weights; all others stand still.
    matrices : tuple of ndarray, each of shape (n, n) or (n,)
        One a block; one axis: a diagonal.
    ridge : float
        What was added to the curvature, over the prior's covariance.
    """

    prior: Prior
    matrices: tuple[NDArray[np.float64], ...]
    ridge: float

    def __call__(self, gradient: Weights) -> dict[str, NDArray[np.float64]]:
        """Return the step for a mean gradient, of the same names and shapes."""
        flat = {name: array.ravel() for name, array in gradient.items()}
        out = {name: np.zeros(array.size) for name, array in gradient.items()}
        for block, matrix in zip(self.prior, self.matrices, strict=True):
            at = slice(block.start, block.stop)
            part = flat[block.name][at]
            out[block.name][at] = matrix @ part if matrix.ndim == 2 else matrix * part
        return {name: array.reshape(gradient[name].shape) for name, array in out.items()}


def fit(prior: Prior, opening: Opening, *, noise: float, steps: int) -> Preconditioner:
    """Return (H + ridge K^-1)^-1 for the prior's K and the curvature H that the opening tells.

    That is the step of Newton's method for a ridge regression with that prior, taking codes for
    independent: H is diagonal, positives (1 - positives) times the mean square of what a weight is
    multiplied with. The smallest ridge is taken at which the noise of all steps alone moves the
    weights by at most `WALK` log-odds: sqrt(steps) noise |P|_F <= WALK.

    Parameters
    ----------
    prior : sequence of Block
        Of the model.
    opening : Opening
        What the first rounds said.
    noise : float
        Standard deviation of the noise in one coordinate of a mean gradient, at least 0.
    steps : int
        Steps of rate 1 that will be taken, at least 1.
    """
    spectra = [_Spectrum.of(block, _curvature(block, opening)) for block in prior]
    reach = math.inf if noise == 0 else WALK / (noise * math.sqrt(steps))
    low, high = LEAST_RIDGE, _MOST_RIDGE
    if _norm(spectra, low) <= reach:
        high = low
    for _ in range(_BISECTIONS):
        middle = math.sqrt(low * high)
        if _norm(spectra, middle) > reach:
            low = middle
        else:
            high = middle
    return Preconditioner(
        prior=prior, matrices=tuple(one.inverse(high) for one in spectra), ridge=high
    )


def _curvature(block: Block, opening: Opening) -> NDArray[np.float64]:
    if opening.means is None or block.power is None:
        return np.zeros(block.stop - block.start)
    mean = opening.means[block.name].ravel()[block.start : block.stop]
    spread = opening.positives * (1 - opening.positives)
    return np.asarray(spread * np.clip(mean, 0.0, None) ** block.power)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Spectrum:
    """(H + ridge K^-1)^-1 = V (E + ridge)^-1 V': V = L Q, K = L L' and L' H L = Q E Q'.

    `vectors` has one axis where K is diagonal: V then is, too.
    """

    values: NDArray[np.float64]
    vectors: NDArray[np.float64]

    @classmethod
    def of(cls, block: Block, curvature: NDArray[np.float64]) -> _Spectrum:
        if block.covariance.ndim == 1:
            return cls(values=curvature * block.covariance, vectors=np.sqrt(block.covariance))
        size, basis = np.linalg.eigh(block.covariance)
        root = basis * np.sqrt(np.clip(size, 0.0, None))
        values, rotation = np.linalg.eigh(root.T @ (curvature[:, None] * root))
        return cls(values=np.clip(values, 0.0, None), vectors=root @ rotation)

    @cached_property
    def _gram(self) -> NDArray[np.float64]:
        return np.asarray((self.vectors.T @ self.vectors) ** 2)

    def inverse(self, ridge: float) -> NDArray[np.float64]:
        if self.vectors.ndim == 1:
            return self.vectors**2 / (self.values + ridge)
        return np.asarray((self.vectors / (self.values + ridge)) @ self.vectors.T)

    def squares(self, ridge: float) -> float:
        """Return the squared Frobenius norm of `inverse`."""
        if self.vectors.ndim == 1:
            return float((self.inverse(ridge) ** 2).sum())
        inverse = 1 / (self.values + ridge)
        return float(inverse @ self._gram @ inverse)


def _norm(spectra: list[_Spectrum], ridge: float) -> float:
    return math.sqrt(sum(one.squares(ridge) for one in spectra))
