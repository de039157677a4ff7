"""One site: policy, shard and ledger in one folder, and what it answers.

The folder holds `policy.yaml`, `site.yaml` (where the rows are), `split.key`, `site.key` (which
signs the ledger) and `ledger.sqlite`: everything that a site knows between two messages.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from clients import signing
from clients.answers import compute
from clients.cells import Cells
from clients.noising import Alone, Asked, Noising, Together
from clients.partition import partition
from clients.policy import Policy
from clients.shard import Shard
from dp_risk import models
from dp_risk.data.groups import check_columns
from dp_risk.data.schema import Schema
from dp_risk.privacy import keys, run_statement
from dp_risk.privacy.account import Account
from dp_risk.privacy.dpsgd import dimension, load_weights
from dp_risk.privacy.ledger import Ledger
from dp_risk.privacy.mechanism import Arrays
from dp_risk.privacy.plan import Plan
from dp_risk.privacy.randomness import Randomness
from dp_risk.privacy.release import Release, digest
from dp_risk.privacy.run_statement import CLOSING
from dp_risk.privacy.schedule import COUNTS, costs
from dp_risk.privacy.shares import ShareGrid
from dp_risk.secure_sum.store import RunKeys
from dp_risk.types import ConfigurationError, DpRiskError, RandomnessKind, Refused, Trust

LOG = logging.getLogger("dp_risk.site")
# The safe loader written in C where PyYAML has it: a site is opened for every message.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
POLICY, LEDGER, SIGNING = signing.POLICY, signing.LEDGER, signing.KEY
PUBLIC_KEY = signing.PUBLIC_KEY
SITE, KEY, PLAN = "site.yaml", "split.key", "plan.json"
RUNS = "runs"


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
        Its ledger: one account a split.
    """

    folder: Path
    policy: Policy
    shard: Shard
    ledger: Ledger

    @staticmethod
    def create(
        folder: Path, *, policy: Policy, data: str, schema: Schema, holdout: float, split_key: bytes
    ) -> None:
        """Write the files of a new site into an existing folder; the ledger opens on first use.

        Parameters
        ----------
        folder : Path
            The site's folder.
        policy : Policy
            Its policy.
        data : str
            CSV or Parquet file of its rows; a relative path starts at the folder.
        schema : Schema
            The public schema.
        holdout : float
            Fraction of units held out, in [0, 1); it never changes.
        split_key : bytes
            Key of the split, 16 to 64 bytes; it never changes.
        """
        policy.save(folder / POLICY)
        about = {"data": data, "holdout": holdout, "schema": schema.to_dict()}
        (folder / SITE).write_text(yaml.safe_dump(about, sort_keys=False))
        with os.fdopen(os.open(folder / KEY, os.O_WRONLY | os.O_CREAT, 0o600), "w") as handle:
            handle.write(split_key.hex())
        signing.write_public(folder, keys.public_hex(signing.load(folder)))

    @classmethod
    def open(cls, folder: Path) -> Site:
        """Open a site from its folder.

        Raises
        ------
        ConfigurationError
            If a file is missing or malformed.
        Refused
            If the policy, or who is a unit, no longer fits the ledger that was opened under it.
        """
        policy, shard, account, key = founders(folder)
        ledger = Ledger.open(folder / LEDGER, account, key=key)
        return cls(folder=folder, policy=policy, shard=shard, ledger=ledger)

    @cached_property
    def _plans(self) -> dict[str, Plan]:
        return {}

    @cached_property
    def _noisings(self) -> dict[str, Noising]:
        return {}

    @cached_property
    def _run_keys(self) -> RunKeys:
        return RunKeys(self.folder / RUNS)

    def statement(self, run: str | None, entry: int | None = None) -> dict[str, Any]:
        """Return what anybody may know: policy and ledger only, never a row.

        Parameters
        ----------
        run : str or None
            Run whose charges are asked for.
        entry : int or None
            Ledger entry whose hash is asked for: a server that remembers an older head checks
            that it is still part of the chain.

        Returns
        -------
        dict
            Where the run is over, with its signed statement and its entries as ``"closing"``.
        """
        state = self.ledger.state
        charged = self.ledger.charged(run) if run else ()
        noisy = tuple(line for line in charged if line.event.noise_multiplier)
        policy = self.policy
        over = run_statement.make(self.ledger, site=policy.site, run=run) if run else None
        return {
            "site": policy.site,
            "key": self.ledger.public_key,
            "rekeys": [dataclasses.asdict(entry) for entry in self.ledger.rekeys()],
            "dataset": policy.dataset,
            "schema": self.shard.schema.digest,
            "unit": policy.unit,
            "adjacency": policy.adjacency,
            "stable_ids": policy.stable_ids,
            "holdout": self.shard.holdout,
            "delta": policy.delta,
            "public": policy.public,
            "units": policy.units,
            "min_sites": policy.min_sites,
            "max_sites_per_unit": policy.max_sites_per_unit,
            "max_records_per_account": policy.max_records_per_account,
            "trusts": list(policy.trusts),
            "run_epsilon": policy.run_epsilon,
            "lifetime_epsilon": state.lifetime_epsilon,
            "spent_epsilon": state.spent_epsilon,
            "left_epsilon": state.left_epsilon,
            "lifetime_used": state.used,
            "accounts": {
                split: dataclasses.asdict(balance) for split, balance in state.balances.items()
            },
            "amendments": [dataclasses.asdict(amendment) for amendment in self.ledger.amendments()],
            "retired": state.retired,
            "ledger_head": state.head,
            "ledger_signature": state.signature,
            "ledger_entries": state.entries,
            "entry": {
                "sequence": entry,
                "hash": None if entry is None else self.ledger.hash_at(entry),
            },
            "open_run": state.open_run,
            "run": {
                "id": run,
                "epsilon_spent": costs(noisy, policy.delta),
                "rounds": {line.name: line.rounds for line in charged},
            },
            "enrolment": self._enrolment(run),
            **({CLOSING: over} if over else {}),
        }

    def _enrolment(self, run: str | None) -> dict[str, str] | None:
        plan = self.ledger.enrolled(run) if run else None
        try:
            return self._noising(self._plan(plan)).enrolment() if plan else None
        except Refused:
            # A plan that is not answered any more: anybody may know.
            return None

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
        if plan.participants.get(self.policy.site) != self.ledger.public_key:
            reasons.append("the plan does not name this site and its key")
        if not reasons and dimension(self._module(plan)) != plan.dimension:
            reasons.append("the model has another dimension")
        try:
            check_columns(self.shard.coding, plan.subgroups)
        except ConfigurationError as error:
            reasons.append(str(error))
        if reasons:
            raise Refused("; ".join(reasons))
        # The plan is on disk before the ledger knows the run: a reserved run always has its plan.
        path = self.folder / f"{plan.digest}.{PLAN}"
        temporary = path.with_suffix(".tmp")
        stored = {"plan": plan.to_dict(), "policy": self._policy_digest}
        temporary.write_text(json.dumps(stored))
        os.replace(temporary, path)
        if self.ledger.enrolled(plan.run) is None:
            # Keys of a run that the ledger does not know are of a ledger that was lost: with them
            # the masks of that run would come back.
            self._run_keys.forget(plan.run)
        try:
            self.ledger.reserve(run=plan.run, plan_digest=plan.digest, schedule=plan.schedule)
        except DpRiskError:
            path.unlink(missing_ok=True)
            raise
        for old in self.folder.glob(f"*.{PLAN}"):
            if old != path:
                old.unlink()
        self._run_keys.forget_others(plan.run)

    def meet(self, plan_digest: str, statements: Any) -> None:
        """Hear who takes part in a run in which all sites add the noise together.

        Raises
        ------
        Refused
            If the plan is not enrolled, or what they say does not hold.
        """
        self._noising(self._plan(plan_digest)).meet(statements)

    def close(self, run: str) -> None:
        """End a run: the ledger's, and what is kept for its secure sums."""
        self.ledger.close(run)
        self._run_keys.forget(run)
        self._noisings.clear()

    def _noising(self, plan: Plan) -> Noising:
        if plan.digest not in self._noisings:
            made: Noising = Alone(plan=plan, ledger=self.ledger)
            if plan.trust == Trust.DISTRIBUTED:
                made = Together(
                    plan=plan,
                    ledger=self.ledger,
                    site=self.policy.site,
                    roster=self.policy.roster,
                    store=self._run_keys,
                )
            self._noisings[plan.digest] = made
        return self._noisings[plan.digest]

    def _plan(self, enrolled: str) -> Plan:
        if enrolled not in self._plans:
            path = self.folder / f"{enrolled}.{PLAN}"
            if len(enrolled) != 64 or not enrolled.isalnum() or not path.exists():
                raise Refused("the plan is not enrolled")
            try:
                stored = json.loads(path.read_text())
                plan = Plan.from_dict(stored["plan"])
            except (ValueError, TypeError, KeyError):
                raise Refused("the stored plan is damaged") from None
            if plan.digest != enrolled:
                raise Refused("the stored plan does not match its digest")
            # The owner may have changed the policy since the plan was enrolled.
            if stored.get("policy") != self._policy_digest:
                reasons = list(self.policy.objections(plan))
                if reasons:
                    raise Refused("the policy was changed: " + "; ".join(reasons))
            self._plans[enrolled] = plan
        return self._plans[enrolled]

    @property
    def _policy_digest(self) -> str:
        return digest(self.policy.to_dict())

    def _module(self, plan: Plan) -> Any:
        # Not seeded: every weight comes from the server.
        return models.create(plan.model, plan.model_options).build(self.shard.coding).double()

    def _randomness(self, plan: Plan, purpose: str, round: int) -> Randomness:
        if plan.randomness == RandomnessKind.SEEDED:
            return Randomness.seeded(plan.seed, self.policy.site, purpose, round)
        return Randomness.system()

    def answer(
        self,
        *,
        plan_digest: str,
        purpose: str,
        round: int,
        request: str,
        weights: Arrays,
        edges: Any = None,
        column: Any = None,
        participants: Any = None,
    ) -> Release:
        """Charge one round and release its output, or return the stored one.

        Everything that can be refused is refused before a row is read.

        Parameters
        ----------
        plan_digest : str
            Which enrolled plan.
        purpose, round : str, int
            Which line of its schedule.
        request : str
            Digest of everything that the request says.
        weights : mapping of str to ndarray
            Of the model; empty for a count.
        edges : list of float or None
            Public bin edges of an evaluation, in logits.
        column : str or None
            Whose groups are evaluated, of those that the plan names.
        participants : list of str or None
            Sites whose answers are added up, where all add the noise together.

        Raises
        ------
        Refused
            If the plan is not enrolled, the weights are not the model's, the edges are no bins, the
            column is not one of the plan's, or the ledger says no.
        """
        plan = self._plan(plan_digest)
        module = None
        if purpose == COUNTS:
            if weights:
                raise Refused("weights where none belong")
        else:
            module = self._module(plan)
            try:
                load_weights(module, weights)
            except ValueError as error:
                raise Refused(str(error)) from None
        cells = Cells.asked(plan, purpose, edges, column, self.shard.coding)
        asked = Asked(purpose=purpose, round=round, participants=participants, request=request)

        def output(share: ShareGrid | None) -> Arrays:
            randomness = self._randomness(plan, purpose, round)
            return compute(plan, purpose, self.shard, module, cells, randomness, share)

        return self._noising(plan).answer(asked, output)


def founders(folder: Path) -> tuple[Policy, Shard, Account, keys.Key]:
    """Read a site's files: policy, rows, and the account and key that its ledger is opened with.

    Raises
    ------
    ConfigurationError
        If a file is missing or malformed.
    """
    policy = Policy.load(folder / POLICY)
    try:
        settings = yaml.load((folder / SITE).read_text(), Loader=_LOADER)
        path = Path(settings["data"])
        shard = Shard(
            unit=policy.unit,
            path=path if path.is_absolute() else folder / path,
            schema=Schema.from_dict(settings["schema"]),
            key=bytes.fromhex((folder / KEY).read_text().strip()),
            holdout=float(settings["holdout"]),
            cache=folder / "coded",
        )
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(f"{folder}: not a site: {error!r}") from None
    key = signing.load(folder)
    account = dataclasses.replace(policy.account, partition=partition(policy, shard, key))
    return policy, shard, account, key
