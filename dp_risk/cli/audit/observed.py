"""The configured run, under watch: its noise, its samples, its reads and its charges."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.site import LEDGER
from dp_risk.audit import counting
from dp_risk.audit.accounting import Claim, Spent
from dp_risk.audit.findings import Check
from dp_risk.audit.noise import Residuals
from dp_risk.audit.sampler import Batches
from dp_risk.cli.audit.bench import Bench, stacked
from dp_risk.cli.audit.scratch import Scratch, embedding
from dp_risk.cli.audit.spies import Paid, Watch
from dp_risk.cli.audit.views import noise_of
from dp_risk.cli.settings import Audit
from dp_risk.privacy.ledger import Ledger
from dp_risk.privacy.plan import Plan
from dp_risk.privacy.schedule import COUNTS, EVALUATION, SCORE_BINS, SUBGROUPS, TRAINING
from dp_risk.types import RandomnessKind, Split

_CODES = 128
_OF_HOLDOUT = (SCORE_BINS, EVALUATION, SUBGROUPS)


@dataclass(frozen=True, kw_only=True)
class Observed:
    """One federated run as it was configured, and what was seen of it.

    `noise` is what was released of reserved codes, `whole` all that was released of training.
    """

    bench: Bench
    plan: Plan
    record: dict[str, Any]
    noise: Residuals
    whole: Residuals

    @property
    def watches(self) -> dict[str, Watch]:
        """What was read, by site."""
        return self.bench.spy.watches


def observe(scratch: Scratch, asked: Audit) -> Observed:
    """Do the configured run, with reserved codes that no unit has.

    Parameters
    ----------
    scratch : Scratch
        Where the sites are made.
    asked : Audit
        How much of the configured run is done.
    """
    reserved = scratch.reserved(codes=_CODES, slots=1)
    rows = scratch.rows(asked.max_rows, seed=scratch.settings.seed)
    settings, folders = scratch.sites("run", reserved, rows, **scratch.part(asked))
    bench = Bench(settings, folders)
    record = bench.run(scratch.folder / "run" / "run")
    plan = bench.plan
    assert plan is not None
    weights = embedding(scratch.module(reserved), reserved)
    released = stacked(bench.opponent.views, TRAINING, weights)[:, :, reserved.codes.start :]
    std, step = noise_of(plan, TRAINING, len(folders))
    noise = Residuals(
        name="reserved codes",
        values=released.reshape(*released.shape[:2], -1),
        std=std,
        step=step,
    )
    names = next(v.arrays for v in bench.opponent.views if v.purpose == TRAINING)
    every = [stacked(bench.opponent.views, TRAINING, name) for name in names]
    whole = dataclasses.replace(
        noise,
        name="all of training",
        values=np.concatenate([a.reshape(*a.shape[:2], -1) for a in every], axis=2),
    )
    return Observed(bench=bench, plan=plan, record=record, noise=noise, whole=whole)


def batches(observed: Observed) -> list[Batches]:
    """Return the units of every training step, by site."""
    found = []
    for site, watch in observed.watches.items():
        steps = [step for paid in watch.rounds if _is(paid, TRAINING) for step in paid.steps]
        found.append(Batches(site=site, units=watch.sizes[Split.TRAIN], steps=steps))
    return found


def _is(paid: Paid, purpose: str) -> bool:
    return paid.key[1] == purpose


def steps_charged(bench: Bench) -> Check:
    """Check that every computed or released round was charged once, for all of its steps."""
    plan = bench.plan
    assert plan is not None
    seen = [
        counting.Seen(site=site, purpose=r.purpose, round=r.round, steps=0, reads=1)
        for site, r in bench.releases
    ]
    charges = []
    for node in bench.nodes:
        site = bench.folder(node).name
        for paid in bench.spy.watches[site].rounds:
            _, purpose, round = paid.key
            steps = len(paid.steps) if purpose == TRAINING else 1
            seen.append(
                counting.Seen(site=site, purpose=purpose, round=round, steps=steps, reads=1)
            )
        charges += _charges(bench.folder(node), plan)
    # What was reserved for rounds that are lost is not needed where none is.
    planned = {
        line.name: line.event.count * plan.needed[line.name] // plan.max_sites_per_unit
        for line in plan.schedule
    }
    return counting.steps_charged(seen, charges, planned)


def _charges(folder: Path, plan: Plan) -> list[counting.Charge]:
    """Return a run's charges; one for another event than the plan's pays for no step."""
    events = {line.name: line.event.to_dict() for line in plan.schedule}
    ledger = Ledger.open(folder / LEDGER)
    bodies = [e.body for e in ledger.entries() if e.kind == "charge" and e.body["run"] == plan.run]
    ledger.close_file()
    return [
        counting.Charge(
            site=folder.name,
            purpose=body["purpose"],
            round=body["round"],
            steps=int(body["event"]["count"]) // plan.max_sites_per_unit
            if body["event"] == events.get(body["purpose"])
            else 0,
        )
        for body in bodies
    ]


def reads(benches: Sequence[Bench]) -> Check:
    """Check that rows were read by paid rounds only, of the account that paid."""
    found = []
    for bench in benches:
        for site, watch in bench.spy.watches.items():
            for read in watch.reads:
                paid = read.paid
                found.append(
                    counting.Read(
                        site=site,
                        split=read.split,
                        purpose=None if paid is None else paid.key[1],
                        charged=paid is not None and paid.charge is not None,
                        allowed_split=None if paid is None else _allowed(paid),
                        beyond_sample=0 if paid is None else _beyond(paid),
                    )
                )
    return counting.reads_in_mechanisms(found)


def _allowed(paid: Paid) -> str | None:
    """Return the split that a purpose may read: an account of both pays for either."""
    if paid.split == Split.BOTH:
        return Split.TRAIN if paid.key[1] in (COUNTS, TRAINING) else Split.HOLDOUT
    return paid.split


def _beyond(paid: Paid) -> int:
    """Return how many reads a mechanism had no use for."""
    whole = 1 if paid.key[1] in _OF_HOLDOUT else 0
    return paid.beyond + max(0, paid.whole - whole)


def system_randomness(benches: Sequence[Bench]) -> Check:
    """Check that every paid round drew a key of its own from the operating system, and used it."""
    rounds = [
        paid for bench in benches for watch in bench.spy.watches.values() for paid in watch.rounds
    ]
    seeded = [b for b in benches if b.plan and b.plan.randomness == RandomnessKind.SEEDED]
    # Masks have keys that two sites derive alike; those of noise are drawn.
    used = [key for paid in rounds for key in paid.keys if key in paid.drawn]
    wrong = {
        "paid rounds without 256 fresh bits for their noise": sum(
            not any(key in paid.drawn for key in paid.keys) for paid in rounds
        ),
        "keys used twice": len(used) - len(set(used)),
        "runs that ask for noise that can be repeated": len(seeded),
    }
    figure = f"{len(rounds)} paid rounds, {len(used)} keys; "
    figure += ", ".join(f"{count} {what}" for what, count in wrong.items() if count) or "all fresh"
    passed = bool(rounds) and not any(wrong.values())
    return Check(name="system_randomness", passed=passed, figure=figure)


def splits_disjoint(benches: Sequence[Bench]) -> Check:
    """Check that no unit was read for training in one run and for evaluation in another."""
    train: list[NDArray[np.bytes_]] = []
    holdout: list[NDArray[np.bytes_]] = []
    for bench in benches:
        for watch in bench.spy.watches.values():
            for purpose, ids in watch.ids.items():
                side = holdout if purpose in _OF_HOLDOUT else train
                side.append(np.array(sorted(ids), dtype="S64"))
    return counting.splits_disjoint(train, holdout)


def claims(observed: Observed) -> list[Claim]:
    """Return every epsilon that the run states, with what was seen to run under it."""
    plan, record, found = observed.plan, observed.record, []
    by_split: dict[str, list[Spent]] = {}
    [watch, *_] = observed.watches.values()
    lines = {line.name: line for line in plan.schedule}
    for purpose, line in lines.items():
        steps = sum(
            len(paid.steps) if purpose == TRAINING else 1
            for paid in watch.rounds
            if _is(paid, purpose)
        )
        if steps:
            spent = Spent(
                noise_multiplier=plan.sums[purpose].noise_multiplier,
                sampling_rate=plan.sampling_rate if purpose == TRAINING else 1.0,
                steps=steps * plan.max_sites_per_unit,
            )
            by_split.setdefault(line.split, []).append(spent)
    ledger = Ledger.open(observed.bench.folder(observed.bench.nodes[0]) / LEDGER)
    for split, parts in by_split.items():
        stated = {
            "plan of the run": (float(plan.epsilon or 0), None),
            "run.json": (
                min(float(record["epsilon_spent"]), float(record["epsilon_by_split"][split])),
                None,
            ),
            "lifetime by the filter": (
                ledger.state.balances[Split(split)].spent_epsilon,
                ledger.filter.order,
            ),
        }
        found += [
            Claim(name=f"{who}, {split}", epsilon=said, order=order, delta=plan.delta, spent=parts)
            for who, (said, order) in stated.items()
        ]
    ledger.close_file()
    return found
