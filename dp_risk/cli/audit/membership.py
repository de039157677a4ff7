"""The membership attack: a target and its references, each a federated run like the configured one.

A reference is made by the very trainer that made the target: the same apps, plan and noise, on
another random half of the units. A faster stand-in would have other confidences, and the attack
compares confidences.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import torch
from numpy.typing import NDArray

from clients.site import founders
from dp_risk import models
from dp_risk.audit import membership
from dp_risk.audit.findings import Result
from dp_risk.cli.audit.bench import Bench
from dp_risk.cli.audit.canaries import workers
from dp_risk.cli.audit.scratch import Scratch
from dp_risk.cli.settings import Audit
from dp_risk.data.partition import Iid
from dp_risk.data.split import holdout_mask
from dp_risk.privacy.plan import Plan
from dp_risk.types import DpRiskError, Trust, Unit

# The part of the units that no run sees, at least: RMIA's population.
_POPULATION = 0.1
# Fewest models: the threshold is fixed by attacking each of two references with the other.
_FEWEST_MODELS = 3
# Fewest units on either side of a run: a hundredth of fewer is nobody.
_FEWEST_UNITS = 100
# Units of the control, few, so that a model learns them by heart; the rest is population.
_BY_HEART = 400
# Codes for the names of its units, and how often a unit says its own.
_NAMES, _SLOTS = 4096, 32
_CONTROL_ROUNDS = 60
_CONTROL_RATE = 0.7


class _TooFew(Exception):
    """The attack would say nothing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """Models that were trained alike, and how the units fare with each; the first is the target.

    Parameters
    ----------
    fit : ndarray of float64, shape (models, units)
        Log of the probability of the label, the mean of a unit's records.
    population : ndarray of float64, shape (models, z)
        The same for units that no model was trained on.
    member : ndarray of bool, shape (models, units)
        Whether the unit was on the training side of that run.
    """

    fit: NDArray[np.float64]
    population: NDArray[np.float64]
    member: NDArray[np.bool_]

    def scores(self, target: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Attack one of the models with the others; return scores of members and of others.

        The attack on a reference leaves the target out: a threshold is fixed without it.
        """
        used = [n for n in range(len(self.fit)) if n not in (0, target)]
        found = membership.rmia(
            membership.ratios(self.fit[target], self.fit[used]),
            membership.ratios(self.population[target], self.population[used]),
        )
        inside = self.member[target]
        return found[inside], found[~inside]


@dataclass(frozen=True, kw_only=True)
class Membership:
    """What the attack showed: a row for the results, and plain JSON.

    Where it was left out there is no row, and the JSON says why.
    """

    result: Result | None
    evidence: dict[str, Any]


def attack(
    scratch: Scratch, plan: Plan, asked: Audit, progress: Callable[[str, float], None]
) -> Membership | None:
    """Attack the configured trainer; None where no references are asked for.

    Parameters
    ----------
    scratch : Scratch
        Where sites are made; their rows are public.
    plan : Plan
        Plan of the configured run.
    asked : Audit
        Number of references, time for them, and confidence.
    progress : callable
        Told what is being done, and which part of the attack is over.
    """
    if not asked.references:
        return None
    try:
        return _attack(scratch, plan, asked, progress)
    except (_TooFew, DpRiskError) as reason:
        # Half of the units may be too few for a run that all of them are enough for.
        return Membership(result=None, evidence={"left_out": str(reason)})


def _attack(
    scratch: Scratch, plan: Plan, asked: Audit, progress: Callable[[str, float], None]
) -> Membership:
    terms: dict[str, Any] = {"delta": plan.delta, "confidence": asked.confidence}
    words = "membership attack: its control"
    rows = scratch.rows(asked.max_rows, seed=scratch.settings.seed)
    overfit = _by_heart(scratch, rows)
    loud = _train(
        overfit,
        overfit.rows(None, seed=0),
        asked,
        _FEWEST_MODELS,
        lambda part: progress(words, part / 2),
        most=_BY_HEART,
    )
    words = "membership attack"
    seen = _train(
        scratch,
        rows,
        asked,
        asked.references + 1,
        lambda part: progress(words, 0.5 + part / 2),
        **scratch.part(asked),
    )
    fixed = membership.threshold([seen.scores(n)[1] for n in range(1, len(seen.fit))])
    inside, outside = seen.scores(0)
    chosen = np.random.default_rng(scratch.settings.seed).random(len(outside)) < 0.5
    controls = [
        (
            "a run without noise that learns few units by heart",
            "clearly above one half, or the attack sees nothing here",
            loud.scores(0),
        ),
        ("held-out units against held-out units", "0.5", (outside[chosen], outside[~chosen])),
    ]
    return Membership(
        result=membership.result(inside, outside, at=fixed, **terms),
        evidence={
            "method": "RMIA, online",
            "references": len(seen.fit) - 1,
            "wanted": asked.references,
            "targets": 1,
            "population": seen.population.shape[1],
            "threshold": fixed,
            "confidence": asked.confidence,
            **membership.judge(inside, outside, **terms).to_dict(),
            "controls": [
                {"name": name, "expected": expected, **membership.judge(*pair, **terms).to_dict()}
                for name, expected, pair in controls
            ],
        },
    )


def _by_heart(scratch: Scratch, rows: pa.Table) -> Scratch:
    """Return a trainer that overfits: no noise, every unit in every step, long strides.

    Labels are shuffled, so that nothing can be learnt of one unit from others, and a column of
    text names each row, so that each is easily learnt by heart.
    """
    reserved = scratch.reserved(codes=_NAMES, slots=_SLOTS)
    settings = reserved.configured(scratch.settings, scratch.folder / "by-heart", rows)
    label = reserved.schema.label.column
    order = np.random.default_rng(settings.seed).permutation(rows.num_rows)
    names = pa.array([" ".join([f"unit{n}"] * _SLOTS) for n in range(rows.num_rows)])
    rows = rows.set_column(rows.column_names.index(label), label, rows[label].take(pa.array(order)))
    pq.write_table(rows.append_column(reserved.column, names), settings.data.file)
    return dataclasses.replace(
        scratch,
        settings=dataclasses.replace(
            settings,
            privacy=dataclasses.replace(
                settings.asked, trust=Trust.NONE, epsilon=None, sampling_rate=1.0
            ),
            data=dataclasses.replace(settings.data, public_size=True),
            # Without noise the sum over one site is the sum over all.
            partition=Iid(seed=settings.seed),
            federation=dataclasses.replace(
                settings.federation,
                rounds=_CONTROL_ROUNDS,
                learning_rate=_CONTROL_RATE,
                sites=1,
                steps_per_round=1,
                min_sites=None,
                rule="sum",
                max_byzantine=None,
            ),
        ),
    )


def _train(
    scratch: Scratch,
    rows: pa.Table,
    asked: Audit,
    count: int,
    progress: Callable[[float], None],
    *,
    most: int | None = None,
    **part: Any,
) -> Scored:
    """Train a target and references, each on a random half of the same units.

    After `audit.seconds` no more are begun, once there are enough to attack with.
    """
    over, found = time.monotonic() + asked.seconds, []
    with workers(asked.processes) as submit:
        for first in range(0, count, asked.processes):
            if first >= _FEWEST_MODELS and time.monotonic() > over:
                break
            numbers = range(first, min(first + asked.processes, count))
            for wait in [submit(_one, (scratch, rows, n, most, part), {}) for n in numbers]:
                found.append(wait())
                progress(len(found) / count)
    fit, population, member = (np.array(part) for part in zip(*found, strict=True))
    return Scored(fit=fit, population=population, member=member)


def _one(
    scratch: Scratch, rows: pa.Table, number: int, most: int | None, part: Mapping[str, Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Do one run; return the fit of its units and of the population, and who was a member."""
    torch.set_num_threads(1)
    reserved = scratch.reserved(codes=2, slots=1)
    first, name = scratch.settings.seed, f"model-{number}"
    # The split of public rows follows the seed: another one is another half.
    settings = dataclasses.replace(
        scratch.settings,
        seed=first + number,
        data=dataclasses.replace(scratch.settings.data, holdout=0.5),
    )
    scratch = dataclasses.replace(scratch, settings=settings)
    unit = Unit(settings.asked.unit)
    empty = rows.append_column(reserved.column, pa.nulls(rows.num_rows, pa.string()))
    coded = reserved.coding.encode(empty, unit=unit)
    ids, at, unit_of = np.unique(coded.ids, return_index=True, return_inverse=True)
    apart = max(_POPULATION, 1 - most / len(ids)) if most and len(ids) else _POPULATION
    # By id, so that equal rows and an account's records stay together.
    aside = holdout_mask(coded.ids, b"population of the membership attack", apart)
    settings, folders = scratch.sites(name, reserved, rows.filter(pa.array(~aside)), **part)
    shard = founders(folders[0])[1]
    held, apart_units = holdout_mask(coded.ids[at], shard.key, shard.holdout), aside[at]
    inside, outside = np.sum(~apart_units & ~held), np.sum(~apart_units & held)
    if min(inside, outside) < _FEWEST_UNITS:
        raise _TooFew(
            f"too few units: {inside} to train on and {outside} to hold out, and fewer than "
            f"{_FEWEST_UNITS} show nothing"
        )
    Bench(settings, folders).run(scratch.folder / name / "run")
    module = scratch.module(reserved)
    module.load_state_dict(
        safetensors.torch.load_file(scratch.folder / name / "run" / "model.safetensors")
    )
    logits = models.logits(module, coded.codes, coded.values)
    fit = -np.logaddexp(0.0, np.where(coded.labels > 0, -logits, logits))
    shutil.rmtree(scratch.folder / name)
    fit = np.bincount(unit_of, fit) / np.bincount(unit_of)
    if not np.isfinite(fit).all():
        raise _TooFew("a model of the attack has weights that are no numbers")
    return fit[~apart_units], fit[apart_units], ~held[~apart_units]
