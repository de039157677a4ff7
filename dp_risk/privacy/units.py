"""Units of training: records, or accounts of many records, in batches that models read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Some units, each with one record or with several: never flattened into records.

    Parameters
    ----------
    inputs : tuple of Tensor
        What the model takes, each of shape (units, ...) or (units, records, ...). Whole numbers
        are codes, everything else is a value.
    labels : Tensor, shape (units,) or (units, records)
        0 or 1.
    mask : Tensor of bool, shaped like `labels`, or None
        Which records there are; the others are padding and hold anything. None: all of them.
    """

    inputs: tuple[torch.Tensor, ...]
    labels: torch.Tensor
    mask: torch.Tensor | None = None


class Units(Protocol):
    """Private units: anything indexable by unit."""

    def __len__(self) -> int: ...

    @property
    def max_records(self) -> int:
        """Public bound on the records of a unit, at least 1; 1 where a record is a unit."""
        ...

    def blank(self, units: int, records: int) -> Batch:
        """Return so many units of nothing but zeros: shapes and types, which are public.

        Labels are float64. Where there is a mask it is false, and the second axis has `records`.
        """
        ...

    def sizes(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return with how many records, padding apart, each of some units takes part."""
        ...

    def batch(self, index: NDArray[np.int64]) -> Batch:
        """Return some units, in the order of `index`, padded to no more than the largest needs."""
        ...


# Bounds of what is in memory at once: units, records with padding, and numbers of each unit.
# Powers of two.
_UNITS = 4096
_RECORDS = 1024
_CELLS = 2**19
# A number beyond this cannot be read: squares of smaller ones neither overflow nor hide what a
# gradient that is near zero is multiplied with.
_LARGEST = 1e100
# Fewer rows than this at once waste the machine, until their gradients do not fit in memory.
_LEAST_ROWS = 16
_MOST_CELLS = 2**25


def capacity(records: int, dimension: int) -> int:
    """Return how many units a batch has at most: a function of public facts.

    Parameters
    ----------
    records : int
        Records of each unit with its padding, a power of two.
    dimension : int
        Numbers that are held of one unit, at least 1.

    Returns
    -------
    int
        A power of two; times `records` at least 16, or else 1.
    """
    most = max(
        1, min(_UNITS, (_RECORDS if records > 1 else _UNITS) // records, _CELLS // dimension)
    )
    units = max(1 << (most.bit_length() - 1), _LEAST_ROWS // records)
    return units if units * dimension <= _MOST_CELLS else 1


def lengths(most: int) -> list[int]:
    """Return every length that units of at most so many records are padded to."""
    return [1 << bits for bits in range((most - 1).bit_length() + 1)]


def smaller(most: int) -> list[int]:
    """Return the sizes below the largest that batches may have: a few units need no large one."""
    return [most // part for part in (4, 16) if most // part >= _LEAST_ROWS]


def batches(
    sizes: NDArray[np.int64], rooms: Mapping[int, Sequence[int]]
) -> Iterator[tuple[int, int, NDArray[np.int64]]]:
    """Split units into batches: each unit is padded as its own size says, to a power of two.

    How many blanks fill a batch up depends on who else is there, and no result may show it:
    `dp_risk.privacy.isolation` says which sizes are safe together.

    Parameters
    ----------
    sizes : ndarray of int64, shape (n,)
        Records of each unit.
    rooms : mapping of int to sequence of int
        The sizes of batches of each padded length, falling; the lengths are those of `lengths`.

    Yields
    ------
    (int, int, ndarray of int64)
        The padded length, the size of the batch, and at most so many positions in `sizes`; every
        position once.
    """
    if not len(sizes):
        return
    room = np.array(sorted(rooms))
    padded = room[np.searchsorted(room, sizes)]
    for length in np.unique(padded).tolist():
        members, falling = np.flatnonzero(padded == length), rooms[length]
        while len(members):
            # The largest that is not emptier than smaller ones would be.
            below = [*falling[1:], 0]
            units = next(
                u for u, b in zip(falling, below, strict=True) if len(members) > u - b or not b
            )
            yield length, units, members[:units]
            members = members[units:]


def fill(blank: Batch, found: Batch, *, at: slice, codes: int) -> torch.Tensor:
    """Copy units to their places in a blank batch, those apart that a model cannot read.

    Whether a unit is copied depends on that unit alone.

    Parameters
    ----------
    blank : Batch
        Zeros; units are copied into it.
    found : Batch
        Private units, which may hold anything.
    at : slice
        Their places: start and stop.
    codes : int
        Codes lie in [0, codes).

    Returns
    -------
    Tensor of bool, shape (units found,)
        Which units were copied: those without a code out of range, or a number that is not
        finite or beyond 1e100.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        If what was found as a whole is no such batch, before anything is copied: the caller tries
        fewer units.
    """
    targets, sources = [*blank.inputs, blank.labels], [*found.inputs, found.labels]
    lead, mask = found.labels.shape, found.mask
    if len(sources) != len(targets) or (mask is None) != (blank.mask is None):
        raise ValueError("a batch is not of the kind that its blank is")
    if lead[0] != at.stop - at.start or len(lead) != blank.labels.dim():
        raise ValueError("a batch holds each unit once")
    if mask is not None:
        if mask.shape != lead or lead[1] > blank.labels.shape[1]:
            raise ValueError("a mask is shaped like the labels, and fits")
        mask = mask.bool()
    kept = torch.ones(lead[0], dtype=torch.bool)
    for i, (target, source) in enumerate(zip(targets, sources, strict=True)):
        if source.shape != (*lead, *target.shape[len(lead) :]):
            raise ValueError("a batch holds each unit once")
        if source.is_complex() or source.is_floating_point() > target.is_floating_point():
            raise TypeError("whole numbers are codes, everything else is a value")
        source = source.to(target.dtype)
        if mask is not None:
            source = source.masked_fill(~_over(mask, source), 0)
        if not _readable(source, codes):
            number = source.is_floating_point()
            fine = source.abs() <= _LARGEST if number else (source >= 0) & (source < codes)
            kept &= fine.unsqueeze(-1).flatten(1).all(-1)
        sources[i] = source
    places = (at,) if mask is None else (at, slice(lead[1]))
    for target, source in zip(targets, sources, strict=True):
        target[places] = source if kept.all() else source.masked_fill(~_over(kept, source), 0)
    if mask is not None and blank.mask is not None:
        blank.mask[places] = mask & kept.unsqueeze(-1)
    return kept


def _readable(source: torch.Tensor, codes: int) -> bool:
    """Whether all is in range: two numbers say it, ten times as fast as all of them."""
    if not source.numel():
        return True
    low, high = torch.aminmax(source)
    if source.is_floating_point():
        return bool(low >= -_LARGEST and high <= _LARGEST)
    return bool(low >= 0 and high < codes)


def only(batch: Batch, there: torch.Tensor) -> Batch:
    """Return a batch of the same shape in which all other units are blank."""
    return Batch(
        inputs=tuple(t.masked_fill(~_over(there, t), 0) for t in batch.inputs),
        labels=batch.labels.masked_fill(~_over(there, batch.labels), 0),
        mask=None if batch.mask is None else batch.mask & there.unsqueeze(-1),
    )


def _over(flags: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return flags of the first axes in a shape that goes with all of them."""
    return flags.view(*flags.shape, *[1] * (like.dim() - flags.dim()))


def loss_gradients(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return the gradient of the sum of the units' losses at each logit.

    A unit's loss is the mean logistic loss over the records that are there; 0 without a record.

    Parameters
    ----------
    logits : Tensor, shaped like the batch's labels
        Of a batch that a model can read.

    Returns
    -------
    Tensor, shaped like the logits
        0 for what is not there.

    Raises
    ------
    ValueError
        If the model gives another number of logits.
    """
    if logits.shape != batch.labels.shape:
        raise ValueError("a model gives one logit a record")
    gradients = (torch.sigmoid(logits) - batch.labels).to(logits.dtype)
    if batch.mask is None:
        return gradients
    there = batch.mask.bool()
    return gradients.masked_fill(~there, 0.0) / there.sum(1, keepdim=True).clamp(min=1)
