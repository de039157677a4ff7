"""Defects of the trainer: clipping, per-unit gradients, noise and sampling."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from clients.site import Site
from dp_risk.models import additive
from dp_risk.privacy import dpsgd, gaussian, noise
from dp_risk.privacy.dpsgd import _GridOptimizer
from dp_risk.privacy.one_pass import OnePass
from dp_risk.privacy.randomness import Randomness
from dp_risk.privacy.schedule import TRAINING
from tests.planted.defects import Defect, Patch

Draw = NDArray[np.int64]
Gradients = list[torch.Tensor]
# Steps enough for the check of the sampler, few units in each.
_SAMPLED = ("privacy.sampling_rate=0.25", "federation.rounds=20", "audit.max_rounds=20")


def _drawn(change: Callable[[Draw, int, Randomness], Draw]) -> Patch:
    """Return a patch that changes the integer noise; `change` also gets log2 of its std."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        draw = noise.discrete_gaussian

        def changed(bits: int, size: int, randomness: Randomness) -> Draw:
            return change(draw(bits, size, randomness), bits, randomness)

        monkeypatch.setattr(noise, "discrete_gaussian", changed)

    return plant


def _laplace(drawn: Draw, bits: int, randomness: Randomness) -> Draw:
    generator = np.random.default_rng(randomness.words(4))
    return np.rint(generator.laplace(0, 2.0**bits / np.sqrt(2), drawn.shape)).astype(np.int64)


def _floats(monkeypatch: pytest.MonkeyPatch) -> None:
    def release(grid: Any, total: Any, randomness: Randomness) -> Any:
        generator = np.random.default_rng(randomness.words(4))
        return total + generator.normal(0, grid.std, total.shape)

    monkeypatch.setattr(noise.Grid, "release", release)


def _correlated(drawn: Draw, bits: int, randomness: Randomness) -> Draw:
    common = np.random.default_rng(randomness.words(4)).normal(0, 2.0**bits)
    return np.rint(np.sqrt(0.8) * drawn + np.sqrt(0.2) * common).astype(np.int64)


def _by_round(change: Callable[[Draw, tuple[str, str], int, dict[Any, Draw]], Draw]) -> Patch:
    """Return a patch that changes the noise by who asks, what for and in which round."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        draw, choose = noise.discrete_gaussian, Site._randomness
        asked: list[Any] = [("", ""), 0]
        earlier: dict[Any, Draw] = {}

        def chosen(self: Site, plan: Any, purpose: str, round: int) -> Randomness:
            asked[:] = [(f"{self.folder}", purpose), round]
            return choose(self, plan, purpose, round)

        def changed(*arguments: Any) -> Draw:
            return change(draw(*arguments), asked[0], asked[1], earlier)

        monkeypatch.setattr(Site, "_randomness", chosen)
        monkeypatch.setattr(noise, "discrete_gaussian", changed)

    return plant


def _first_round(drawn: Draw, asked: tuple[str, str], round: int, earlier: Any) -> Draw:
    return drawn * 0 if asked[1] == TRAINING and round else drawn


def _antithetic(drawn: Draw, asked: tuple[str, str], round: int, earlier: dict[Any, Draw]) -> Draw:
    if round % 2 and asked in earlier:
        return -earlier[asked]
    earlier[asked] = drawn
    return drawn


def _noiseless_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    add = _GridOptimizer.add_noise

    def added(self: Any) -> None:
        add(self)
        bias = self.params[-1]
        bias.grad = bias.summed_grad.clone()

    monkeypatch.setattr(_GridOptimizer, "add_noise", added)


def _noise_of_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    add = _GridOptimizer.add_noise

    def added(self: Any) -> None:
        if hasattr(self, "noisy"):
            self._grid, grid = None, self._grid
            add(self)
            self._grid = grid
        else:
            add(self)
        self.noisy = True

    monkeypatch.setattr(_GridOptimizer, "add_noise", added)


def _scaled_to(choose: Callable[[torch.Tensor, float], float]) -> Patch:
    """Return a patch that scales the noise to a bound chosen from the norms of the units."""
    add, clip = _GridOptimizer.add_noise, _GridOptimizer.clip_and_accumulate

    def clipped(self: Any, parts: Any, there: torch.Tensor) -> None:
        norms = dpsgd._squares(parts).sqrt()[there]
        self.bound = choose(norms, self.max_grad_norm)
        clip(self, parts, there)

    def added(self: Any) -> None:
        if self._grid is not None:
            bound = getattr(self, "bound", self.max_grad_norm)
            self._grid = dataclasses.replace(self._grid, clip_norm=bound)
        add(self)

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_GridOptimizer, "clip_and_accumulate", clipped)
        monkeypatch.setattr(_GridOptimizer, "add_noise", added)

    return plant


def _of_a_mean(norms: torch.Tensor, bound: float) -> float:
    return bound / len(norms)


def _adapted(norms: torch.Tensor, bound: float) -> float:
    # Andrew et al. 2021, Section 2: towards the median.
    return bound * math.exp(0.5 - float((norms <= bound).double().mean()))


def clipping(factors: Callable[[Gradients, float], Any]) -> Patch:
    """Return a patch with another rule of clipping: one factor a unit, or one a unit and layer."""

    def clipped(self: Any, parts: Any, there: torch.Tensor) -> None:
        gradients = written_out(self.params, parts, there)
        found = factors(gradients, self.max_grad_norm)
        each = found if isinstance(found, list) else [found] * len(gradients)
        for p, g, factor in zip(self.params, gradients, each, strict=True):
            p.summed_grad += torch.tensordot(torch.where(there, factor, 0.0), g, dims=1)

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_GridOptimizer, "clip_and_accumulate", clipped)

    return plant


def written_out(parameters: Any, parts: Any, there: torch.Tensor) -> Gradients:
    """Return the gradient of each unit that is there, by parameter: zeros for all others."""
    found = {id(p): torch.zeros(len(there), *p.shape, dtype=torch.float64) for p in parameters}
    for unit in there.nonzero().flatten():
        others = torch.arange(len(there)) != unit
        for part in parts:
            for parameter, total in part.without(others).sums((~others).double()):
                found[id(parameter)][unit] += total
    return [found[id(p)] for p in parameters]


def squares(gradients: Gradients) -> torch.Tensor:
    """Return the squared norm of each unit's gradient."""
    return sum(g.flatten(1).square().sum(1) for g in gradients)


