"""The membership attack: a target and its references, each a federated run like the configured one.

A reference is made by the very trainer that made the target: the same apps, plan and noise, on
another random half of the units. A faster stand-in would have other confidences, and the attack
compares confidences.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
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
from dp_risk.types import Trust, Unit

# The part of the rows that no run sees: RMIA's population.
_POPULATION = 0.1
# The control without noise takes so many times the rounds.
_LONGER = 4
# Units of the control: few, so that a model can learn them by heart.
_BY_HEART = 600


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
    """What the attack showed: a row for the results, and plain JSON."""

    result: Result
    evidence: dict[str, Any]


def attack(
    scratch: Scratch, plan: Plan, asked: Audit, progress: Callable[[float], None]
) -> Membership | None:
    """Attack the configured trainer; None where no references are asked for.

    Parameters
    ----------
    scratch : Scratch
        Where sites are made; their rows are public.
    plan : Plan
        Plan of the configured run.
    asked : Audit
        Number of references, and confidence.
    progress : callable
        Told which part is done, in [0, 1].
    """
    if not asked.references:
        return None
    terms: dict[str, Any] = {"delta": plan.delta, "confidence": asked.confidence}
    seen = _train(scratch, asked, "members", lambda part: progress(part / 2))
    fixed = membership.threshold([seen.scores(n)[1] for n in range(1, len(seen.fit))])
    inside, outside = seen.scores(0)
    loud = _train(
        _without_noise(scratch, plan),
        dataclasses.replace(asked, max_rows=min(asked.max_rows or _BY_HEART, _BY_HEART)),
        "by-heart",
        lambda part: progress(0.5 + part / 2),
    )
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
            "references": asked.references,
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


def _without_noise(scratch: Scratch, plan: Plan) -> Scratch:
    """Return the same trainer without noise, on every unit in every step, for longer."""
    settings = scratch.settings
    rounds = _LONGER * plan.rounds
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
                settings.federation, rounds=rounds, sites=1, min_sites=None
            ),
        ),
    )


def _train(scratch: Scratch, asked: Audit, name: str, progress: Callable[[float], None]) -> Scored:
    """Train a target and its references, each on a random half of the same units."""
    rows = scratch.rows(asked.max_rows, seed=scratch.settings.seed)
    count, found = asked.references + 1, []
    with workers(asked.processes) as submit:
        waiting = [submit(_one, (scratch, rows, f"{name}-{n}", n), {}) for n in range(count)]
        for done, wait in enumerate(waiting, 1):
            found.append(wait())
            progress(done / count)
    fit, population, member = (np.array(part) for part in zip(*found, strict=True))
    return Scored(fit=fit, population=population, member=member)


def _one(
    scratch: Scratch, rows: pa.Table, name: str, number: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Do one run; return the fit of its units and of the population, and who was a member."""
    torch.set_num_threads(1)
    reserved = scratch.reserved(codes=2, slots=1)
    first = scratch.settings.seed
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
    # By id, so that equal rows and an account's records stay together.
    aside = holdout_mask(coded.ids, b"population of the membership attack", _POPULATION)
    settings, folders = scratch.sites(name, reserved, rows.filter(pa.array(~aside)))
    Bench(settings, folders).run(scratch.folder / name / "run")
    module = scratch.module(reserved)
    module.load_state_dict(
        safetensors.torch.load_file(scratch.folder / name / "run" / "model.safetensors")
    )
    logits = models.logits(module, coded.codes, coded.values)
    fit = -np.logaddexp(0.0, np.where(coded.labels > 0, -logits, logits))
    shard = founders(folders[0])[1]
    shutil.rmtree(scratch.folder / name)
    _, at, unit_of = np.unique(coded.ids, return_index=True, return_inverse=True)
    fit = np.bincount(unit_of, fit) / np.bincount(unit_of)
    held = np.asarray(holdout_mask(coded.ids[at], shard.key, shard.holdout))
    apart = np.asarray(aside)[at]
    return fit[~apart], fit[apart], ~held[~apart]
