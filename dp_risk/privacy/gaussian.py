"""Counts, sums, histograms and quantiles with integer Gaussian noise on a fine grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dp_risk.privacy import readings
from dp_risk.privacy.accounting import Event
from dp_risk.privacy.mechanism import Arrays
from dp_risk.privacy.noise import Grid
from dp_risk.privacy.randomness import Randomness
from dp_risk.privacy.shares import ShareGrid, grid_of

# Floats are added with rounding, which depends on what else is added: far below this margin.
_CLIP_MARGIN = 1 - 1e-6
_MOST_UNITS = 2**53
# Weights are multiples of this, so that a cell's sum is exact up to two million units.
_WEIGHT_STEP = 2.0**-32


@dataclass(frozen=True, kw_only=True)
class GaussianCount:
    """The number of units.

    Privacy
    -------
    Sensitivity 1 under adding or removing one unit; event Gaussian(noise_multiplier).

    Parameters
    ----------
    noise_multiplier : float
        Standard deviation of the noise in units, above 0.
    share : ShareGrid, optional
        Of the secure sum that the output goes into (`dp_risk.privacy.shares`); the event is then
        that of the sum over sites.

    Raises
    ------
    ValueError
        If the noise multiplier is out of the grid's range.
    """

    noise_multiplier: float
    share: ShareGrid | None = None

    def __post_init__(self) -> None:
        _ = self._grid

    @property
    def _grid(self) -> Grid | ShareGrid:
        return grid_of(
            self.share,
            clip_norm=self.sensitivity,
            noise_multiplier=self.noise_multiplier,
            dimension=1,
        )

    @property
    def event(self) -> Event:
        """What one call costs."""
        return Event(noise_multiplier=self.noise_multiplier)

    @property
    def sensitivity(self) -> float:
        """One unit changes the count by one."""
        return 1.0

    def __call__(self, private: int, randomness: Randomness) -> Arrays:
        """Return {"units": noisy count}, shape (1,); may be negative.

        What is not a whole number counts as 0.
        """
        whole = isinstance(private, int | np.integer) and not isinstance(private, bool)
        units = min(max(int(private), 0), _MOST_UNITS) if whole else 0
        return {"units": self._grid.release(np.array([float(units)]), randomness)}


@dataclass(frozen=True, kw_only=True)
class GaussianSum:
    """The sum of one vector a unit, each clipped to an L2 norm.

    Privacy
    -------
    Sensitivity `clip_norm` under adding or removing one unit; event Gaussian(noise_multiplier). A
    vector of another length, or with an entry that is not a finite number, contributes zero.

    Parameters
    ----------
    clip_norm : float
        L2 bound of one unit's vector, above 0.
    dimension : int
        Length of the vectors, at least 1.
    noise_multiplier : float
        Noise standard deviation over `clip_norm`, above 0.
    share : ShareGrid, optional
        Of the secure sum that the output goes into (`dp_risk.privacy.shares`); the event is then
        that of the sum over sites.

    Raises
    ------
    ValueError
        If a parameter is out of the grid's range.
    """

    clip_norm: float
    dimension: int
    noise_multiplier: float
    share: ShareGrid | None = None

    def __post_init__(self) -> None:
        _ = self._grid

    @property
    def _grid(self) -> Grid | ShareGrid:
        return grid_of(
            self.share,
            clip_norm=self.clip_norm,
            noise_multiplier=self.noise_multiplier,
            dimension=self.dimension,
        )

    @property
    def event(self) -> Event:
        """What one call costs."""
        return Event(noise_multiplier=self.noise_multiplier)

    @property
    def sensitivity(self) -> float:
        """L2 bound of one unit's vector."""
        return self.clip_norm

    def __call__(self, private: Any, randomness: Randomness) -> Arrays:
        """Sum, and add noise.

        Parameters
        ----------
        private : array, shape (n, dimension)
            One row a unit.
        randomness : Randomness
            Bits for the noise.

        Returns
        -------
        {"sum": ndarray of float64, shape (dimension,)}
        """
        vectors = readings.rows(private, self.dimension)
        finite = np.isfinite(vectors).all(1)
        total = _clipped(vectors[finite], self.clip_norm).sum(0)
        return {"sum": self._grid.release(total, randomness)}