def _factor(squares: torch.Tensor, bound: float) -> torch.Tensor:
    return (bound / squares.sqrt()).clamp(max=1.0)


def _none(gradients: Gradients, bound: float) -> torch.Tensor:
    return torch.ones(len(gradients[0]), dtype=torch.float64)


def _of_the_mean(gradients: Gradients, bound: float) -> torch.Tensor:
    mean = [g.mean(0, keepdim=True) for g in gradients]
    return _factor(squares(mean), bound).expand(len(gradients[0]))


def _by_layer(gradients: Gradients, bound: float) -> list[torch.Tensor]:
    return [_factor(squares([g]), bound) for g in gradients]


def _without_bias(gradients: Gradients, bound: float) -> torch.Tensor:
    return _factor(squares(gradients[:-1]), bound)


def _half_precision(gradients: Gradients, bound: float) -> torch.Tensor:
    norms = squares([g.half() for g in gradients]).sqrt().double()
    return torch.where(torch.isfinite(norms), (bound / norms).clamp(max=1.0), 1.0)


def _ten_equal_count_ten(gradients: Gradients, bound: float) -> torch.Tensor:
    codes, *others = gradients
    # Of an additive model: a code that is there m times has m times the gradient of the bias.
    once = gradients[-1].abs().flatten(1)
    return _factor((codes.abs().flatten(1) * once).sum(1) + squares(others), bound)


def _normalised(gradients: Gradients, bound: float) -> torch.Tensor:
    return bound / squares(gradients).sqrt()


def _weighted_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    accumulate = dpsgd.DPSGD._accumulate

    def weighted(self: Any, model: Any, optimizer: Any, units: Any, *more: Any) -> None:
        accumulate(self, model, optimizer, units, *more)
        for p in optimizer.params:
            p.summed_grad *= len(units) / 10

    monkeypatch.setattr(dpsgd.DPSGD, "_accumulate", weighted)


