"""Units of training: records, or accounts of many records, in batches that models read."""

from __future__ import annotations

from collections.abc import Iterator
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

    def sizes(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return with how many records, padding apart, each of some units takes part."""
        ...

    def batch(self, index: NDArray[np.int64]) -> Batch:
        """Return some units, in the order of `index`."""
        ...


def chunks(sizes: NDArray[np.int64], *, units: int, records: int) -> Iterator[NDArray[np.int64]]:
    """Split units into batches whose memory is bounded, padding included.

    Units of one size come together, so that a heavy account pads nobody else.

    Parameters
    ----------
    sizes : ndarray of int64, shape (n,)
        Records of each unit.
    units, records : int
        Most units of a batch, and most records (units times the largest of them) of a batch of
        more than one unit; at least 1.

    Yields
    ------
    ndarray of int64
        Positions in `sizes`; every position once.
    """
    order = np.argsort(sizes, kind="stable")
    start = 0
    while start < len(order):
        window = order[start : start + units]
        cells = np.arange(1, len(window) + 1) * sizes[window]
        stop = max(1, int(np.searchsorted(cells, records, side="right")))
        yield window[:stop]
        start += stop


def sound(batch: Batch, *, units: int, codes: int) -> Batch:
    """Return the units of a batch that a model can read, their padding blanked.

    Whether a unit stays depends on that unit alone.

    Parameters
    ----------
    batch : Batch
        Private units, which may hold anything.
    units : int
        How many units were asked for.
    codes : int
        Codes lie in [0, codes).

    Returns
    -------
    Batch
        The units without a code out of range or a number that is not finite, labels in float64.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        If the batch as a whole is not one: the caller tries fewer units.
    """
    labels, mask = batch.labels.to(torch.float64), batch.mask
    if mask is not None and mask.shape != labels.shape:
        raise ValueError("a mask is shaped like the labels")
    kept = torch.ones(units, dtype=torch.bool)
    tensors = [*batch.inputs, labels]
    for i, tensor in enumerate(tensors):
        if len(tensor) != units or tensor.shape[: labels.dim()] != labels.shape:
            raise ValueError("a batch holds each unit once")
        if mask is not None:
            padding = ~mask.bool().view(*mask.shape, *[1] * (tensor.dim() - mask.dim()))
            tensors[i] = tensor = tensor.masked_fill(padding, 0)
        number = tensor.is_floating_point()
        fine = torch.isfinite(tensor) if number else (tensor >= 0) & (tensor < codes)
        kept &= fine.unsqueeze(-1).flatten(1).all(-1)
    if not kept.all():
        tensors = [tensor[kept] for tensor in tensors]
        mask = None if mask is None else mask[kept]
    *inputs, labels = tensors
    return Batch(inputs=tuple(inputs), labels=labels, mask=mask)


def mean_losses(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return each unit's loss: the mean logistic loss over the records that are there.

    Parameters
    ----------
    logits : Tensor, shaped like the batch's labels
        Of a batch that is `sound`.

    Returns
    -------
    Tensor, shape (units,)
        0 for a unit without a record.

    Raises
    ------
    ValueError
        If the model gives another number of logits.
    """
    losses = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, batch.labels, reduction="none"
    ).unsqueeze(-1)
    if batch.mask is None:
        return losses.flatten(1).mean(1)
    mask = batch.mask.bool().unsqueeze(-1).flatten(1)
    return (losses.flatten(1) * mask).sum(1) / mask.sum(1).clamp(min=1)
