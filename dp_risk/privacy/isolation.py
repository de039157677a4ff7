"""A probe of the arithmetic: a unit's result must not depend on the others of its batch.

Matrix products round by the shape of a batch and by the place in it: other kernels do the last few
rows, or a single one. With weights chosen for it a model turns that last bit into anything at all,
so that one unit more would move what the others contribute. Batches therefore have constant shapes,
or a few that give the same, and this probe says whether in such a shape a unit's result is a
function of that unit alone.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import nn

from dp_risk.privacy.units import Batch

# Intel's library reads this before its first product. Without it results also depend on where in
# memory a row starts, which is the place in the batch when a row is no multiple of 64 bytes.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

Run = Callable[[nn.Module, Batch], Sequence[torch.Tensor]]

# A site's own log.
LOG = logging.getLogger("dp_risk.site")
# What was found in this process.
_FOUND: dict[Hashable, bool] = {}


def codes_of(module: nn.Module) -> int:
    """Return the number of codes that a module knows; many if it reads none."""
    tables = [m.num_embeddings for m in module.modules() if isinstance(m, nn.Embedding)]
    return max(tables, default=2**62)


def isolated(run: Run, module: nn.Module, blank: Batch, smaller: Sequence[int] = ()) -> bool:
    """Whether in a shape of batch neither a unit's place nor its company shows, to the last bit.

    Only public things are looked at: the structure of the module with random weights in place of
    its own, and random units. What was found for a structure, a shape and a number of threads is
    remembered. A batch that is always of one unit is isolated: use it where this says no.

    Parameters
    ----------
    run : callable
        What is to be probed: from (module, batch) to tensors whose first axis is the unit. It
        must leave a module as it was.
    module : Module
        Used as a pattern only.
    blank : Batch
        Any batch of the shape.
    smaller : sequence of int
        Numbers of units, below the blank's, of batches whose results are to be the same.

    """
    if len(blank.labels) == 1:
        return True
    tensors = [*blank.inputs, blank.labels]
    key = (
        run,
        type(module),
        repr(module),
        *((name, p.shape, p.dtype, p.requires_grad) for name, p in module.named_parameters()),
        *((t.shape, t.dtype) for t in tensors),
        blank.mask is None,
        tuple(smaller),
        torch.get_num_threads(),
    )
    if key not in _FOUND:
        _FOUND[key] = _probe(run, module, blank, smaller)
        if not _FOUND[key] and not smaller:
            LOG.warning(
                "this machine's arithmetic does not keep units apart in batches: they are taken "
                "one by one, which is slow"
            )
    return _FOUND[key]


def _probe(run: Run, module: nn.Module, blank: Batch, smaller: Sequence[int]) -> bool:
    generator = torch.Generator().manual_seed(1)
    pattern = copy.deepcopy(module)
    with torch.no_grad():
        # Not the module's own weights: zeros, or saturated ones, would hide every difference.
        for p in pattern.parameters():
            noise = torch.randn(p.shape, generator=generator, dtype=p.dtype)
            p.copy_(noise * max(1, *p.shape[-1:]) ** -0.5)
    mixed = _units(blank, codes_of(module), generator)
    order = torch.arange(len(blank.labels))
    # Every unit one place further; and the same unit at every place.
    expected = run(pattern, mixed)
    for some in (order, *(order[:size] for size in smaller)):
        for places in (some.roll(1), torch.zeros_like(some)):
            found = run(pattern, _taken(mixed, places))
            if not all(torch.equal(f, e[places]) for f, e in zip(found, expected, strict=True)):
                return False
    return True


def _units(blank: Batch, codes: int, generator: torch.Generator) -> Batch:
    """Return random units in the shape of a batch, of different sizes where it has a mask."""
    labels, mask = blank.labels, None
    if blank.mask is not None:
        units, records = blank.mask.shape
        sizes = torch.randint(1, records + 1, (units, 1), generator=generator)
        mask = torch.arange(records) < sizes
    there = torch.ones_like(labels, dtype=torch.bool) if mask is None else mask

    def some(like: torch.Tensor) -> torch.Tensor:
        if like.is_floating_point():
            drawn = torch.rand(like.shape, generator=generator, dtype=like.dtype)
        else:
            drawn = torch.randint(0, codes, like.shape, generator=generator, dtype=like.dtype)
        return drawn * there.view(*there.shape, *[1] * (like.dim() - there.dim()))

    return Batch(inputs=tuple(map(some, blank.inputs)), labels=some(labels).round(), mask=mask)


def _taken(batch: Batch, places: torch.Tensor) -> Batch:
    return Batch(
        inputs=tuple(t[places] for t in batch.inputs),
        labels=batch.labels[places],
        mask=None if batch.mask is None else batch.mask[places],
    )