def _mixed_units(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = additive._Additive.forward

    def centred(self: Any, codes: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        logits = forward(self, codes, values)
        return logits - logits.mean() / 2

    monkeypatch.setattr(additive._Additive, "forward", centred)
    # What it computes is no perceptron any more.
    monkeypatch.setattr(dpsgd, "_engine", OnePass)
    monkeypatch.setattr(dpsgd, "isolated", lambda *_: True)


def _sampled(change: Callable[[int, float, dict[Any, Draw]], Draw]) -> Patch:
    """Return a patch with another sampler, which may keep something by the number of units."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        kept: dict[Any, Draw] = {}
        monkeypatch.setattr(dpsgd, "poisson_sample", lambda n, rate, _: change(n, rate, kept))

    return plant


def _shuffled(units: int, rate: float, kept: dict[Any, Draw]) -> Draw:
    size = max(1, round(units * rate))
    left = kept.get(units, np.empty(0, np.int64))
    if len(left) < size:
        left = np.random.default_rng().permutation(units)
    kept[units] = left[size:]
    return np.sort(left[:size])


def _fixed_size(units: int, rate: float, kept: dict[Any, Draw]) -> Draw:
    return np.sort(np.random.default_rng().choice(units, round(units * rate), replace=False))


def _same_batch(units: int, rate: float, kept: dict[Any, Draw]) -> Draw:
    draw = np.flatnonzero(np.random.default_rng().random(units) < rate)
    return kept.setdefault(units, draw)


def _too_often(units: int, rate: float, kept: dict[Any, Draw]) -> Draw:
    return np.flatnonzero(np.random.default_rng().random(units) < 1.25 * rate)


def _one_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Randomness, "system", lambda: Randomness(bytes(32)))


def _exact_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def count(self: Any, private: int, randomness: Randomness) -> dict[str, Any]:
        return {"units": np.array([float(private)])}

    monkeypatch.setattr(gaussian.GaussianCount, "__call__", count)


_noised = functools.partial(Defect, checks=("noise_std",))
_clipped = functools.partial(Defect, checks=("sensitivity",))
_batched = functools.partial(Defect, checks=("sampler",), overrides=_SAMPLED)

DEFECTS = (
    _noised(
        name="sigma off by a factor of 2", plant=_drawn(lambda drawn, *_: drawn // 2), fast=True
    ),
    _noised(
        name="sigma off by a tenth",
        plant=_drawn(lambda drawn, *_: np.rint(0.9 * drawn).astype(np.int64)),
    ),
    _noised(name="no noise", plant=_drawn(lambda drawn, *_: drawn * 0)),
    _noised(name="noise in the first round only", plant=_by_round(_first_round)),
    _noised(
        name="noise in the first of several local steps only",
        plant=_noise_of_one_step,
        overrides=("federation.steps_per_round=3",),
    ),
    _noised(name="no noise on the bias", plant=_noiseless_bias, fast=True),
    _noised(name="noise of a mean added to a sum", plant=_scaled_to(_of_a_mean)),
    _noised(name="noise scaled to the next clip norm", plant=_scaled_to(_adapted)),
    _noised(name="number of units without noise", plant=_exact_counts),
    Defect(name="Laplace noise of the right std", checks=("noise_shape",), plant=_drawn(_laplace)),
    Defect(
        name="noise rounded to multiples of its std",
        checks=("noise_shape",),
        plant=_drawn(lambda drawn, bits, _: (drawn + (1 << bits - 1) >> bits) << bits),
    ),
    Defect(
        name="noise correlated over coordinates",
        checks=("noise_independence",),
        plant=_drawn(_correlated),
    ),
    Defect(
        name="every other round takes back the noise before it",
        checks=("noise_independence",),
        plant=_by_round(_antithetic),
    ),
    Defect(
        name="one seed for every round and site",
        checks=("noise_independence", "system_randomness"),
        plant=_one_seed,
    ),
    _clipped(name="no clipping", plant=clipping(_none)),
    _clipped(
        name="clipping of the batch mean instead of each unit",
        plant=clipping(_of_the_mean),
        fast=True,
    ),
    _clipped(name="clip norm a layer instead of over all", plant=clipping(_by_layer)),
    _clipped(name="norm without the bias", plant=clipping(_without_bias)),
    _clipped(name="norm that overflows leaves its unit unclipped", plant=clipping(_half_precision)),
    _clipped(name="equal n-grams counted once each in norms", plant=clipping(_ten_equal_count_ten)),
    _clipped(name="unit without a gradient divided by zero", plant=clipping(_normalised)),
    _clipped(name="sum weighted by the site's size after clipping", plant=_weighted_by_size),
    Defect(name="noise of floats", checks=("noise_grid",), plant=_floats),
    Defect(
        name="model that mixes the units of a batch",
        checks=("malformed_units",),
        plant=_mixed_units,
    ),
    _batched(name="shuffled batches charged as Poisson", plant=_sampled(_shuffled), fast=True),
    _batched(name="batches of one size charged as Poisson", plant=_sampled(_fixed_size)),
    _batched(name="the same batch at every step", plant=_sampled(_same_batch)),
    _batched(name="units sampled at 1.25 times the charged rate", plant=_sampled(_too_often)),
)
