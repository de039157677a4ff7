"""DP-SGD steps through Opacus (Abadi et al. 2016, Algorithm 1), as a mechanism.

One backward pass gives what each unit adds (`one_pass`), and Opacus owns the step; clipping and
summing happen in float64 with malformed units contributing zero, and the noise is integer noise on
a grid. A unit may be an account of many records: its loss is the mean over them, and its gradient
is what is clipped.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.optimizers import DPOptimizer
from torch import nn

from dp_risk.privacy.accounting import Event
from dp_risk.privacy.isolation import codes_of, isolated
from dp_risk.privacy.mechanism import Arrays
from dp_risk.privacy.noise import Grid
from dp_risk.privacy.one_pass import OnePass, written_out
from dp_risk.privacy.per_unit import Part
from dp_risk.privacy.perceptron import Described
from dp_risk.privacy.randomness import Randomness
from dp_risk.privacy.sampling import poisson_sample
from dp_risk.privacy.shares import ShareGrid, grid_of
from dp_risk.privacy.units import (
    Batch,
    Units,
    batches,
    capacity,
    fill,
    lengths,
    only,
    smaller,
)

# Opacus' hooks are meant to fire on inputs without gradients.
warnings.filterwarnings("ignore", message="Full backward hook is firing")

# A unit's clipped gradient is a function of that unit alone, to the last bit; the margin is for
# the rounding of its norm, and of sums. A batch of B units is one product of matrices, in any
# order: a coordinate has at most B terms, or B S for a code that a unit may have S times, of which
# all of one unit have one sign. Over n units in n / B batches that is at most (B S + n / B) n 2^-53
# clip norms. Worst cases: 1e-4 for a million units one by one, 8e-6 for ten million by 4096.
_CLIP_MARGIN = 1 - 1e-3
MAX_WEIGHT = 1e3


class _Engine(Protocol):
    """What gives the parts of each unit's gradient in one pass."""

    def backward(self, batch: Batch) -> tuple[torch.Tensor, list[Part]]:
        """Return logits and parts."""
        ...

    def forget(self) -> None:
        """Drop what is held of a pass that failed."""
        ...

    def close(self) -> None:
        """Leave the module as it was."""
        ...


class _GridOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus' optimizer with float64 clipping and noise on a grid."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        clip_norm: float,
        grid: Grid | ShareGrid | None,
        randomness: Randomness,
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=grid.noise_multiplier if grid else 0.0,
            max_grad_norm=clip_norm,
            expected_batch_size=None,
            loss_reduction="sum",
        )
        self._grid = grid
        self._randomness = randomness

    def clip_and_accumulate(self, parts: Sequence[Part], there: torch.Tensor) -> None:
        """Add the clipped gradients of the units that are there; the others count nothing."""
        squares = _squares(parts)
        finite = torch.isfinite(squares)
        if self._grid is None:
            factor = torch.ones_like(squares)
        else:
            bound = self.max_grad_norm * _CLIP_MARGIN
            factor = (bound / squares.sqrt().clamp(min=1e-300)).clamp(max=1.0)
        factor = torch.where(finite & there, factor, 0.0)
        # In a sum of products 0 times infinity would spoil what all others add.
        for part in parts if finite.all() else [part.without(~finite) for part in parts]:
            for parameter, total in part.sums(factor):
                parameter.summed_grad += total

    def add_noise(self) -> None:
        sums = [p.summed_grad for p in self.params]
        flat = torch.cat([s.flatten() for s in sums]).numpy()
        if self._grid is not None:
            flat = self._grid.release(flat, self._randomness)
        start = 0
        for p in self.params:
            part = flat[start : start + p.numel()]
            p.grad = torch.from_numpy(part).to(p.dtype).view_as(p).clone()
            start += p.numel()

    def noisy_sum(self) -> list[torch.Tensor]:
        """Finish one DP step and return what was released."""
        self.add_noise()
        return [p.grad.detach().clone() for p in self.params]


