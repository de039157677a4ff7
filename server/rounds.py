"""One federated run over a Grid: plan, enrol, count, step, close."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import safetensors.numpy
from flwr.serverapp import Grid
from numpy.typing import NDArray

from dp_risk.data.coding import Coding
from dp_risk.data.schema import Schema
from dp_risk.privacy.dpsgd import dimension, load_weights
from dp_risk.privacy.plan import COUNTS, TRAINING, Plan, costs
from dp_risk.privacy.planning import check_delta, choose_noise
from dp_risk.types import ConfigurationError, FederationError, Refused, Trust, Unit
from server import record
from server.aggregation import Weights
from server.budget import SiteView, check_together, refusal_line
from server.evaluation import HISTOGRAM, evaluate
from server.exchange import ask, releases, statements, wait_for_nodes
from server.heads import Heads
from server.job import Job
from server.learning import Learner, Steps
from server.start import first_module
from server.summing import Question, Sum, Summing, summing

SCHEMA_VERSION = 1
_REPORTS = 10
# Seconds that a site has to say that it is there.
_READY_SECONDS = 5.0
LOG = logging.getLogger("dp_risk.server")


class Observer(Protocol):
    """Watches a run; the estimate it returns must be computed from public rows or releases."""

    def planned(self, plan: Plan) -> None:
        """Hear the plan before the first charge."""
        ...

    def stepped(
        self, done: int, plan: Plan, epsilon_spent: float | None, at: Weights
    ) -> float | None:
        """Hear of `done` rounds; return an AUPRC or None. `epsilon_spent` is given now and then."""
        ...


class Silent:
    """An observer that does nothing."""

    def planned(self, plan: Plan) -> None:
        """Do nothing."""

    def stepped(self, *_: object) -> float | None:
        """Do nothing."""
        return None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What rounds brought."""

    weights: Weights
    joined: Mapping[int, int]
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
        self.grid = grid
        self.job = job
        self.observer = observer
        self.coding = Coding(schema=Schema.from_dict(dict(job.schema)))
        self.module = first_module(job, self.coding)
        self.heads = Heads(job.memory)
        self.keys: dict[int, str] = {}
        self.started = time.monotonic()

    def execute(self) -> dict[str, Any]:
        """Run to the end, write the artefacts into the job's folder, return `run.json`.

        Raises
        ------
        Refused
            If a site refuses the plan; every reservation is given back.
        FederationError
            If too few sites answer.
        ConfigurationError
            If delta does not fit the number of units.
        """
        job, settings = self.job, self.job.federation
        nodes = wait_for_nodes(self.grid, settings.sites, settings.timeout)
        views = self._views(nodes, "query.status", {})
        if len(views) < len(nodes):
            raise FederationError(f"{len(nodes) - len(views)} sites did not state their budget")
        check_together(views, dataset=job.dataset)
        self._check_heads(views)
        plan = self._plan(views)
        self.observer.planned(plan)
        self.keys = {view.node: view.key for view in views}
        closed: list[SiteView] = []
        enrolled = self._enrol(plan, views)
        try:
            sums = self._summing(plan, self._met(plan, enrolled))
            known, sizes = self._units(plan, sums, views)
            outcome = self._rounds(plan, sums, sizes)
            self._save_model(outcome.weights)
            estimates = self._evaluate(plan, sums, outcome.weights)
        finally:
            closed = self._views([v.node for v in views], "query.close", {"run": plan.run})
            self._remember(closed)
        run = record.build(
            plan=plan,
            views=views,
            closed={view.node: view for view in closed},
            known=known,
            units=sum(sizes.values()),
            steps=outcome.steps,
            joined=outcome.joined,
            summing=sums,
            estimates=estimates,
            seconds=time.monotonic() - self.started,
        )
        (job.folder / "run.json").write_text(json.dumps(run, indent=2) + "\n")
        return run

    def _views(self, nodes: list[int], kind: str, values: Any) -> list[SiteView]:
        timeout = self.job.federation.timeout
        said = statements(ask(self.grid, nodes, kind, values, None, timeout))
        return [SiteView(node=node, statement=said[node]) for node in nodes if node in said]

    def _check_heads(self, views: list[SiteView]) -> None:
        """Compare every ledger with the head that was last seen of it."""
        entries = {}
        for view in views:
            before = self.heads.known(view.key)
            if before is not None:
                entries[view.node] = before.entries - 1
        again = self._views(sorted(entries), "query.status", lambda node: {"entry": entries[node]})
        latest = {view.node: view for view in again}
        for view in views:
            if view.node in entries and view.node not in latest:
                raise FederationError(f"{view.site} did not state its ledger's head")
            self.heads.check(latest.get(view.node, view).statement)

    def _remember(self, views: list[SiteView]) -> None:
        for view in views:
            self.heads.remember(view.statement)
        self.heads.save()

    def _plan(self, views: list[SiteView]) -> Plan:
        job, privacy, settings = self.job, self.job.privacy, self.job.federation
        sizes = [view.units for view in views]
        units = None if None in sizes else sum(size or 0 for size in sizes)
        if privacy.trust != Trust.NONE:
            if units is not None:
                check_delta(privacy.delta, units, where="declared")
        elif units is None and all(view.statement["public"] for view in views):
            raise ConfigurationError(
                "privacy.trust: a run without noise counts no units, so every site must declare "
                "its number (data.public_size=true)"
            )
        stated = [view.statement for view in views]
        stable_ids = bool(stated[0]["stable_ids"])
        fewest = settings.fewest(privacy)
        noise = choose_noise(
            privacy,
            units=units,
            rounds=settings.rounds,
            steps_per_round=settings.steps_per_round,
            stable_ids=stable_ids,
            holdout=all(said["holdout"] > 0 for said in stated),
            may_lose=len(views) - fewest,
            spare_rounds=settings.spare_rounds,
        )
        local_rate = 0.0
        if settings.steps_per_round > 1:
            # Public facts only: an average site's expected batch.
            batch = noise.sampling_rate * (units or 1000 * settings.sites) / settings.sites
            local_rate = (settings.learning_rate or 0.1) / max(batch, 1.0)
        return Plan(
            run=job.run,
            dataset=job.dataset,
            schema=self.coding.schema.digest,
            model=job.model,
            model_options=dict(job.model_options),
            dimension=dimension(self.module),
            trust=privacy.trust,
            unit=privacy.unit,
            randomness=privacy.randomness,
            delta=privacy.delta,
            epsilon=privacy.epsilon,
            clip_norm=privacy.clip_norm,
            noise_multiplier=noise.noise_multiplier,
            sampling_rate=noise.sampling_rate,
            rounds=noise.rounds,
            steps_per_round=settings.steps_per_round,
            spares=noise.spares,
            local_rate=local_rate,
            counts_noise=noise.counts_noise,
            score_bins_noise=noise.score_bins_noise,
            evaluation_noise=noise.evaluation_noise,
            stable_ids=stable_ids,
            max_records_per_account=(
                privacy.max_records_per_account if privacy.unit == Unit.ACCOUNT else 1
            ),
            max_sites_per_unit=privacy.max_sites_per_unit,
            min_sites=fewest,
            max_colluding=privacy.max_colluding if privacy.trust == Trust.DISTRIBUTED else None,
            participants={view.site: view.key for view in views},
            seed=job.seed,
        )

    def _enrol(self, plan: Plan, views: list[SiteView]) -> list[SiteView]:
        nodes = [view.node for view in views]
        values = {"plan": plan.to_dict(), "run": plan.run}
        enrolled = self._views(nodes, "query.enrol", values)
        self._remember(enrolled)
        joined = {view.node for view in enrolled}
        refused = [view for view in views if view.node not in joined]
        if refused:
            self._remember(self._views(sorted(joined), "query.close", {"run": plan.run}))
            raise Refused(refusal_line(refused, plan))
        return enrolled

    def _met(self, plan: Plan, enrolled: list[SiteView]) -> list[SiteView]:
        """Return the sites that take part, once each knows the others where that is needed."""
        if plan.trust != Trust.DISTRIBUTED:
            return enrolled
        said = [view.statement["enrolment"] for view in enrolled if view.statement["enrolment"]]
        values = {"plan": plan.digest, "run": plan.run, "enrolments": said}
        met = self._views([view.node for view in enrolled], "query.meet", values)
        if len(met) < plan.min_sites:
            raise Refused(
                f"refused: {len(enrolled) - len(met)} of {len(enrolled)} sites did not accept the "
                f"others (other plans, keys or rosters), {plan.min_sites} are needed; nothing was "
                "computed"
            )
        return met

    def _summing(self, plan: Plan, views: list[SiteView]) -> Summing:
        timeout = self.job.federation.timeout

        def asked(question: Question, round: int, nodes: Sequence[int], **more: Any) -> Any:
            kind = "train" if question.purpose == TRAINING else f"query.{question.purpose}"
            values = {"plan": plan.digest, "round": round, **question.more, **more}
            weights = question.weights
            at = None if weights is None else {k: np.asarray(v) for k, v in weights.items()}
            answers = ask(self.grid, list(nodes), kind, values, at, timeout)
            return releases(answers, self.keys, run=plan.run, purpose=question.purpose, round=round)

        def ready(nodes: Sequence[int]) -> set[int]:
            patience = min(timeout, _READY_SECONDS)
            return set(statements(ask(self.grid, list(nodes), "query.status", {}, None, patience)))

        fewest = self.job.federation.fewest(self.job.privacy)
        return summing(plan, views, fewest=fewest, ask=asked, ready=ready)

    @staticmethod
    def _units(
        plan: Plan, sums: Summing, views: list[SiteView]
    ) -> tuple[dict[int, float], dict[int, float]]:
        """Return the numbers of units that are known, and one for every site.

        Where a site's own is not known it counts as an average one.
        """
        if not plan.counts_noise:
            known = {view.node: float(view.units or 0) for view in views}
            return known, known
        counts = sums(Question(purpose=COUNTS, shapes={"units": (1,)}))
        known = {node: max(1.0, float(a["units"][0])) for node, a in counts.each.items()}
        total = sum(known.values()) if known else float(counts.arrays["units"][0])
        mean = max(1.0, total / len(counts.nodes))
        sizes = {view.node: known.get(view.node, mean) for view in views}
        check_delta(plan.delta, round(sum(sizes.values())), where="released")
        return known, sizes

    def _rounds(self, plan: Plan, sums: Summing, units: Mapping[int, float]) -> Outcome:
        job, module = self.job, self.module
        learner = Learner(
            job=job,
            coding=self.coding,
            plan=plan,
            start={name: tensor.numpy().copy() for name, tensor in module.state_dict().items()},
            units=sum(units.values()),
            noises=sums.noises,
        )
        shapes = {n: tuple(p.shape) for n, p in module.named_parameters() if p.requires_grad}
        joined = dict.fromkeys(sorted(units), 0)
        with (job.folder / "rounds.jsonl").open("w") as log:
            for number in range(plan.rounds):
                got = sums(Question(purpose=TRAINING, shapes=shapes, weights=learner.weights))
                for node in got.nodes:
                    joined[node] += 1
                batch = plan.sampling_rate * sum(units[node] for node in got.nodes)
                batch *= plan.steps_per_round
                gradient = {name: array / max(batch, 1.0) for name, array in got.arrays.items()}
                learner.hear(gradient)
                self._check_weights(module, learner.weights, number + 1)
                spent = self._spent(plan, number + 1, sums.asked)
                auprc = self.observer.stepped(number + 1, plan, spent, learner.result())
                line = {
                    "round": number + 1,
                    "epsilon_spent": spent,
                    "auprc": auprc,
                    "sites": len(got.nodes),
                    "seconds": round(time.monotonic() - self.started, 3),
                }
                log.write(json.dumps(line) + "\n")
                log.flush()
        return Outcome(weights=learner.result(), joined=joined, steps=learner.steps)

    @staticmethod
    def _check_weights(module: Any, weights: Weights, rounds: int) -> None:
        """Stop where the sites would refuse to go on.

        Raises
        ------
        FederationError
            If the weights are not finite, or too large for exact clipping.
        """
        try:
            load_weights(module, weights)
        except ValueError as error:
            raise FederationError(
                f"after round {rounds}: {error}: the learning rate is too large, or a site sent "
                "absurd sums; charges are kept"
            ) from None

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

    def _evaluate(self, plan: Plan, sums: Summing, weights: Weights) -> dict[str, Any] | None:
        """Return charged estimates; None where none are planned or too few sites answered."""
        if not plan.evaluation_noise:
            return None

        def histogram(purpose: str, cells: int, **more: Any) -> Sum:
            shapes = {HISTOGRAM: (cells,)}
            return sums(Question(purpose=purpose, shapes=shapes, weights=weights, more=more))

        try:
            return evaluate(plan, histogram, capacity=self.job.capacity)
        except FederationError as error:
            # The model stands, and what was charged stays charged.
            LOG.error("no estimates: %s", error)
            return None

    def _save_model(self, weights: Weights) -> None:
        job = self.job
        arrays: dict[str, NDArray[Any]] = {k: np.ascontiguousarray(v) for k, v in weights.items()}
        safetensors.numpy.save_file(arrays, job.folder / "model.safetensors")
        about = {
            "schema_version": SCHEMA_VERSION,
            "model": job.model,
            "options": dict(job.model_options),
            "schema": dict(job.schema),
            "seed": job.seed,
        }
        (job.folder / "model.json").write_text(json.dumps(about, indent=2) + "\n")


def execute(grid: Grid, job: Job, observer: Observer | None = None) -> dict[str, Any]:
    """Run a job over a grid and return `run.json`; see `Run.execute`."""
    return Run(grid, job, observer or Silent()).execute()
