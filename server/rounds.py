"""One federated run over a Grid: plan, enrol, count, step, close."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import safetensors.numpy
from flwr.serverapp import Grid
from numpy.typing import NDArray

from dp_risk import models
from dp_risk.data.coding import Coding
from dp_risk.data.schema import Schema
from dp_risk.models.stepping import Stepper
from dp_risk.privacy.dpsgd import dimension, load_weights
from dp_risk.privacy.plan import COUNTS, TRAINING, Plan, costs
from dp_risk.privacy.planning import Noise, check_delta, choose_learning_rate, choose_noise
from dp_risk.privacy.release import Release
from dp_risk.types import ConfigurationError, FederationError, Refused, Trust, Unit
from server import record
from server.aggregation import Shapes, Weights, fits, total
from server.budget import SiteView, check_together, refusal_line
from server.evaluation import evaluate
from server.exchange import ask, releases, statements, wait_for_nodes
from server.heads import Heads
from server.job import Job

SCHEMA_VERSION = 1
_REPORTS = 10
_NAMED = 5
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
    lost: int


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
        self.heads = Heads(job.memory)
        self.keys: dict[int, str] = {}
        self.names: dict[int, str] = {}
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
        plan, noise = self._plan(views)
        self.observer.planned(plan)
        self.keys = {view.node: view.key for view in views}
        self.names = {view.node: view.site for view in views}
        closed: list[SiteView] = []
        self._enrol(plan, views)
        try:
            units = self._units(plan, views)
            rate = settings.learning_rate or choose_learning_rate(
                noise,
                clip_norm=plan.clip_norm,
                sites=len(views),
                units=sum(units.values()),
                dimension=plan.dimension,
            )
            outcome = self._rounds(plan, units, rate)
            self._save_model(outcome.weights)
            estimates = self._evaluate(plan, views, outcome.weights)
        finally:
            closed = self._views([v.node for v in views], "query.close", {"run": plan.run})
            self._remember(closed)
        run = record.build(
            plan=plan,
            views=views,
            closed={view.node: view for view in closed},
            units=units,
            learning_rate=rate,
            joined=outcome.joined,
            lost=outcome.lost,
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

    def _plan(self, views: list[SiteView]) -> tuple[Plan, Noise]:
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
        noise = choose_noise(
            privacy,
            units=units,
            rounds=settings.rounds,
            steps_per_round=settings.steps_per_round,
            stable_ids=stable_ids,
            holdout=all(said["holdout"] > 0 for said in stated),
        )
        module = models.build(job.model, job.model_options, self.coding, job.seed)
        local_rate = 0.0
        if settings.steps_per_round > 1:
            # Public facts only: an average site's expected batch.
            batch = noise.sampling_rate * (units or 1000 * settings.sites) / settings.sites
            local_rate = (settings.learning_rate or 0.1) / max(batch, 1.0)
        plan = Plan(
            run=job.run,
            dataset=job.dataset,
            schema=self.coding.schema.digest,
            model=job.model,
            model_options=dict(job.model_options),
            dimension=dimension(module),
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
            local_rate=local_rate,
            counts_noise=noise.counts_noise,
            score_bins_noise=noise.score_bins_noise,
            evaluation_noise=noise.evaluation_noise,
            stable_ids=stable_ids,
            max_records_per_account=(
                privacy.max_records_per_account if privacy.unit == Unit.ACCOUNT else 1
            ),
            max_sites_per_unit=privacy.max_sites_per_unit,
            min_sites=settings.min_sites or settings.sites,
            max_colluding=None,
            participants={view.site: view.key for view in views},
            seed=job.seed,
        )
        return plan, noise

    def _enrol(self, plan: Plan, views: list[SiteView]) -> None:
        nodes = [view.node for view in views]
        values = {"plan": plan.to_dict(), "run": plan.run}
        enrolled = self._views(nodes, "query.enrol", values)
        self._remember(enrolled)
        joined = {view.node for view in enrolled}
        refused = [view for view in views if view.node not in joined]
        if refused:
            self._remember(self._views(sorted(joined), "query.close", {"run": plan.run}))
            raise Refused(refusal_line(refused, plan))

    def _ask_releases(
        self,
        plan: Plan,
        kind: str,
        purpose: str,
        round: int,
        nodes: list[int],
        at: Weights | None,
        shapes: Shapes,
        **more: Any,
    ) -> dict[int, Release]:
        values = {"plan": plan.digest, "round": round, **more}
        weights = None if at is None else {k: np.asarray(v) for k, v in at.items()}
        answers = ask(self.grid, nodes, kind, values, weights, self.job.federation.timeout)
        found = releases(answers, self.keys, run=plan.run, purpose=purpose, round=round)
        good = {node: release for node, release in found.items() if fits(release.arrays, shapes)}
        fewest = self.job.federation.min_sites or self.job.federation.sites
        if len(good) < fewest:
            silent = sorted(name for node, name in self.names.items() if node not in good)
            shown = ", ".join(silent[:_NAMED]) + (" and more" if len(silent) > _NAMED else "")
            raise FederationError(
                f"{len(good)} of {len(nodes)} sites answered {purpose} round {round + 1}, "
                f"{fewest} are needed; nothing that fits came from {shown}; charges are kept"
            )
        return good

    def _units(self, plan: Plan, views: list[SiteView]) -> dict[int, float]:
        """Return each site's declared or released number of units."""
        if not plan.counts_noise:
            return {view.node: float(view.units or 0) for view in views}
        nodes = [view.node for view in views]
        counts = self._ask_releases(plan, "query.counts", COUNTS, 0, nodes, None, {"units": (1,)})
        units = {node: max(1.0, float(r.arrays["units"][0])) for node, r in counts.items()}
        check_delta(plan.delta, round(sum(units.values())), where="released")
        return units

    def _rounds(self, plan: Plan, units: Mapping[int, float], rate: float) -> Outcome:
        job, settings = self.job, self.job.federation
        module = models.build(job.model, job.model_options, self.coding, job.seed)
        if job.start is not None:
            load_weights(module, safetensors.numpy.load_file(job.start))
        start = {name: tensor.numpy().copy() for name, tensor in module.state_dict().items()}
        stepper = Stepper(
            learning_rate=rate, momentum=settings.momentum, averaging=settings.averaging
        )
        shapes = {n: tuple(p.shape) for n, p in module.named_parameters() if p.requires_grad}
        at, nodes, lost = stepper.start(start), sorted(units), 0
        joined = dict.fromkeys(nodes, 0)
        with (job.folder / "rounds.jsonl").open("w") as log:
            for number in range(plan.rounds):
                got = self._ask_releases(plan, "train", TRAINING, number, nodes, at.weights, shapes)
                for node in got:
                    joined[node] += 1
                lost += len(nodes) - len(got)
                batch = plan.sampling_rate * sum(units[node] for node in got)
                batch *= plan.steps_per_round
                summed = total([got[node].arrays for node in sorted(got)])
                gradient = {name: array / max(batch, 1.0) for name, array in summed.items()}
                at = stepper.step(at, gradient)
                self._check_weights(module, at.weights, number + 1)
                spent = self._spent(plan, number + 1)
                auprc = self.observer.stepped(number + 1, plan, spent, stepper.result(at))
                line = {
                    "round": number + 1,
                    "epsilon_spent": spent,
                    "auprc": auprc,
                    "sites": len(got),
                    "seconds": round(time.monotonic() - self.started, 3),
                }
                log.write(json.dumps(line) + "\n")
                log.flush()
        return Outcome(weights=stepper.result(at), joined=joined, lost=lost)

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

    def _spent(self, plan: Plan, done: int) -> float | None:
        """Return the run cost of the rounds so far; now and then, because it takes time."""
        every = max(1, plan.rounds // _REPORTS)
        if not plan.private or (done % every and done != plan.rounds):
            return None
        lines = [
            replace(line, rounds=done) if line.name == TRAINING else line
            for line in plan.schedule
            if line.name in (TRAINING, COUNTS)
        ]
        return max(costs(lines, plan.delta).values())

    def _evaluate(
        self, plan: Plan, views: list[SiteView], weights: Weights
    ) -> dict[str, Any] | None:
        """Return charged estimates; None where none are planned or too few sites answered."""
        if not plan.evaluation_noise:
            return None
        nodes = [view.node for view in views]

        def histograms(purpose: str, cells: int, **more: Any) -> list[Weights]:
            got = self._ask_releases(
                plan, f"query.{purpose}", purpose, 0, nodes, weights, {"histogram": (cells,)},
                **more,
            )  # fmt: skip
            return [got[node].arrays for node in sorted(got)]

        try:
            return evaluate(plan, histograms, capacity=self.job.capacity)
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