@dataclass(frozen=True, kw_only=True)
class DPSGD:
    """The noisy sum of clipped per-unit gradients over one or more Poisson-sampled steps.

    With more than one step the weights move between steps by `local_rate` times the step's own
    noisy sum, and the sum over steps is returned: post-processing of the steps.

    Privacy
    -------
    Sensitivity of each step: `clip_norm` under adding or removing one unit (before rounding, which
    `Grid` accounts for). Event: steps x PoissonSampled(sampling_rate, Gaussian(noise_multiplier)).
    A unit that the model cannot read, or whose gradient is not finite, contributes zero. The bound
    needs that no unit shows in what another contributes: a unit is padded as public facts and its
    own number of records say, and batches are probed (`isolation`) before a row is read. How many
    units were drawn chooses between sizes of batches, but only between those that the probe found
    to give the same logits, inputs and errors of every layer, and norms, to the last bit. Clip
    factors come from float64 norms of the very numbers that are summed, in float64.
    With `noise_multiplier` 0 nothing is clipped, nothing is added and nothing is protected.

    Parameters
    ----------
    clip_norm : float
        L2 bound of one unit's gradient, above 0.
    noise_multiplier : float
        Noise standard deviation over sensitivity, at least 0.
    sampling_rate : float
        In (0, 1].
    steps : int
        At least 1.
    local_rate : float
        Step size between steps, for a sum of gradients.
    share : ShareGrid, optional
        Of the secure sum that one step goes into (`dp_risk.privacy.shares`): this site adds its
        share of the noise, and the event is that of a step over the units of all sites.

    Raises
    ------
    ValueError
        If a share of the noise would be added in more than one step.
    """

    clip_norm: float
    noise_multiplier: float
    sampling_rate: float
    steps: int
    local_rate: float = 0.0
    share: ShareGrid | None = None

    def __post_init__(self) -> None:
        if self.share is not None and self.steps != 1:
            # Between two steps the weights would depend on a sum that only this site has noised.
            raise ValueError("a step with a share of the noise is released alone")

    @property
    def event(self) -> Event:
        """What one call costs."""
        return Event(
            noise_multiplier=self.noise_multiplier,
            sampling_rate=self.sampling_rate,
            count=self.steps,
        )

    @property
    def sensitivity(self) -> float:
        """L2 bound of one unit's clipped gradient."""
        return self.clip_norm

    def __call__(self, private: tuple[nn.Module, Units], randomness: Randomness) -> Arrays:
        """Run the steps.

        Parameters
        ----------
        private : (module, units)
            The model with the round's weights (public, float64), and the site's units.
        randomness : Randomness
            Bits for sampling and noise.

        Returns
        -------
        mapping of parameter name to ndarray of float64
            Sum over steps of the noisy clipped gradient sum.
        """
        module, units = private
        rooms = {length: _sizes(module, units, length) for length in lengths(units.max_records)}
        model = _engine(module)
        named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        grid = None
        if self.noise_multiplier:
            grid = grid_of(
                self.share,
                clip_norm=self.clip_norm,
                noise_multiplier=self.noise_multiplier,
                dimension=sum(p.numel() for _, p in named),
            )
        optimizer = _GridOptimizer(
            torch.optim.SGD([p for _, p in named], lr=self.local_rate),
            clip_norm=self.clip_norm,
            grid=grid,
            randomness=randomness,
        )
        total = [torch.zeros(p.shape, dtype=torch.float64) for _, p in named]
        try:
            for _ in range(self.steps):
                optimizer.zero_grad(set_to_none=True)
                self._accumulate(model, optimizer, units, rooms, randomness, codes_of(module))
                total = [t + g for t, g in zip(total, optimizer.noisy_sum(), strict=True)]
                optimizer.original_optimizer.step()
                with torch.no_grad():
                    for _, p in named:
                        p.nan_to_num_(nan=0.0).clamp_(-MAX_WEIGHT, MAX_WEIGHT)
        finally:
            model.close()
        return {n: t.numpy().copy() for (n, _), t in zip(named, total, strict=True)}

    def _accumulate(
        self,
        model: _Engine,
        optimizer: _GridOptimizer,
        units: Units,
        rooms: Mapping[int, Sequence[int]],
        randomness: Randomness,
        codes: int,
    ) -> None:
        index = poisson_sample(len(units), self.sampling_rate, randomness)
        for p in optimizer.params:
            p.summed_grad = torch.zeros(p.shape, dtype=torch.float64)
        for length, size, chunk in batches(units.sizes(index), rooms):
            batch = units.blank(size, length)
            there = _read(units, index[chunk], batch, codes)
            _add(model, optimizer, batch, there)


