"""Defects of the data's way: units, splits, coding, and units that are malformed."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from clients import shard as shards
from clients.shard import Shard, TrainingUnits
from dp_risk.data import coding
from dp_risk.data.coding import Coded
from dp_risk.privacy import dpsgd, gaussian
from dp_risk.privacy.dpsgd import _GridOptimizer
from dp_risk.types import Split
from tests.planted.defects import Defect, accounts
from tests.planted.trainer import clipping, squares

_ACCOUNT = ("privacy.unit=account", "privacy.max_records_per_account=4")


def _fill_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let numbers that are not finite through to the model; codes stay in range."""

    def filled(blank: Any, found: Any, *, at: slice, codes: int) -> torch.Tensor:
        targets, sources = [*blank.inputs, blank.labels], [*found.inputs, found.labels]
        for target, source in zip(targets, sources, strict=True):
            target[at] = source
        return torch.ones(len(found.labels), dtype=torch.bool)

    monkeypatch.setattr(dpsgd, "fill", filled)


def _nan_unclipped(monkeypatch: pytest.MonkeyPatch) -> None:
    _fill_anything(monkeypatch)
    # Not above the bound, says NaN, so nothing is clipped.
    clipping(lambda g, bound: torch.where(squares(g) > bound**2, bound / squares(g).sqrt(), 1.0))(
        monkeypatch
    )


def _nan_crashes(monkeypatch: pytest.MonkeyPatch) -> None:
    _fill_anything(monkeypatch)
    clip = _GridOptimizer.clip_and_accumulate

    def checked(self: Any, parts: Any, there: torch.Tensor) -> None:
        if not torch.isfinite(dpsgd._squares(parts)).all():
            raise ValueError("a gradient is not finite")
        clip(self, parts, there)

    monkeypatch.setattr(_GridOptimizer, "clip_and_accumulate", checked)


def _bad_unit_drops_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    fill = dpsgd.fill

    def filled(*arguments: Any, **named: Any) -> torch.Tensor:
        kept = fill(*arguments, **named)
        return kept if kept.all() else torch.zeros_like(kept)

    monkeypatch.setattr(dpsgd, "fill", filled)


def _trained_on(monkeypatch: pytest.MonkeyPatch, choose: Any) -> None:
    units = Shard.units

    def chosen(self: Shard, split: Split, cap: int | None) -> TrainingUnits:
        return choose(lambda side, most=cap: units(self, side, most), split)

    monkeypatch.setattr(Shard, "units", chosen)


def _records_of_accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    def choose(units: Any, split: Split) -> TrainingUnits:
        found = units(split)
        return TrainingUnits(found._coded) if split is Split.TRAIN else found

    _trained_on(monkeypatch, choose)


def _holdout_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def choose(units: Any, split: Split) -> TrainingUnits:
        parts = [units(split)._coded]
        if split is Split.TRAIN:
            parts.append(units(Split.HOLDOUT)._coded)
        fields = [f.name for f in dataclasses.fields(Coded)]
        joined = {name: np.concatenate([getattr(p, name) for p in parts]) for name in fields}
        return TrainingUnits(Coded(**joined))

    _trained_on(monkeypatch, choose)


def _trained_rows_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    _trained_on(monkeypatch, lambda units, _: units(Split.TRAIN))


def _weight_for_each_record(monkeypatch: pytest.MonkeyPatch) -> None:
    by_row = gaussian._by_row

    def rows(private: Any) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        units, cells = by_row(private)
        return np.arange(len(units)), cells

    monkeypatch.setattr(gaussian, "_by_row", rows)


def _split_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = shards.holdout_mask

    def by_row(ids: NDArray[np.bytes_], key: bytes, fraction: float) -> NDArray[np.bool_]:
        numbers = np.array([b"%032d" % number for number in range(1, len(ids) + 1)])
        return mask(numbers, key, fraction)

    monkeypatch.setattr(shards, "holdout_mask", by_row)


