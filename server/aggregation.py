"""Pure functions from releases to weights: all of it is post-processing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Weights = Mapping[str, NDArray[Any]]


Shapes = Mapping[str, tuple[int, ...]]


def total(releases: Sequence[Weights]) -> dict[str, NDArray[np.float64]]:
    """Add up the arrays of several sites.

    Raises
    ------
    ValueError
        If there are none, or names or shapes differ.
    """
    if not releases:
        raise ValueError("nothing to add up")
    names = set(releases[0])
    out: dict[str, NDArray[np.float64]] = {}
    for name in sorted(names):
        out[name] = np.zeros(releases[0][name].shape)
    for release in releases:
        if set(release) != names:
            raise ValueError("sites released different arrays")
        for name, array in release.items():
            if array.shape != out[name].shape:
                raise ValueError("sites released different shapes")
            out[name] = out[name] + array
    return out


def parts(flat: NDArray[np.float64], shapes: Shapes) -> dict[str, NDArray[np.float64]]:
    """Split one axis into arrays of these shapes, in their order; what is left over is dropped.

    Raises
    ------
    ValueError
        If it is too short.
    """
    out, start = {}, 0
    for name, shape in shapes.items():
        stop = start + math.prod(shape)
        out[name] = flat[start:stop].reshape(shape)
        start = stop
    return out