@dataclass(frozen=True, kw_only=True)
class GaussianHistogram:
    """A histogram of rows in which every unit has a weight of 1, shared evenly over its rows.

    Privacy
    -------
    Sensitivity 1 under adding or removing one unit with all its rows: a unit's weights over cells
    are not negative and sum to at most 1, so that their L2 norm is at most 1. Event
    Gaussian(noise_multiplier). A row outside the cells contributes nothing and still counts among
    its unit's rows; a row without a unit contributes nothing.

    Parameters
    ----------
    cells : int
        Number of cells, at least 1.
    noise_multiplier : float
        Standard deviation of each cell's noise, above 0.
    share : ShareGrid, optional
        Of the secure sum that the output goes into (`dp_risk.privacy.shares`); the event is then
        that of the sum over sites.

    Raises
    ------
    ValueError
        If a parameter is out of the grid's range.
    """

    cells: int
    noise_multiplier: float
    share: ShareGrid | None = None

    def __post_init__(self) -> None:
        _ = self._grid

    @property
    def _grid(self) -> Grid | ShareGrid:
        return grid_of(
            self.share,
            clip_norm=self.sensitivity,
            noise_multiplier=self.noise_multiplier,
            dimension=self.cells,
        )

    @property
    def event(self) -> Event:
        """What one call costs."""
        return Event(noise_multiplier=self.noise_multiplier)

    @property
    def sensitivity(self) -> float:
        """One unit changes the histogram by at most a weight of one."""
        return 1.0

    def __call__(self, private: Any, randomness: Randomness) -> Arrays:
        """Count, and add noise.

        Parameters
        ----------
        private : (units, cells), each an array of whole numbers, shape (n,)
            Row i belongs to unit ``units[i]`` and falls in cell ``cells[i]``. Where the lengths
            differ, a row without a cell falls nowhere and a cell without a unit is nobody's.
        randomness : Randomness
            Bits for the noise.

        Returns
        -------
        {"histogram": ndarray of float64, shape (cells,)}
        """
        units, found = _by_row(private)
        inside = (found >= 0) & (found < self.cells) & (np.floor(found) == found) & (units >= 0)
        size = np.bincount(units[units >= 0])
        weight = np.floor(1 / size[units[inside]] / _WEIGHT_STEP) * _WEIGHT_STEP
        cell = found[inside].astype(np.int64)
        total = np.zeros(self.cells)
        np.add.at(total, cell, weight)
        return {"histogram": self._grid.release(total, randomness)}


@dataclass(frozen=True, kw_only=True)
class GaussianQuantiles:
    """A histogram of numbers on equal public cells, for `quantiles` to read.

    Privacy
    -------
    Sensitivity 1 under adding or removing one unit with all its rows, as in `GaussianHistogram`;
    event Gaussian(noise_multiplier). A number beyond the range is clipped into it; one that is not
    finite contributes nothing.

    Parameters
    ----------
    low, high : float
        Public range, finite, low below high.
    cells : int
        Number of cells, at least 1.
    noise_multiplier : float
        Standard deviation of each cell's noise, above 0.
    share : ShareGrid, optional
        Of the secure sum that the output goes into (`dp_risk.privacy.shares`); the event is then
        that of the sum over sites.

    Raises
    ------
    ValueError
        If the range is empty or a parameter is out of the grid's range.
    """

    low: float
    high: float
    cells: int
    noise_multiplier: float
    share: ShareGrid | None = None

    def __post_init__(self) -> None:
        _check_range(self.low, self.high)
        _ = self._histogram

    @property
    def _histogram(self) -> GaussianHistogram:
        return GaussianHistogram(
            cells=self.cells, noise_multiplier=self.noise_multiplier, share=self.share
        )

    @property
    def event(self) -> Event:
        """What one call costs."""
        return self._histogram.event

    @property
    def sensitivity(self) -> float:
        """One unit changes the histogram by at most a weight of one."""
        return self._histogram.sensitivity

    def __call__(self, private: Any, randomness: Randomness) -> Arrays:
        """Count, and add noise.

        Parameters
        ----------
        private : (units, values), each an array, shape (n,)
            Row i belongs to unit ``units[i]`` and holds the number ``values[i]``.
        randomness : Randomness
            Bits for the noise.

        Returns
        -------
        {"histogram": ndarray of float64, shape (cells,)}
        """
        units, values = _pair(private)
        found = readings.numbers(values)
        found[~np.isfinite(found)] = np.nan
        offset = (np.clip(found, self.low, self.high) - self.low) / (self.high - self.low)
        cell = np.minimum(np.floor(offset * self.cells), self.cells - 1)
        return self._histogram((units, cell), randomness)


