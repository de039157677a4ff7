"""What one unit more changes: how far it moves each release, and what else it tells."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dp_risk.audit.counting import Change
from dp_risk.audit.noise import Residuals, planned_std
from dp_risk.cli.audit.bench import Bench
from dp_risk.cli.audit.probe import gradients
from dp_risk.cli.audit.reserved import (
    replace_rows,
    table_of,
)
from dp_risk.cli.audit.scratch import (
    Scratch,
    embedding,
    starting_weights,
    steep_weights,
    wild_weights,
)
from dp_risk.cli.audit.twins import HEAVY, ROUNDS, ROWS, UNITS, UNREADABLE, Twins
from dp_risk.cli.audit.views import SUM
from dp_risk.privacy.plan import Plan
from dp_risk.privacy.schedule import COUNTS, EVALUATION, SCORE_BINS, SUBGROUPS, TRAINING
from dp_risk.types import FederationError, RandomnessKind

_MOST_SLOTS = 4096
# Of releases that are compared: many of them fit into any budget.
_NOISE = 40.0
_EDGES = [-1.0, 0.0, 1.0]
# Rounding to the grid costs at most this, and the noise is scaled up for it.
_ROUNDING = 1.011


def changes(scratch: Scratch, plan: Plan) -> Iterator[Change]:
    """Yield how far one unit moves every kind of release when the noise is the same.

    Parameters
    ----------
    scratch : Scratch
        Where the sites are made.
    plan : Plan
        Plan of the configured run.
    """
    # A gradient far above the clip norm of all other units together.
    slots = min(_MOST_SLOTS, int(20 * ROWS * max(1.0, plan.clip_norm)))
    twins = Twins.make(scratch, "pair", slots=slots, private=False)
    reserved, module = twins.reserved, scratch.module(twins.reserved)
    start = starting_weights(module, reserved)
    asked = (start, steep_weights(start), wild_weights(module, reserved))
    name = embedding(module, reserved)
    norms = [gradients(module, weights, reserved, name)[1][1] for weights in asked]
    sites = twins.copies("pair-without")
    _, held = twins.words(sites[0])
    without = _releases(twins, sites, plan, asked)
    for unit in UNITS:
        moved = _releases(twins, twins.copies(f"pair-{unit}", unit), plan, asked)
        for (purpose, round), before in without.items():
            # Each step of a round may move it by so much.
            bound = plan.clip_norm * plan.steps_per_round if purpose == TRAINING else 1.0
            after = moved.get((purpose, round))
            distance = float("inf")
            if after is not None and _shapes(after) == _shapes(before):
                distance = float(
                    np.sqrt(sum(np.square(after[k] - before[k]).sum() for k in before))
                )
            heavy = unit == HEAVY
            least = bound
            if purpose == TRAINING:
                norm = norms[round % len(asked)]
                least = min(plan.clip_norm, norm) * plan.steps_per_round
            elif purpose != COUNTS and not held:
                # So little is held out that no added unit is.
                least = 0.0
            elif purpose in (EVALUATION, SUBGROUPS) and twins.records > 1:
                # Its records fall into two cells.
                least = bound / math.sqrt(2)
            least = 0.98 * least - (_ROUNDING - 1) * bound
            yield Change(
                name=unit,
                purpose=purpose,
                moved=distance,
                allowed=bound * _ROUNDING,
                least=max(0.0, least) if heavy else 0.0,
                raw_norm=norm if heavy and purpose == TRAINING else None,
            )


def _shapes(arrays: Mapping[str, NDArray[Any]]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items()}


Weights = Mapping[str, NDArray[Any]]
Releases = dict[tuple[str, int], Weights]


def _releases(
    twins: Twins, sites: list[Path], configured: Plan, weights: Sequence[Weights]
) -> Releases:
    """Ask sites for everything that there is, with repeatable noise."""
    bench = Bench(twins.settings, sites)
    plan = comparable(bench, twins, configured, run="pair", randomness=RandomnessKind.SEEDED)
    return everything(bench, plan, weights) if bench.begin(plan) else {}


def everything(bench: Bench, plan: Plan, weights: Sequence[Weights]) -> Releases:
    """Return what the opponent sees of a plan that has begun.

    Training rounds take the weights in turns.
    """
    found: Releases = {}
    asked: list[tuple[str, int, Any, dict[str, Any]]] = [
        (COUNTS, 0, None, {}),
        *((TRAINING, round, weights[round % len(weights)], {}) for round in range(plan.rounds)),
    ]
    if bench.settings.data.holdout:
        asked += [
            (SCORE_BINS, 0, weights[0], {}),
            (EVALUATION, 0, weights[0], {"edges": _EDGES}),
            *(
                (SUBGROUPS, number, weights[0], {"edges": _EDGES, "column": column})
                for number, column in enumerate(plan.subgroups)
            ),
        ]
    for purpose, round, at, more in asked:
        seen = bench.view(plan, purpose, round, at, **more)
        if seen is not None:
            found[purpose, round] = seen
    return found


def comparable(bench: Bench, twins: Twins, configured: Plan, **changes: Any) -> Plan:
    """Return the configured plan for twins: every purpose, and all units in each step.

    The noise is cheap enough for any budget, and is what it says. The weights stay where they are
    between the steps of a round, so that each step moves a sum by at most a clip norm.
    """
    said = bench.statement(bench.nodes[0])
    module = twins.scratch.module(twins.reserved)
    plan = dataclasses.replace(
        configured,
        schema=said["schema"],
        dimension=sum(p.numel() for p in module.parameters() if p.requires_grad),
        noise_multiplier=_NOISE,
        rounds=ROUNDS,
        spares=0,
        local_rate=0.0,
        counts_noise=_NOISE,
        score_bins_noise=_NOISE,
        evaluation_noise=_NOISE,
        subgroups=twins.columns,
        subgroups_noise=_NOISE if twins.columns else 0.0,
        stable_ids=said["stable_ids"],
        min_sites=len(bench.nodes),
        participants=bench.participants(),
        **{"sampling_rate": 1.0, **changes},
    )
    return dataclasses.replace(plan, epsilon=1.001 * plan.cost)


@dataclass(frozen=True, kw_only=True)
class Transcripts:
    """Everything that left in several runs, without and with one unit."""

    without: list[list[dict[str, Any]]]
    with_unit: Mapping[str, list[list[dict[str, Any]]]]
    benches: list[Bench]


def transcripts(twins: Twins, *, repeats: int) -> Transcripts:
    """Train on D and on D plus a unit, several times each.

    Parameters
    ----------
    twins : Twins
        Sites that call their rows private.
    repeats : int
        Runs of each kind.
    """
    benches: list[Bench] = []

    def run(name: str, unit: str | None) -> list[dict[str, Any]]:
        bench = Bench(twins.settings, twins.copies(name, unit), transcript=True)
        # A run that one unit breaks off tells of it by what is missing.
        with suppress(FederationError):
            bench.run(twins.scratch.folder / f"{name}-run")
        benches.append(bench)
        # Which bins an evaluation has is the server's choice, from what was released before.
        seen = [
            {"view": f"{view.purpose} {view.round}", "arrays": dict(view.arrays)}
            for view in bench.opponent.views
            if view.source == SUM and view.purpose not in (EVALUATION, SUBGROUPS)
        ]
        return [*bench.messages, *seen]

    without: list[list[dict[str, Any]]] = []
    with_unit: dict[str, list[list[dict[str, Any]]]] = {HEAVY: [], UNREADABLE: []}
    # In turns, so that what drifts with time is constant on neither side.
    for number in range(repeats):
        without.append(run(f"spied-without-{number}", None))
        for unit, found in with_unit.items():
            found.append(run(f"spied-{unit}-{number}", unit))
    # The same people in another order, and some new ones: nobody may change sides.
    bench = Bench(twins.settings, _edited(twins))
    bench.run(twins.scratch.folder / "spied-edited-run")
    benches.append(bench)
    return Transcripts(without=without, with_unit=with_unit, benches=benches)


def _edited(twins: Twins) -> list[Path]:
    sites = twins.copies("spied-edited")
    table = table_of(sites[0])
    more = twins.scratch.rows(ROWS + 7, seed=1)
    more = more.append_column(twins.reserved.column, pa.nulls(more.num_rows, pa.string()))
    order = np.arange(table.num_rows)[::-1]
    mixed = [table.take(order), more.cast(table.schema)]
    replace_rows(sites[0], pa.concat_tables(mixed))
    return sites


def repeated(twins: Twins, plan: Plan, *, repeats: int) -> list[Residuals]:
    """Return the noise of every kind of release, in all coordinates.

    Equal runs differ in it only; and where no site has a row it is all that there is, at any
    sampling rate.

    Parameters
    ----------
    twins : Twins
        Sites that call their rows private.
    plan : Plan
        Plan of the configured run.
    repeats : int
        Runs, at least 2.
    """
    empty = twins.copies("empty")
    for site in empty:
        replace_rows(site, table_of(site).slice(0, 0))
    sampled = {"sampling_rate": plan.sampling_rate}
    alone = _noise(twins, plan, empty, repeats=repeats, centred=False, **sampled)
    return [*_noise(twins, plan, twins.copies("repeated"), repeats=repeats), *alone]


def _noise(
    twins: Twins,
    plan: Plan,
    sites: list[Path],
    *,
    repeats: int,
    centred: bool = True,
    **changes: Any,
) -> Iterator[Residuals]:
    bench = Bench(twins.settings, sites)
    start = starting_weights(twins.scratch.module(twins.reserved), twins.reserved)
    found: dict[tuple[str, int], list[NDArray[np.float64]]] = {}
    for number in range(repeats):
        own = comparable(bench, twins, plan, run=f"{sites[0].parent.name}-{number}", **changes)
        if not bench.begin(own):
            raise FederationError("a site refused an honest plan of the audit")
        for (purpose, round), arrays in everything(bench, own, [start]).items():
            flat = np.concatenate([arrays[name].ravel() for name in sorted(arrays)])
            # Each column has groups of its own; everything else is the same question every time.
            found.setdefault((purpose, round if purpose == SUBGROUPS else 0), []).append(flat)
        bench.end(own.run)
    for (purpose, _), releases in found.items():
        values = np.array(releases)
        if centred:
            values -= values.mean(0)
        training = purpose == TRAINING
        shares = 1 if plan.max_colluding is None else len(bench.nodes) - plan.max_colluding
        bound = plan.clip_norm if training else 1.0
        std = planned_std(bound, _NOISE, values.shape[1], shares=shares)
        yield Residuals(
            name=purpose if centred else f"{purpose} without a row",
            values=values[None],
            std=std * math.sqrt(plan.steps_per_round if training else 1),
            centred=centred,
        )
