"""What is expected of weights before any row is read: how large they are, and which are alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """Some weights that are expected to go together.

    Parameters
    ----------
    name : str
        The parameter.
    start : int
        The first of them in the flattened parameter.
    covariance : ndarray, shape (n, n) or (n,)
        What is expected of them, in squared log-odds; positive semidefinite. One axis: variances
        of weights that say nothing about each other.
    power : int or None
        How the mean square of what a weight is multiplied with follows from its mean: 1 where that
        is 0 or 1 (a code), 2 where it is a number (Jensen's lower bound); None: it does not.
    """

    name: str
    start: int
    covariance: NDArray[np.float64]
    power: int | None

    @property
    def stop(self) -> int:
        """Behind the last of them."""
        return self.start + len(self.covariance)


Prior = Sequence[Block]

# Variances of a bin's height: of its own, and together with its neighbours over so wide a part of
# the public scale (squared exponential kernels; Rasmussen & Williams 2006, section 4.2).
OWN, NARROW, WIDE = 0.1, (0.3, 0.03), (1.0, 0.15)


def smooth(bins: int) -> NDArray[np.float64]:
    """Return the covariance of a numeric column's heights, neighbours being alike.

    Parameters
    ----------
    bins : int
        Number of bins, at least 1; they share [0, 1] evenly.

    Returns
    -------
    ndarray, shape (bins, bins)
    """
    centre = (np.arange(bins) + 0.5) / bins
    distance = centre[:, None] - centre
    out = OWN * np.eye(bins)
    for variance, width in (NARROW, WIDE):
        out += variance * np.exp(-0.5 * (distance / width) ** 2)
    return np.asarray(out)
