"""Defects of counts, evaluation and the price of a run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clients import answers, site
from dp_risk.data.groups import group_of
from dp_risk.privacy import accounting, dpsgd, gaussian, plan
from dp_risk.privacy.accounting import Event
from dp_risk.privacy.gaussian import GaussianHistogram, GaussianQuantiles
from dp_risk.privacy.noise import Grid
from dp_risk.types import Split
from tests.planted.defects import Defect

Patches = pytest.MonkeyPatch


class _Silent(Grid):
    def release(self, total: NDArray[np.float64], randomness: Any) -> NDArray[np.float64]:
        return total.copy()


class _SilentHistogram(GaussianHistogram):
    @property
    def _grid(self) -> Grid:
        return _Silent(**dataclasses.asdict(super()._grid))


def _exact_counts(monkeypatch: Patches) -> None:
    def count(**_: float) -> Callable[..., Any]:
        return lambda units, randomness: {"units": np.array([float(units)])}

    monkeypatch.setattr(answers, "GaussianCount", count)


def _exact_histogram(monkeypatch: Patches) -> None:
    monkeypatch.setattr(answers, "GaussianHistogram", _SilentHistogram)


def _half_the_noise_of_bins(monkeypatch: Patches) -> None:
    def half(*, noise_multiplier: float, **more: Any) -> GaussianQuantiles:
        return GaussianQuantiles(noise_multiplier=noise_multiplier / 2, **more)

    monkeypatch.setattr(answers, "GaussianQuantiles", half)


def _half_the_noise_by_subgroup(monkeypatch: Patches) -> None:
    compute = answers.compute

    def half(plan: Any, purpose: str, *rest: Any) -> Any:
        if purpose == "subgroups":
            plan = dataclasses.replace(plan, subgroups_noise=plan.subgroups_noise / 2)
        return compute(plan, purpose, *rest)

    monkeypatch.setattr(site, "compute", half)


def _exact_units_by_group(monkeypatch: Patches) -> None:
    compute = answers.compute

    def more(plan: Any, purpose: str, shard: Any, module: Any, cells: Any, *rest: Any) -> Any:
        found = compute(plan, purpose, shard, module, cells, *rest)
        if purpose == "subgroups":
            _, rows = shard.units(Split.HOLDOUT, plan.max_records_per_account).rows()
            groups = group_of(shard.coding, cells.column, rows)
            exact = (groups == np.arange(cells.groups)[:, None]).sum(axis=1)
            found["units"] = exact.astype(np.float64)
        return found

    monkeypatch.setattr(site, "compute", more)


def _a_unit_counts_in_each_group(monkeypatch: Patches) -> None:
    class Each(GaussianHistogram):
        def __call__(self, private: Any, randomness: Any) -> Any:
            units, cells = private
            more = np.concatenate([units, units + len(units)])
            half = self.cells // 2
            return super().__call__(
                (more, np.concatenate([cells % half, cells % half + half])), randomness
            )

    compute = answers.compute

    def each(plan: Any, purpose: str, *rest: Any) -> Any:
        with pytest.MonkeyPatch.context() as patches:
            if purpose == "subgroups":
                patches.setattr(answers, "GaussianHistogram", Each)
            return compute(plan, purpose, *rest)

    monkeypatch.setattr(site, "compute", each)


def _two_cells(monkeypatch: Patches) -> None:
    class Twice(GaussianHistogram):
        def __call__(self, private: Any, randomness: Any) -> Any:
            units, cells = private
            # Numbered apart, so that the weight of a unit is not shared over its cells.
            more = np.concatenate([units, units + len(units)])
            return super().__call__(
                (more, np.concatenate([cells, (cells + 1) % self.cells])), randomness
            )

    monkeypatch.setattr(answers, "GaussianHistogram", Twice)


def _rows_counted_whole(monkeypatch: Patches) -> None:
    by_row = gaussian._by_row

    def apart(private: Any) -> Any:
        units, cells = by_row(private)
        return np.arange(len(units)), cells

    monkeypatch.setattr(gaussian, "_by_row", apart)


def _evaluates_train_rows(monkeypatch: Patches) -> None:
    compute = answers.compute

    def wrong(plan: Any, purpose: str, shard: Any, *rest: Any) -> Any:
        if purpose in ("score_bins", "evaluation", "subgroups"):
            shard = _Train(shard)
        return compute(plan, purpose, shard, *rest)

    monkeypatch.setattr(site, "compute", wrong)


class _Train:
    """A shard whose every unit is one of training."""

    def __init__(self, shard: Any) -> None:
        self._shard = shard

    def units(self, split: Split, cap: int | None) -> Any:
        return self._shard.units(Split.TRAIN, cap)


def _looser_delta(monkeypatch: Patches) -> None:
    epsilon = accounting._epsilon
    monkeypatch.setattr(accounting, "_epsilon", lambda events, delta: epsilon(events, 100 * delta))


def _central_limit(monkeypatch: Patches) -> None:
    def clt(events: tuple[Event, ...], delta: float) -> float:
        def square(event: Event) -> float:
            q, one = event.sampling_rate, 1 / event.noise_multiplier**2
            return event.count * (one if q == 1 else q**2 * math.expm1(one))

        return accounting.gaussian_epsilon(math.sqrt(sum(map(square, events))), delta)

    monkeypatch.setattr(accounting, "_epsilon", clt)


def _full_batches(monkeypatch: Patches) -> None:
    monkeypatch.setattr(dpsgd, "poisson_sample", lambda units, rate, randomness: np.arange(units))


def _one_site_charged(monkeypatch: Patches) -> None:
    monkeypatch.setattr(
        plan, "Event", lambda **fields: Event(**{**fields, "count": max(1, fields["count"] // 2)})
    )


DEFECTS = (
    Defect(
        name="exact numbers of units",
        checks=("transcript", "noise_std"),
        plant=_exact_counts,
    ),
    Defect(
        name="evaluation without noise", checks=("noise_std",), plant=_exact_histogram, fast=True
    ),
    Defect(
        name="half the noise on bins of scores",
        checks=("noise_std",),
        plant=_half_the_noise_of_bins,
    ),
    Defect(
        name="half the noise by subgroup",
        checks=("noise_std",),
        plant=_half_the_noise_by_subgroup,
    ),
    Defect(
        name="exact numbers of units by subgroup",
        checks=("transcript",),
        plant=_exact_units_by_group,
        overrides=("evaluation.subgroups=[kind]",),
    ),
    Defect(
        name="a unit counts in two subgroups",
        checks=("sensitivity",),
        plant=_a_unit_counts_in_each_group,
    ),
    Defect(name="a record counts in two cells", checks=("sensitivity",), plant=_two_cells),
    Defect(
        name="an account counts once a record",
        checks=("sensitivity",),
        plant=_rows_counted_whole,
        overrides=("privacy.unit=account", "data.account=age"),
    ),
    Defect(
        name="evaluation of training units",
        checks=("reads_in_mechanisms", "splits_disjoint"),
        plant=_evaluates_train_rows,
    ),
    Defect(name="priced at a hundred times delta", checks=("accounting",), plant=_looser_delta),
    Defect(
        name="priced by the central limit theorem",
        checks=("accounting",),
        plant=_central_limit,
        overrides=("privacy.sampling_rate=0.3",),
    ),
    Defect(
        name="full batches charged as samples",
        checks=("sampler",),
        plant=_full_batches,
        overrides=("privacy.sampling_rate=0.25",),
    ),
    Defect(
        name="one of two sites of a unit charged",
        checks=("accounting", "steps_charged"),
        plant=_one_site_charged,
        overrides=("privacy.max_sites_per_unit=2",),
    ),
)