def _sizes(module: nn.Module, units: Units, length: int) -> list[int]:
    """Return the sizes that batches of a padded length may have, falling."""
    # Of a unit of one record little more is held than the width of the layers.
    held = max(written_out(module, length), math.isqrt(dimension(module)))
    most = capacity(length, held)
    blank, less = units.blank(most, length), smaller(most)
    if less and isolated(_alone, module, blank, less):
        return [most, *less]
    return [most if isolated(_alone, module, blank) else 1]


def _read(units: Units, index: NDArray[np.int64], batch: Batch, codes: int) -> torch.Tensor:
    """Copy units into a blank batch; return which of its places hold one that can be read."""
    there = torch.zeros(len(batch.labels), dtype=torch.bool)

    def read(start: int, stop: int) -> None:
        at = slice(start, stop)
        try:
            there[at] = fill(batch, units.batch(index[at]), at=at, codes=codes)
        except Exception:
            if stop - start > 1:
                # One bad unit takes nobody along: look for it in either half.
                half = (start + stop) // 2
                read(start, half)
                read(half, stop)

    read(0, len(index))
    return there


def _add(model: _Engine, optimizer: _GridOptimizer, batch: Batch, there: torch.Tensor) -> None:
    """Add the clipped gradients of the units that are there and that the model can read."""
    places = there.nonzero().flatten()
    if not len(places):
        return
    try:
        parts = model.backward(batch)[1]
    except Exception:
        model.forget()
        if len(places) == 1:
            return
        # Look for the bad unit in either half, with blanks in place of the other.
        for half in (places[: len(places) // 2], places[len(places) // 2 :]):
            part = torch.zeros_like(there)
            part[half] = True
            _add(model, optimizer, only(batch, part), part)
        return
    optimizer.clip_and_accumulate(parts, there)


def _engine(module: nn.Module) -> _Engine:
    return module.perceptron() if isinstance(module, Described) else OnePass(module)


def _squares(parts: Sequence[Part]) -> torch.Tensor:
    """Return the squared norm of each unit's gradient."""
    return torch.stack([part.squares() for part in parts]).sum(0)


def _alone(module: nn.Module, batch: Batch) -> list[torch.Tensor]:
    """Return all that must depend on one unit alone: logits, parts of gradients and their norms."""
    model = _engine(module)
    try:
        logits, parts = model.backward(batch)
        return [logits, *(t for part in parts for t in part.tensors), _squares(parts)]
    finally:
        model.close()


def dimension(module: nn.Module) -> int:
    """Return the number of trainable coordinates."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def load_weights(module: nn.Module, weights: Mapping[str, NDArray[Any]]) -> None:
    """Copy weights into a module.

    Raises
    ------
    ValueError
        If names, shapes or values are not the module's.
    """
    state = module.state_dict()
    if set(state) != set(weights):
        raise ValueError("the weights are not this model's")
    for name, tensor in state.items():
        array = np.asarray(weights[name])
        if array.dtype.kind != "f" or array.shape != tuple(tensor.shape):
            raise ValueError("a weight has another shape or type")
        # Also false for NaN.
        if not (np.abs(array) <= MAX_WEIGHT).all():
            raise ValueError("a weight is not finite, or too large for exact clipping")
        tensor.copy_(torch.from_numpy(array.astype(np.float64)))