def quantiles(
    histogram: NDArray[np.float64], low: float, high: float, levels: Sequence[float]
) -> NDArray[np.float64]:
    """Return quantiles from a noisy histogram, or from a sum of such: post-processing.

    The cumulative counts are made monotone (the mean of the running maximum and the reversed
    running minimum) and are linear within a cell.

    Parameters
    ----------
    histogram : ndarray, shape (cells,)
        What `GaussianQuantiles` released over [low, high]; cells may be negative.
    low, high : float
        The public range.
    levels : sequence of float
        Each in [0, 1].

    Returns
    -------
    ndarray of float64, shape (len(levels),)
        In [low, high], increasing with the level; evenly spread where the histogram is empty.

    Raises
    ------
    ValueError
        If the histogram is not one axis of finite numbers, or a level or the range is impossible.
    """
    _check_range(low, high)
    counts, at = np.asarray(histogram, np.float64), np.asarray(levels, np.float64)
    if counts.ndim != 1 or not len(counts) or not np.isfinite(counts).all():
        raise ValueError("a histogram is one axis of finite numbers")
    if at.ndim != 1 or not ((at >= 0) & (at <= 1)).all():
        raise ValueError("a level lies in [0, 1]")
    edges = np.linspace(low, high, len(counts) + 1)
    raw = np.cumsum(counts)
    if not 0 < raw[-1] < math.inf:
        return low + at * (high - low)
    reached = np.maximum.accumulate(raw) / 2 + np.minimum.accumulate(raw[::-1])[::-1] / 2
    shares = np.concatenate([[0.0], np.clip(reached / raw[-1], 0, 1)])
    shares[-1] = 1.0
    cell = np.minimum(np.searchsorted(shares, at, side="right"), len(counts)) - 1
    gap = shares[cell + 1] - shares[cell]
    part = np.where(gap > 0, (at - shares[cell]) / np.where(gap > 0, gap, 1.0), 0.0)
    found = edges[cell] + part * (edges[cell + 1] - edges[cell])
    return np.asarray(np.clip(found, edges[cell], edges[cell + 1]))


def _check_range(low: float, high: float) -> None:
    if not (low < high and math.isfinite(high - low)):
        raise ValueError("low must be below high, both finite")


def _clipped(vectors: NDArray[np.float64], clip_norm: float) -> NDArray[np.float64]:
    """Clip finite rows; scaled by their largest entry first, so that no square overflows."""
    largest = np.abs(vectors).max(1, initial=0.0, keepdims=True)
    unit = vectors / np.where(largest > 0, largest, 1.0)
    norm = np.maximum(np.sqrt((unit**2).sum(1, keepdims=True)), 1.0)
    clipped: NDArray[np.float64] = unit * np.minimum(largest, clip_norm * _CLIP_MARGIN / norm)
    return clipped


def _pair(private: Any) -> tuple[Any, Any]:
    if isinstance(private, tuple | list) and len(private) == 2:
        return private[0], private[1]
    return (), ()


def _by_row(private: Any) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return each row's unit, -1 for none, and its cell, NaN for none."""
    raw_units, raw_cells = _pair(private)
    units, found = readings.groups(raw_units), readings.numbers(raw_cells)
    cells = np.full(len(units), np.nan)
    common = min(len(units), len(found))
    cells[:common] = found[:common]
    return units, cells
