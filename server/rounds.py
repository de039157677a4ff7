"""One federated run over a Grid: plan, enrol, count, step, close."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from flwr.serverapp import Grid

from dp_risk.data.coding import Coding
from dp_risk.data.schema import Schema
from dp_risk.federation import files
from dp_risk.privacy.dpsgd import dimension
from dp_risk.privacy.plan import Plan
from dp_risk.privacy.schedule import TRAINING, costs
from dp_risk.types import (
    DpRiskError,
    FederationError,
    Refused,
    Trust,
    VerificationError,
)
from server import models, record, subgroups
from server.aggregation import Weights
from server.attendance import Attendance, listed
from server.averaging import Averaging
from server.budget import SiteView, check_together, refusal_line
from server.combining import Question, Sum
from server.evaluation import HISTOGRAM, evaluate
from server.heads import Heads
from server.job import Job
from server.journal import Journal, Start
from server.learning import Learner, Steps
from server.ledgers import collect
from server.norms import longest
from server.observer import Observer, Silent
from server.plans import make_plan
from server.robust import Rule
from server.round_log import RoundLog
from server.sites import CLOSE, Sites
from server.sizes import Sizes
from server.sizes import find as find_sizes
from server.start import first_module
from server.summing import Summing

_REPORTS = 10
# A site that lost its connection is back after half of that.
_LAST_WORD_SECONDS = 60.0
LOG = logging.getLogger("dp_risk.server")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What rounds brought."""

    weights: Weights
    joined: Mapping[str, int]
    steps: Steps


