"""One site: policy, shard and ledger in one folder, and what it answers.

The folder holds `policy.yaml`, `site.yaml` (where the rows are), `split.key`, `site.key` (which
signs) and `ledger.sqlite`.
Everything that a site knows between two messages is in there.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from clients.policy import Policy
from clients.shard import Shard, TrainingUnits
from dp_risk import models
from dp_risk.data.schema import Schema
from dp_risk.privacy import keys
from dp_risk.privacy.accounting import epsilon
from dp_risk.privacy.dpsgd import DPSGD, dimension, load_weights
from dp_risk.privacy.gaussian import GaussianCount
from dp_risk.privacy.ledger import Ledger
from dp_risk.privacy.mechanism import Arrays
from dp_risk.privacy.plan import COUNTS, TRAINING, Plan
from dp_risk.privacy.randomness import Randomness
from dp_risk.privacy.release import Release
from dp_risk.types import ConfigurationError, RandomnessKind, Refused

LOG = logging.getLogger("dp_risk.site")
# The safe loader written in C where PyYAML has it: a site is opened for every message.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
POLICY, SITE, KEY, SIGNING, LEDGER, PLAN = (
    "policy.yaml",
    "site.yaml",
    "split.key",
    "site.key",
    "ledger.sqlite",
    "plan.json",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Site:
    """A data holder.

    Parameters
    ----------
    folder : Path
        The site's folder.
    policy : Policy
        Its policy.
    shard : Shard
        Its rows.
    ledger : Ledger
        Its ledger.
    """

    folder: Path
    policy: Policy
    shard: Shard
    ledger: Ledger

    @classmethod
    def open(cls, folder: Path) -> Site:
        """Open a site from its folder.

        Raises
        ------
        ConfigurationError
            If a file is missing or malformed.
        Refused
            If the policy no longer fits the ledger that was opened under it.
        """
        policy = Policy.load(folder / POLICY)
        try:
            settings = yaml.load((folder / SITE).read_text(), Loader=_LOADER)
            path = Path(settings["data"])
            shard = Shard(
                path=path if path.is_absolute() else folder / path,
                schema=Schema.from_dict(settings["schema"]),
                key=bytes.fromhex((folder / KEY).read_text().strip()),
                holdout=float(settings["holdout"]),
                cache=folder / "coded",
            )
        except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(f"{folder}: not a site: {error!r}") from None
        key = keys.load_or_create(folder / SIGNING)
        ledger = Ledger.open(folder / LEDGER, policy.account, key=key)
        return cls(folder=folder, policy=policy, shard=shard, ledger=ledger)

    @cached_property
    def _plans(self) -> dict[str, Plan]:
        return {}

    def statement(self, run: str | None) -> dict[str, Any]:
        """Return what anybody may know: policy and ledger only, never a row."""
        state = self.ledger.state
        charged = self.ledger.charged(run) if run else ()
        noisy = [line.total for line in charged if line.event.noise_multiplier]
        policy = self.policy
        return {
            "site": policy.site,
            "dataset": policy.dataset,
            "schema": self.shard.schema.digest,
            "unit": policy.unit,
            "adjacency": policy.adjacency,
            "delta": policy.delta,
            "public": policy.public,
            "units": policy.units,
            "run_epsilon": policy.run_epsilon,
            "lifetime_epsilon": policy.lifetime_epsilon,
            "spent_epsilon": state.spent_epsilon,
            "left_epsilon": state.left_epsilon,
            "lifetime_used": state.used,
            "ledger_head": state.head,
            "ledger_entries": state.entries,
            "open_run": state.open_run,
            "run": {
                "id": run,
                "epsilon_spent": epsilon(noisy, policy.delta),
                "rounds": {line.name: line.rounds for line in charged},
            },
        }

    def enrol(self, plan: Plan) -> None:
        """Check a plan against the policy, price it and reserve its schedule.

        Raises
        ------
        Refused
            With every reason; it goes to the site's own log, never to the server.
        """
        reasons = list(self.policy.objections(plan))
        if plan.schema != self.shard.schema.digest:
            reasons.append("another schema")
        if not reasons and dimension(self._module(plan)) != plan.dimension:
            reasons.append("the model has another dimension")
        if reasons:
            raise Refused("; ".join(reasons))
        # The plan is on disk before the ledger knows the run: a reserved run always has its plan.
        path = self.folder / f"{plan.digest}.{PLAN}"
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(plan.to_dict()))
        os.replace(temporary, path)
        try:
            self.ledger.reserve(run=plan.run, plan_digest=plan.digest, schedule=plan.schedule)
        except Refused:
            path.unlink(missing_ok=True)
            raise
        for old in self.folder.glob(f"*.{PLAN}"):
            if old != path:
                old.unlink()

    def _plan(self, digest: str) -> Plan:
        if digest not in self._plans:
            path = self.folder / f"{digest}.{PLAN}"
            if len(digest) != 64 or not digest.isalnum() or not path.exists():
                raise Refused("the plan is not enrolled")
            self._plans[digest] = Plan.from_dict(json.loads(path.read_text()))
        plan = self._plans[digest]
        if plan.digest != digest:
            raise Refused("the stored plan does not match its digest")
        return plan

    def _module(self, plan: Plan) -> Any:
        # Not seeded: every weight comes from the server.
        return models.create(plan.model, plan.model_options).build(self.shard.coding).double()

    def _randomness(self, plan: Plan, purpose: str, round: int) -> Randomness:
        if plan.randomness == RandomnessKind.SEEDED:
            return Randomness.seeded(plan.seed, self.policy.site, purpose, round)
        return Randomness.system()

    def answer(
        self, *, plan_digest: str, purpose: str, round: int, request: str, weights: Arrays
    ) -> Release:
        """Charge one round and release its output, or return the stored one.

        Everything that can be refused is refused before a row is read.

        Raises
        ------
        Refused
            If the plan is not enrolled, the weights are not the model's, or the ledger says no.
        """
        plan = self._plan(plan_digest)
        if purpose == TRAINING:
            module = self._module(plan)
            try:
                load_weights(module, weights)
            except ValueError as error:
                raise Refused(str(error)) from None
        elif weights:
            raise Refused("weights where none belong")
        stored = self.ledger.pay(
            run=plan.run, plan_digest=plan_digest, purpose=purpose, round=round, request=request
        )
        if stored is not None:
            return stored
        randomness = self._randomness(plan, purpose, round)
        coded = self.shard.train
        if purpose == COUNTS:
            mechanism = GaussianCount(noise_multiplier=plan.counts_noise)
            arrays = mechanism(len(coded), randomness)
        else:
            steps = DPSGD(
                clip_norm=plan.clip_norm,
                noise_multiplier=plan.noise_multiplier,
                sampling_rate=plan.sampling_rate,
                steps=plan.steps_per_round,
                local_rate=plan.local_rate,
            )
            arrays = steps((module, TrainingUnits(coded)), randomness)
        return self.ledger.mint(run=plan.run, purpose=purpose, round=round, arrays=arrays)
