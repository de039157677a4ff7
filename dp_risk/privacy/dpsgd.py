"""DP-SGD steps through Opacus (Abadi et al. 2016, Algorithm 1), as a mechanism.

Opacus computes per-unit gradients and owns the step; clipping and summing happen in float64 with
malformed units contributing zero, and the noise is integer noise on a grid. A unit may be an
account of many records: its loss is the mean over them, and its gradient is what is clipped.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import nn

from dp_risk.privacy.accounting import Event
from dp_risk.privacy.mechanism import Arrays
from dp_risk.privacy.noise import Grid
from dp_risk.privacy.randomness import Randomness
from dp_risk.privacy.sampling import poisson_sample
from dp_risk.privacy.units import Units, chunks, mean_losses, sound

# A site's own log: what is malformed in its rows never leaves.
LOG = logging.getLogger("dp_risk.site")

# Opacus' hooks are meant to fire on inputs without gradients.
warnings.filterwarnings("ignore", message="Full backward hook is firing")

# Rounding in a batched backward pass depends on the whole batch, so that one unit moves the
# others' gradients a little. Bounded weights keep that far below the margin.
_CLIP_MARGIN = 1 - 1e-3
_MAX_WEIGHT = 1e3
# Bounds of what is in memory at once: records, and coordinates of per-unit gradients.
_PHYSICAL_BATCH = 4096
_GRADIENT_CELLS = 2**25


class _GridOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus' optimizer with float64 clipping and noise on a grid."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        clip_norm: float,
        grid: Grid | None,
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

    def clip_and_accumulate(self) -> None:
        gradients = [p.grad_sample.to(torch.float64) for p in self.params]
        squares = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0)
        finite = torch.isfinite(squares)
        bound = self.max_grad_norm * _CLIP_MARGIN
        factor = (bound / squares.sqrt().clamp(min=1e-300)).clamp(max=1.0)
        if self._grid is None:
            factor = torch.ones_like(factor)
        factor = torch.where(finite, factor, 0.0)
        for p, g in zip(self.params, gradients, strict=True):
            g = torch.nan_to_num(g, nan=0.0, posinf=0.0, neginf=0.0)
            clipped = torch.tensordot(factor, g, dims=1)
            p.summed_grad = clipped if p.summed_grad is None else p.summed_grad + clipped
            p.grad_sample = None

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
    A unit that the model cannot read, or whose gradient is not finite, contributes zero. With
    `noise_multiplier` 0 nothing is clipped, nothing is added and nothing is protected.

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
    """

    clip_norm: float
    noise_multiplier: float
    sampling_rate: float
    steps: int
    local_rate: float = 0.0

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
        model = GradSampleModule(module, batch_first=True, loss_reduction="sum")
        named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        grid = None
        if self.noise_multiplier:
            grid = Grid(
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
        total = [torch.zeros_like(p) for _, p in named]
        try:
            for _ in range(self.steps):
                optimizer.zero_grad(set_to_none=True)
                self._accumulate(model, optimizer, units, randomness)
                total = [t + g for t, g in zip(total, optimizer.noisy_sum(), strict=True)]
                optimizer.original_optimizer.step()
                with torch.no_grad():
                    for _, p in named:
                        p.nan_to_num_(nan=0.0).clamp_(-_MAX_WEIGHT, _MAX_WEIGHT)
        finally:
            model.to_standard_module()
        return {n: t.numpy().copy() for (n, _), t in zip(named, total, strict=True)}

    def _accumulate(
        self,
        model: GradSampleModule,
        optimizer: _GridOptimizer,
        units: Units,
        randomness: Randomness,
    ) -> None:
        index = poisson_sample(len(units), self.sampling_rate, randomness)
        for p in optimizer.params:
            p.summed_grad = torch.zeros_like(p)
        most = _GRADIENT_CELLS // max(1, sum(p.numel() for p in optimizer.params))
        malformed = 0
        for chunk in chunks(
            units.sizes(index),
            units=max(1, min(_PHYSICAL_BATCH, most)),
            records=_PHYSICAL_BATCH,
        ):
            malformed += _add(model, optimizer, units, index[chunk])
        if malformed:
            LOG.warning("%d malformed units contribute zero to a step", malformed)


def _add(
    model: GradSampleModule, optimizer: _GridOptimizer, units: Units, index: NDArray[np.int64]
) -> int:
    """Add the clipped gradients of some units; return how many units could not be read."""
    try:
        read = _backward(model, units, index)
    except Exception as error:
        LOG.debug("a batch of %d units raised %s", len(index), type(error).__name__)
        read = None
    if read is None:
        # One bad unit takes nobody along: look for it in either half.
        _forget(model)
        if len(index) == 1:
            return 1
        half = len(index) // 2
        return sum(_add(model, optimizer, units, part) for part in (index[:half], index[half:]))
    if read:
        # A model that flattens accounts into records would have its records clipped instead.
        if any(len(p.grad_sample) != read for p in optimizer.params):
            raise RuntimeError("per-unit gradients of another number than the units")
        optimizer.clip_and_accumulate()
        for p in optimizer.params:
            p.grad = None
    return len(index) - read


def _backward(model: GradSampleModule, units: Units, index: NDArray[np.int64]) -> int:
    """Leave the gradient of each unit that can be read in `grad_sample`; return their number."""
    tables = [m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)]
    batch = sound(units.batch(index), units=len(index), codes=max(tables, default=2**62))
    if len(batch.labels):
        torch.autograd.backward(mean_losses(model(*batch.inputs), batch).sum())
    return len(batch.labels)


def _forget(model: GradSampleModule) -> None:
    """Drop what Opacus holds of a pass that was not finished."""
    for module in model.modules():
        for name in ("activations", "max_batch_len"):
            module.__dict__.pop(name, None)
    for p in model.parameters():
        p.__dict__.pop("_current_grad_sample", None)
        p._forward_counter = 0
        p.grad_sample = p.grad = None


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
        if not (np.abs(array) <= _MAX_WEIGHT).all():
            raise ValueError("a weight is not finite, or too large for exact clipping")
        tensor.copy_(torch.from_numpy(array.astype(np.float64)))