class Run:
    """One run of a job; `execute` does all of it.

    Parameters
    ----------
    grid : Grid
        Flower's way to the sites.
    job : Job
        What to do.
    observer : Observer
        Who watches.
    """

    def __init__(self, grid: Grid, job: Job, observer: Observer) -> None:
        self.job = job
        self.observer = observer
        self.coding = Coding(schema=Schema.from_dict(dict(job.schema)))
        self.module = first_module(job, self.coding)
        self.heads = Heads(job.memory)
        self.journal = Journal(job.folder if job.resumable else None)
        start = self.journal.start()
        self.start = start
        known = start.plan.participants if start else {}
        self.sites = Sites(grid, job.federation, known, job.roster)
        self.log = RoundLog(job.folder / "rounds.jsonl", resumed=start is not None)
        self.sums: Summing | None = None
        # Sites that have met in the life of this server.
        self.welcome: set[str] = set()

    def execute(self) -> dict[str, Any]:
        """Run to the end, write the artefacts into the job's folder, return `run.json`.

        A job that is resumable goes on from the journal in its folder, if there is one, and when
        it is killed it leaves the run open at the sites; anything else that ends it closes the run.

        Raises
        ------
        Refused
            If a site refuses the plan; every reservation is given back.
        FederationError
            If too few sites answer.
        ConfigurationError
            If delta does not fit the number of units.
        VerificationError
            If a ledger is an older copy of the one that was seen.
        """
        views = self._found()
        plan = (
            self.start.plan
            if self.start
            else make_plan(self.job, self.coding.schema.digest, dimension(self.module), views)
        )
        self.observer.planned(plan)
        names = sorted(plan.participants)
        closes = False
        try:
            met = self._enrolled(plan, views)
            sums = self._summing(plan, met)
            sizes = find_sizes(plan, sums, views, self.job.federation.byzantine)
            outcome = self._rounds(plan, sums, sizes)
            models.save(self.job, outcome.weights)
            estimates, groups = self._evaluate(plan, sums, outcome.weights)
            closes = True
        except DpRiskError:
            closes = True
            raise
        finally:
            closes |= not self.job.resumable
            if closes:
                self.journal.end()
            closed = self.sites.views(names, CLOSE, {"run": plan.run}) if closes else []
            doubts = [line for line in map(self._forgotten, closed) if line]
            for line in doubts:
                LOG.error(line)
            self._remember([view for view in closed if not self._forgotten(view)])
        ended = {view.site: view for view in closed}
        run = record.build(
            plan=plan,
            views=views,
            closed=ended,
            evidence=collect(self.job.folder, plan, ended, sums.paid),
            sizes=sizes,
            federation=self.job.federation,
            steps=outcome.steps,
            joined=outcome.joined,
            summing=sums,
            estimates=estimates,
            groups=groups,
            doubts=doubts,
            seconds=self.log.seconds,
        )
        record.write_plan(self.job.folder, plan)
        # Last, and whole: where it is, the run is done.
        files.write(self.job.folder / "run.json", json.dumps(run, indent=2) + "\n")
        return run

    def _found(self) -> list[SiteView]:
        """Return what the sites stated before the run."""
        if self.start is not None:
            return [SiteView(statement=said) for said in self.start.statements]
        views = self.sites.find()
        check_together(views, dataset=self.job.dataset)
        self._check_heads(views)
        return views

    def _check_heads(self, views: list[SiteView]) -> None:
        """Compare every ledger with the head that was last seen of it."""
        entries = {}
        for view in views:
            before = self.heads.known(view.statement)
            if before is not None:
                entries[view.site] = before.entries - 1
        again = self.sites.views(
            sorted(entries), "query.status", lambda name: {"entry": entries[name]}
        )
        latest = {view.site: view for view in again}
        for view in views:
            if view.site in entries and view.site not in latest:
                raise FederationError(f"{view.site} did not state its ledger's head")
            self.heads.check(latest.get(view.site, view).statement)

    def _remember(self, views: list[SiteView]) -> None:
        for view in views:
            self.heads.remember(view.statement)
        self.heads.save()

    def _forgotten(self, view: SiteView) -> str | None:
        """Return what a site's ledger no longer holds of this run, though its release came."""
        if self.sums is None:
            return None
        charged = view.statement["run"]["rounds"]
        for purpose, count in Counter(name for name, _ in self.sums.paid[view.site]).items():
            if charged.get(purpose, 0) < count:
                return (
                    f"{view.site}: its ledger holds {charged.get(purpose, 0)} charges of "
                    f"{purpose}, and {count} releases of it came: an older copy was restored"
                )
        return None

    def _enrolled(self, plan: Plan, views: list[SiteView]) -> tuple[str, ...]:
        """Return the sites that take part: all have accepted the plan, and each other."""
        if self.start is not None and self.start.sites:
            return self.start.sites
        statements = tuple(view.statement for view in views)
        if self.start is None:
            self.journal.begin(Start(plan=plan, statements=statements))
        else:
            self._await(sorted(plan.participants))
        names = sorted(plan.participants)
        enrolled = self._enrol(plan, names)
        self._remember(list(enrolled.values()))
        silent = [view for view in views if view.site not in enrolled]
        if self.sites.refused:
            refused = [view for view in silent if view.site in self.sites.refused]
            raise Refused(refusal_line(refused, plan))
        if silent:
            raise FederationError(
                f"nothing came from {listed(view.site for view in silent)} when the plan was sent; "
                "nothing was computed"
            )
        said = tuple(
            v.statement["enrolment"]
            for _, v in sorted(enrolled.items())
            if v.statement["enrolment"]
        )
        met = self._met(plan, names, said)
        if len(met) < plan.min_sites:
            raise Refused(
                f"refused: {len(names) - len(met)} of {len(names)} sites did not accept the "
                f"others (other plans, keys or rosters), {plan.min_sites} are needed; nothing was "
                "computed"
            )
        self.start = Start(plan=plan, statements=statements, enrolments=said, sites=met)
        self.journal.begin(self.start)
        self.welcome = set(met)
        return met

    def _enrol(self, plan: Plan, names: Sequence[str]) -> dict[str, SiteView]:
        """Send the plan until all sites have accepted it, one refuses, or patience ends."""
        deadline = time.monotonic() + self.job.federation.timeout
        enrolled: dict[str, SiteView] = {}
        missing = list(names)
        while True:
            views = self.sites.views(missing, "query.enrol", self._offer(plan))
            enrolled |= {view.site: view for view in views}
            missing = [name for name in names if name not in enrolled]
            left = deadline - time.monotonic()
            if not missing or self.sites.refused or left < 0:
                return enrolled
            # Connections that break are made again within half a minute.
            self.sites.back(missing, min(left, _LAST_WORD_SECONDS))

    @staticmethod
    def _offer(plan: Plan) -> dict[str, Any]:
        return {"plan": plan.to_dict(), "run": plan.run}

    def _met(self, plan: Plan, names: Sequence[str], said: Sequence[Any]) -> tuple[str, ...]:
        """Tell sites of each other where that is needed; return those that accept it."""
        if plan.trust != Trust.DISTRIBUTED:
            return tuple(names)
        values = {"plan": plan.digest, "run": plan.run, "enrolments": list(said)}
        return tuple(view.site for view in self.sites.views(names, "query.meet", values))

    def _await(self, names: Sequence[str]) -> None:
        """Wait for all sites of a run whose server was killed before they had all enrolled."""
        seconds = self.job.federation.timeout
        there = self.sites.back(names, seconds)
        if there != set(names):
            raise FederationError(
                f"{len(there)} of {len(names)} sites are there again after {seconds:g} s; "
                "nothing was computed"
            )

    def _summing(self, plan: Plan, names: Sequence[str]) -> Summing:
        attendance = Attendance(
            names,
            fewest=self.job.federation.fewest(self.job.privacy),
            ready=partial(self._ready, plan),
            seconds=self.job.federation.timeout,
        )
        sums = Summing(plan, attendance, partial(self.sites.releases, plan), self.journal)
        self.sums = sums
        if self.journal.ended:
            # Only the end is left to be told, to those who come back in time.
            self.sites.back(names, min(self.job.federation.timeout, _LAST_WORD_SECONDS))
        elif not self.welcome:
            # Of a resumed run: who is there, and are their ledgers those of before?
            attendance.recover(names, names)
        return sums

    def _ready(self, plan: Plan, names: Sequence[str]) -> set[str]:
        """Return which sites are there; one that this server has not met yet is met first."""
        found = self.sites.ready(names)
        new = sorted(found - self.welcome)
        if new and self.start is not None:
            views = self.sites.views(new, "query.enrol", self._offer(plan))
            self._check_heads(views)
            for view in views:
                line = self._forgotten(view)
                if line:
                    raise VerificationError(line)
            accepted = [view.site for view in views]
            self.welcome |= set(self._met(plan, accepted, self.start.enrolments))
        return found & self.welcome

    def _rounds(self, plan: Plan, sums: Summing, sizes: Sizes) -> Outcome:
        job, module = self.job, self.module
        average = Averaging(
            plan,
            rule=Rule(job.federation.rule),
            byzantine=job.federation.byzantine,
            sizes=sizes.each,
            noises=sums.noises,
        )
        learner = Learner(
            job=job,
            coding=self.coding,
            plan=plan,
            start={name: tensor.numpy().copy() for name, tensor in module.state_dict().items()},
            noise=average.noise,
        )
        shapes = {n: tuple(p.shape) for n, p in module.named_parameters() if p.requires_grad}
        joined = dict.fromkeys(sorted(sizes.each), 0)

        def most(sites: Sequence[str], noises: float) -> float:
            return longest(plan, sizes.most(sites), sites=len(sites), noises=noises)

        for number in range(plan.rounds):
            got = sums(
                Question(
                    purpose=TRAINING,
                    shapes=shapes,
                    weights=learner.weights,
                    apart=average.apart,
                    longest=most,
                )
            )
            for site in got.sites:
                joined[site] += 1
            learner.hear(average(got))
            models.check(module, learner.weights, number + 1)
            if self.log.holds(number):
                continue
            spent = self._spent(plan, number + 1, sums.asked)
            auprc = self.observer.stepped(number + 1, plan, spent, learner.result())
            self.log.write(
                {
                    "round": number + 1,
                    "epsilon_spent": spent,
                    "auprc": auprc,
                    "sites": len(got.sites),
                    "dropped": [{"site": n, "reason": r} for n, r in got.dropped.items()],
                    "seconds": self.log.seconds,
                }
            )
        return Outcome(weights=learner.result(), joined=joined, steps=learner.steps)

    @staticmethod
    def _spent(plan: Plan, done: int, asked: Mapping[str, int]) -> float | None:
        """Return the run cost of what was asked so far; now and then, because it takes time."""
        every = max(1, plan.rounds // _REPORTS)
        if not plan.private or (done % every and done != plan.rounds):
            return None
        lines = [
            replace(line, rounds=asked[line.name]) for line in plan.schedule if asked.get(line.name)
        ]
        return max(costs(lines, plan.delta).values())

    def _evaluate(
        self, plan: Plan, sums: Summing, weights: Weights
    ) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
        """Return charged estimates, of all units and by subgroup.

        None, and fewer columns than were planned, where none are or too few sites answered.
        """
        estimates: dict[str, Any] | None = None
        groups: list[dict[str, Any]] = []
        if not plan.evaluation_noise:
            return estimates, groups

        def histogram(purpose: str, cells: int, **more: Any) -> Sum:
            shapes = {HISTOGRAM: (cells,)}
            return sums(Question(purpose=purpose, shapes=shapes, weights=weights, more=more))

        try:
            estimates, seen = evaluate(plan, histogram, capacity=self.job.capacity)
            found = subgroups.evaluate(
                plan, histogram, seen, self.coding, capacity=self.job.capacity
            )
            # What one column has paid for is kept, whatever becomes of the next.
            for entry in found:
                groups.append(entry)
        except FederationError as error:
            # The model stands, and what was charged stays charged.
            LOG.error("no %s: %s", "utility by subgroup" if estimates else "estimates", error)
        return estimates, groups


def execute(grid: Grid, job: Job, observer: Observer | None = None) -> dict[str, Any]:
    """Run a job over a grid and return `run.json`; see `Run.execute`."""
    return Run(grid, job, observer or Silent()).execute()
