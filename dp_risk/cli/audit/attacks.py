"""What a lying server may ask and must not get, and ledgers that somebody edited."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray

from clients.policy import Policy
from clients.site import LEDGER, POLICY, Site
from dp_risk import wire
from dp_risk.audit.bounds import gaussian_epsilon
from dp_risk.audit.findings import Check
from dp_risk.cli.audit.bench import REFUSAL, Bench
from dp_risk.cli.audit.differences import comparable
from dp_risk.cli.audit.edits import EDITS
from dp_risk.cli.audit.scratch import starting_weights
from dp_risk.cli.audit.twins import Twins
from dp_risk.privacy.accounting import calibrate
from dp_risk.privacy.ledger import Ledger
from dp_risk.privacy.plan import Plan
from dp_risk.privacy.schedule import COUNTS, EVALUATION, SCORE_BINS, TRAINING, TUNING
from dp_risk.secure_sum.session import MASKED
from dp_risk.types import DpRiskError, RandomnessKind, Refused, Trust, Unit

Weights = Mapping[str, NDArray[Any]]
_MOST_RUNS = 12
# Sums without a mask are far below this, and hardly any masked one is.
_UNMASKED = 2.0**56


@dataclass(frozen=True, kw_only=True)
class Victim:
    """A site that calls its rows private, and an honest plan for it."""

    bench: Bench
    node: int
    plan: Plan
    weights: Weights

    @classmethod
    def of(cls, twins: Twins, plan: Plan, name: str, **rules: Any) -> Victim:
        """Copy a twin, with some rules of its policy changed, and name it in the plan."""
        folders = twins.copies(name)
        path = folders[0] / POLICY
        dataclasses.replace(Policy.load(path), **rules).save(path)
        bench = Bench(twins.settings, folders)
        own = dataclasses.replace(plan, run=name, participants=bench.participants())
        node = bench.nodes[0]
        module = twins.scratch.module(twins.reserved)
        weights = starting_weights(module, twins.reserved)
        return cls(bench=bench, node=node, plan=own, weights=weights)

    def enrol(self, **changes: Any) -> bool:
        """Whether a changed plan is accepted; it is closed again, and never computed."""
        try:
            plan = dataclasses.replace(self.plan, **changes)
        except ValueError:
            return False
        accepted = not wire.is_refusal(self.bench.enrol(self.node, plan))
        if accepted:
            self.bench.ask(self.node, "query.close", {"run": plan.run})
        return accepted

    def train(self, plan: Plan, round: int, shift: float = 0.0, **more: Any) -> RecordDict:
        """Ask for a training round, at weights that may be shifted."""
        weights = {name: array + shift for name, array in self.weights.items()}
        return self.bench.release(self.node, plan, TRAINING, round, weights, **more)


def policy(twins: Twins, plan: Plan) -> Check:
    """Check that a private site refuses every plan that its policy does not allow."""
    # Each rule can then be broken alone: a run above the cap is within the lifetime budget, and a
    # single round of too little noise is below the cap.
    victim = Victim.of(
        twins,
        plan,
        "policy",
        run_epsilon=1.01 * plan.cost,
        min_noise_multiplier=0.9 * plan.noise_multiplier,
    )
    accepted = [
        name
        for number, (name, change) in enumerate(_bad_plans(plan).items())
        if victim.enrol(run=f"bad-{number}", **change)
    ]
    honest = victim.enrol(run="honest")
    tried = len(_bad_plans(plan))
    if not honest:
        return Check(name="policy", passed=False, figure="an honest plan was refused")
    spoken = sum(said != REFUSAL for said in victim.bench.refusals)
    return Check(
        name="policy",
        passed=not accepted and not spoken,
        figure=f"{tried - len(accepted)} of {tried} plans beyond the policy refused"
        + (f"; accepted: {', '.join(accepted)}" if accepted else "")
        + (f"; {spoken} refusals say more than that they are one" if spoken else ""),
    )


def _bad_plans(plan: Plan) -> dict[str, dict[str, Any]]:
    """Return changes of a plan that no private site may accept, by what they are."""
    promised, quarter = float(plan.epsilon or 0), plan.noise_multiplier / 4
    someone = {"somebody else": "0" * 64}
    none: dict[str, Any] = {"noise_multiplier": 0.0, "epsilon": None, "counts_noise": 0.0}
    none |= {"score_bins_noise": 0.0, "evaluation_noise": 0.0, "subgroups_noise": 0.0}
    none |= {"subgroups": ()}
    unit = Unit.RECORD if plan.unit == Unit.ACCOUNT else Unit.ACCOUNT
    return {
        "less noise than the plan's epsilon pays for": {"noise_multiplier": quarter},
        "an epsilon below its price": {"epsilon": promised / 2},
        "more rounds than it pays for": {"rounds": 16 * plan.rounds},
        "more steps a round than it pays for": {"steps_per_round": 16},
        "a count that is too exact": {"counts_noise": 0.3},
        "an evaluation that is too exact": {"evaluation_noise": 0.05, "score_bins_noise": 0.05},
        "a run above the cap": {
            "epsilon": 2 * promised, "noise_multiplier": 0.95 * plan.noise_multiplier,
        },
        "a noise multiplier below the smallest": {
            "noise_multiplier": 0.8 * plan.noise_multiplier, "rounds": 1,
            "sampling_rate": plan.sampling_rate / 2,
        },
        "a clip norm above the largest": {"clip_norm": 1e6},
        "another delta": {"delta": min(0.5, 100 * plan.delta)},
        "noise that can be repeated": {"randomness": RandomnessKind.SEEDED},
        "no noise": {"trust": Trust.NONE, **none},
        "another unit": {"unit": unit, "max_records_per_account": 1},
        "more records of an account": {"max_records_per_account": 10**6},
        "another data set": {"dataset": "another"},
        "another schema": {"schema": "0" * 64},
        "another model than its dimension": {"dimension": plan.dimension + 1},
        "a model that is not listed": {"model": "unknown"},
        "other accounts": {"stable_ids": not plan.stable_ids},
        "partners without this site": {"participants": someone},
    }  # fmt: skip


def reservation(twins: Twins, plan: Plan) -> Check:
    """Check that nothing leaves but what was reserved, once, and never above the lifetime."""
    wrong = [*_rounds(twins, plan), *_tightened(twins, plan), *_lifetime(twins, plan)]
    if plan.trust == Trust.DISTRIBUTED:
        wrong += [*_strangers(twins, plan), *_others(twins, plan), *_mixed(twins, plan)]
    return Check(
        name="reservation",
        passed=not wrong,
        figure="; ".join(wrong)
        or "rounds beyond the schedule, again with other weights, out of order, after a crash, "
        "after the end and beyond the lifetime budget: all refused",
    )


def _rounds(twins: Twins, plan: Plan) -> Iterator[str]:
    """Yield what a site answered that it must not have."""
    victim = Victim.of(twins, plan, "rounds")
    own, bench, node = victim.plan, victim.bench, victim.node
    if not wire.is_refusal(victim.train(own, 0)):
        yield "a round of a plan that is not enrolled was answered"
    bench.begin(own)
    first = victim.train(own, 0)
    if wire.RECEIPT not in first:
        yield "an honest round was refused"
        return
    again = victim.train(own, 0)
    if wire.RECEIPT not in again:
        yield "the same request was not answered again"
    elif (
        wire.read_release(again).digest != wire.read_release(first).digest
        or len(bench.spy.watches[bench.folder(node).name].rounds) != 1
    ):
        yield "a round was computed twice"
    if not wire.is_refusal(victim.train(own, 0, shift=0.5)):
        yield "a round was answered again with other weights"
    for round in (own.rounds + own.spares, 10**6, -1):
        if not wire.is_refusal(victim.train(own, round)):
            yield f"round {round} of {own.rounds} was answered"
    if own.rounds > 2:
        victim.train(own, 2)
        if not wire.is_refusal(victim.train(own, 1)):
            yield "a round was answered out of order"
    for purpose in (TUNING, COUNTS):
        unplanned = purpose not in {line.name for line in own.schedule}
        if unplanned and _answered(bench.release, node, own, purpose, 0, None):
            yield f"{purpose} was answered without being planned"
    site = Site.open(bench.folder(node))
    if any(line.name == SCORE_BINS for line in own.schedule):
        # As a site that dies between the charge and its answer.
        try:
            site.ledger.pay(
                run=own.run, plan_digest=own.digest, purpose=SCORE_BINS, round=0, request="0" * 64
            )
        except Refused:
            yield "a site that was opened again forgot its run"
        if _answered(bench.release, node, own, SCORE_BINS, 0, victim.weights):
            yield "a round that died was computed again"
    site.ledger.close_file()
    bench.end(own.run)
    if _answered(bench.release, node, own, EVALUATION, 0, victim.weights, edges=[0.0]):
        yield "a round was answered after the end of its run"
    if victim.enrol(run=own.run):
        yield "a run id was used twice"


def _tightened(twins: Twins, plan: Plan) -> Iterator[str]:
    """Yield what a site answered after its owner asked for more noise than the plan has."""
    victim = Victim.of(twins, plan, "tightened")
    own, folder = victim.plan, victim.bench.folder(victim.node)
    victim.bench.begin(own)
    rules = Policy.load(folder / POLICY)
    changed = dataclasses.replace(rules, min_noise_multiplier=2 * own.noise_multiplier)
    changed.save(folder / POLICY)
    again = Bench(twins.settings, [folder])
    victim = dataclasses.replace(victim, bench=again, node=again.nodes[0])
    if not wire.is_refusal(victim.train(own, 0)):
        yield "a round was answered that the policy does not allow any more"


def _answered(ask: Callable[..., RecordDict], *args: Any, **more: Any) -> bool:
    return wire.RECEIPT in ask(*args, **more)


def _lifetime(twins: Twins, plan: Plan) -> Iterator[str]:
    """Yield whether runs one after another exceed the lifetime budget, by a count of our own."""
    victim = Victim.of(twins, plan, "lifetime")
    bench, node = victim.bench, victim.node
    lifetime = float(bench.statement(node)["lifetime_epsilon"])
    # Every site charges for all that may hold a unit.
    steps, epsilon = victim.plan.rounds * plan.max_sites_per_unit, lifetime / 2
    # Training alone, so that what was spent is easy to tell.
    noise = calibrate(epsilon, plan.delta, sampling_rate=1.0, count=steps)
    changes: dict[str, Any] = {
        "epsilon": epsilon, "noise_multiplier": noise, "sampling_rate": 1.0, "counts_noise": 0.0,
        "score_bins_noise": 0.0, "evaluation_noise": 0.0, "subgroups": (), "subgroups_noise": 0.0,
        "spares": 0,
    }  # fmt: skip
    done = 0
    while done < _MOST_RUNS:
        own = dataclasses.replace(victim.plan, run=f"lifetime-{done}", **changes)
        if not bench.begin(own):
            break
        for round in range(own.rounds):
            victim.train(own, round)
        bench.end(own.run)
        done += 1
    spent = gaussian_epsilon(math.sqrt(done * steps) / noise, plan.delta)
    if spent > lifetime:
        yield f"{done} runs were answered, epsilon {spent:.3g} of a lifetime of {lifetime:.3g}"
    if done == 0:
        yield "not one run fits the lifetime budget"


def _others(twins: Twins, plan: Plan) -> Iterator[str]:
    """Yield what a site answered for another set of sites than it may."""
    victim = Victim.of(twins, plan, "others")
    own, names = victim.plan, sorted(victim.plan.participants)
    victim.bench.begin(own)
    for what, named in {
        "too few sites": names[:-1],
        "a site that is not enrolled": [*names, "somebody"],
        "no site at all": [],
        "nobody in particular": None,
    }.items():
        if not wire.is_refusal(victim.train(own, 0, participants=named)):
            yield f"a round was answered for {what}"
    if wire.is_refusal(victim.train(own, 0)):
        yield "an honest round was refused"
    if not wire.is_refusal(victim.train(own, 0, participants=names[::-1][:2])):
        yield "a round was answered for two sets of sites"


def _mixed(twins: Twins, plan: Plan) -> Iterator[str]:
    """Yield whether masks fall away where the first site was asked something else than the rest."""
    victim = Victim.of(twins, plan, "mixed")
    own, bench = victim.plan, victim.bench
    bench.begin(own)
    total = np.zeros(own.dimension, np.uint64)
    for node in bench.nodes:
        shift = 0.5 if node == victim.node else 0.0
        content = dataclasses.replace(victim, node=node).train(own, 0, shift=shift)
        if wire.RECEIPT not in content:
            return
        total += wire.read_release(content).arrays[MASKED]
    if (np.abs(total.view(np.int64).astype(np.float64)) < _UNMASKED).all():
        yield "sites that were asked different things were added up"


def _strangers(twins: Twins, plan: Plan) -> Iterator[str]:
    """Yield whom a site met that it must not have."""
    for what, change in {
        "of another plan": {"plan_digest": "0" * 64},
        "with another key": {"public_key": "5" * 64},
        "that is not on the roster": {"site": "somebody"},
    }.items():
        victim = Victim.of(twins, plan, f"stranger-{len(what)}")
        bench, own = victim.bench, victim.plan
        said = [wire.read_statement(bench.enrol(node, own))["enrolment"] for node in bench.nodes]
        said[-1] = {**said[-1], **change}
        values = {"plan": own.digest, "run": own.run, "enrolments": said}
        if not wire.is_refusal(bench.ask(victim.node, "query.meet", values)):
            yield f"a site met one {what}"


def ledger(twins: Twins, plan: Plan) -> Check:
    """Check that a ledger holds after two runs, and that edits of a copy of it are noticed."""
    victim = Victim.of(twins, plan, "ledger")
    bench, cheap = victim.bench, comparable(victim.bench, twins, victim.plan)
    folder = bench.folder(victim.node)
    older = folder.with_name("older.sqlite")
    for run in ("first", "second"):
        own = dataclasses.replace(cheap, run=run)
        if not bench.begin(own) or wire.RECEIPT not in victim.train(own, 0):
            return Check(name="ledger", passed=False, figure="an honest run was refused")
        bench.end(own.run)
        if run == "first":
            shutil.copy2(folder / LEDGER, older)
    wrong = []
    if not _holds(folder):
        wrong.append("an honest ledger does not hold")
    for name, edit in EDITS.items():
        copy = edit.copy(folder)
        if _chained(copy):
            wrong.append(f"not noticed: {name}")
        copy.unlink()
    shutil.copy2(older, folder / LEDGER)
    if _holds(folder):
        wrong.append("not noticed: an older copy put back")
    tried = len(EDITS) + 1
    return Check(
        name="ledger",
        passed=not wrong,
        figure="; ".join(wrong) or f"holds after two runs; {tried} of {tried} edits noticed",
    )


def _holds(folder: Path) -> bool:
    """Whether a site opens and its ledger holds, its seal included."""
    try:
        site = Site.open(folder)
        try:
            site.ledger.verify()
        finally:
            site.ledger.close_file()
    except DpRiskError:
        return False
    return True


def _chained(path: Path) -> bool:
    """Whether the entries of a ledger hold, without its seal."""
    try:
        ledger = Ledger.open(path)
        try:
            ledger.audit()
        finally:
            ledger.close_file()
    except DpRiskError:
        return False
    return True


ATTACKS = (policy, reservation, ledger)