def _scaler_in_the_round(monkeypatch: pytest.MonkeyPatch) -> None:
    call = dpsgd.DPSGD.__call__

    def scaled(self: Any, private: Any, randomness: Any) -> Any:
        _, units = private
        values = units.rows()[1].values.astype(np.float64)
        mean, std = values.mean(0), values.std(0)
        inputs = TrainingUnits._inputs

        def standardised(self: Any, chosen: Any) -> Any:
            codes, values = inputs(self, chosen)
            return codes, (values - torch.from_numpy(mean)) / torch.from_numpy(std + 1e-9)

        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(TrainingUnits, "_inputs", standardised)
            return call(self, private, randomness)

    monkeypatch.setattr(dpsgd.DPSGD, "__call__", scaled)


def _range_of_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    scale = coding.scale

    def fitted(numbers: NDArray[np.float64], feature: Any) -> NDArray[np.float64]:
        there = numbers[np.isfinite(numbers)]
        if len(there) < 2 or there.min() == there.max():
            return scale(numbers, feature)
        own = dataclasses.replace(feature, low=float(there.min()), high=float(there.max()))
        return scale(numbers, own)

    monkeypatch.setattr(coding, "scale", fitted)


def _bins_of_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def fitted(units: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
        missing = np.isnan(units)
        edges = np.quantile(units[~missing], np.arange(1, bins) / bins) if (~missing).any() else []
        return np.where(missing, bins, np.searchsorted(edges, units, side="right"))

    monkeypatch.setattr(coding, "_bins", fitted)


def _vocabulary_of_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    categories = coding._categories

    def learnt(column: Any, feature: Any, missing: tuple[str, ...]) -> NDArray[np.int64]:
        size = len(feature.values)
        seen = sorted(set(column.drop_null().to_pylist()))[:size]
        if len(seen) < size:
            return categories(column, feature, missing)
        return categories(column, dataclasses.replace(feature, values=tuple(seen)), missing)

    monkeypatch.setattr(coding, "_categories", learnt)


DEFECTS = (
    Defect(
        name="NaN unit passes unclipped",
        checks=("malformed_units",),
        plant=_nan_unclipped,
        fast=True,
    ),
    Defect(name="NaN unit crashes the round", checks=("malformed_units",), plant=_nan_crashes),
    Defect(
        name="malformed unit takes its batch along",
        checks=("malformed_units",),
        plant=_bad_unit_drops_its_batch,
    ),
    Defect(
        name="accounts flattened into records, each clipped",
        checks=("sensitivity",),
        plant=_records_of_accounts,
        overrides=_ACCOUNT,
        data=accounts,
        fast=True,
    ),
    Defect(
        name="every record of an account counts 1 in a histogram",
        checks=("sensitivity",),
        plant=_weight_for_each_record,
        overrides=_ACCOUNT,
        data=accounts,
    ),
    Defect(
        name="split by row number instead of by id",
        checks=("splits_disjoint",),
        plant=_split_by_row,
        fast=True,
    ),
    Defect(
        name="held-out rows used for training",
        checks=("splits_disjoint",),
        plant=_holdout_trained_on,
    ),
    Defect(
        name="trained rows used for evaluation",
        checks=("splits_disjoint",),
        plant=_trained_rows_evaluated,
    ),
    Defect(
        name="scaler fitted on private rows inside the round",
        checks=("reads_in_mechanisms", "malformed_units"),
        plant=_scaler_in_the_round,
    ),
    Defect(
        name="range of a number taken from the rows",
        checks=("sensitivity",),
        plant=_range_of_the_rows,
    ),
    Defect(name="bins taken from the rows", checks=("sensitivity",), plant=_bins_of_the_rows),
    Defect(
        name="vocabulary taken from the rows",
        checks=("sensitivity",),
        plant=_vocabulary_of_the_rows,
    ),
)
