"""Defects that show in a corner only: in a later step, at a sampling rate, in low bits of a sum."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from clients.site import Site
from dp_risk.privacy import dpsgd, gaussian, noise
from dp_risk.privacy.dpsgd import DPSGD, _GridOptimizer
from dp_risk.privacy.plan import Plan
from dp_risk.privacy.randomness import Randomness
from dp_risk.types import Refused
from tests.planted.defects import Defect, accounts

_SAMPLED = ("privacy.sampling_rate=0.25",)


def _unrounded(monkeypatch: pytest.MonkeyPatch) -> None:
    def release(grid: noise.Grid, total: Any, randomness: Randomness) -> Any:
        drawn = noise.discrete_gaussian(grid.bits, len(total), randomness)
        return total + drawn.astype(np.float64) * grid.step

    monkeypatch.setattr(noise.Grid, "release", release)


def _sums_of_earlier_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = DPSGD._accumulate

    def accumulate(self: DPSGD, model: Any, optimizer: Any, *rest: Any) -> None:
        before = [getattr(p, "carried", torch.zeros_like(p)) for p in optimizer.params]
        honest(self, model, optimizer, *rest)
        for p, carried in zip(optimizer.params, before, strict=True):
            p.summed_grad += carried
            p.carried = p.summed_grad.clone()

    monkeypatch.setattr(DPSGD, "_accumulate", accumulate)


def _no_noise_on_the_last_weight_of_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    honest, accumulate = _GridOptimizer.add_noise, DPSGD._accumulate

    def add_noise(self: Any) -> None:
        honest(self)
        if self.sampled:
            last = self.params[-1]
            last.grad = last.summed_grad.clone()

    def note(self: DPSGD, model: Any, optimizer: Any, *rest: Any) -> None:
        optimizer.sampled = self.sampling_rate < 1
        accumulate(self, model, optimizer, *rest)

    monkeypatch.setattr(_GridOptimizer, "add_noise", add_noise)
    monkeypatch.setattr(DPSGD, "_accumulate", note)


def _no_noise_on_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = _GridOptimizer.add_noise

    def add_noise(self: Any) -> None:
        if any(p.summed_grad.any() for p in self.params):
            honest(self)
        else:
            for p in self.params:
                p.grad = p.summed_grad.clone()

    monkeypatch.setattr(_GridOptimizer, "add_noise", add_noise)


def _one_in_each_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    def call(self: gaussian.GaussianHistogram, private: Any, randomness: Randomness) -> Any:
        units, found = gaussian._by_row(private)
        inside = (found >= 0) & (found < self.cells) & (units >= 0)
        pairs = np.unique(np.stack([units[inside], found[inside].astype(np.int64)]), axis=1)
        total = np.bincount(pairs[1], minlength=self.cells).astype(np.float64)
        return {"histogram": self._grid.release(total, randomness)}

    monkeypatch.setattr(gaussian.GaussianHistogram, "__call__", call)


def _one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    sample, begin = dpsgd.poisson_sample, Randomness.__init__

    def began(self: Any, key: bytes) -> None:
        self.key = key
        begin(self, key)

    def again(units: int, rate: float, randomness: Any) -> Any:
        return sample(units, rate, Randomness(randomness.key))

    monkeypatch.setattr(Randomness, "__init__", began)
    monkeypatch.setattr(dpsgd, "poisson_sample", again)


def _two_bytes_of_32(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Randomness.system

    def system(cls: type[Randomness]) -> Randomness:
        begin = Randomness.__init__

        def short(self: Any, key: bytes) -> None:
            begin(self, key[:2] + bytes(30))

        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Randomness, "__init__", short)
            return honest()

    monkeypatch.setattr(Randomness, "system", classmethod(system))


def _policy_of_the_enrolment(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Site._plan

    def plan(self: Site, enrolled: str) -> Plan:
        try:
            return honest(self, enrolled)
        except Refused as error:
            if "policy was changed" not in str(error):
                raise
        stored = json.loads((self.folder / f"{enrolled}.plan.json").read_text())
        return Plan.from_dict(stored["plan"])

    monkeypatch.setattr(Site, "_plan", plan)


DEFECTS = (
    Defect(name="a sum that is not rounded", checks=("noise_grid",), plant=_unrounded, fast=True),
    Defect(
        name="sums of earlier local steps stay in",
        checks=("sensitivity",),
        plant=_sums_of_earlier_steps,
        overrides=("federation.steps_per_round=3",),
    ),
    Defect(
        name="no noise on the bias where batches are samples",
        checks=("noise_std",),
        plant=_no_noise_on_the_last_weight_of_samples,
        overrides=_SAMPLED,
    ),
    Defect(
        name="no noise on an empty batch",
        checks=("noise_std",),
        plant=_no_noise_on_nothing,
        overrides=_SAMPLED,
    ),
    Defect(
        name="an account counts 1 in each cell that it touches",
        checks=("sensitivity",),
        plant=_one_in_each_cell,
        overrides=("privacy.unit=account", "privacy.max_records_per_account=4"),
        data=accounts,
    ),
    Defect(
        name="one stream for sampling and noise",
        checks=("system_randomness",),
        plant=_one_stream,
        overrides=_SAMPLED,
    ),
    Defect(
        name="two bytes used of a key of 32",
        checks=("system_randomness",),
        plant=_two_bytes_of_32,
    ),
    Defect(
        name="a tightened policy does not bind an open run",
        checks=("reservation",),
        plant=_policy_of_the_enrolment,
    ),
)
