"""Tiny federations on disk, and a server that says whatever it likes to a site."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Context, Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.supercore.task_identity import TaskIdentity

from clients.app import make_app
from clients.policy import Policy
from clients.signing import KEY as SIGNING
from clients.site import Site
from dp_risk import models, wire
from dp_risk.data.coding import Coding
from dp_risk.data.schema import Schema
from dp_risk.privacy import keys
from dp_risk.privacy.accounting import Event, calibrate
from dp_risk.privacy.dpsgd import dimension
from dp_risk.privacy.plan import Plan

# Flower makes messages only for a task it knows.
TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
DELTA = 1e-5
SCHEMA = {
    "name": "tiny",
    "label": {"column": "risk", "positive": ["yes"], "negative": ["no"]},
    "features": {
        "age": {"type": "numeric", "low": 0, "high": 100, "bins": 4},
        "amount": {"type": "numeric", "low": 0, "high": 1000, "scale": "log", "bins": 0},
        "kind": {"type": "categorical", "values": ["a", "b", "c"]},
    },
}


def signing_key(site: str) -> bytes:
    """Return the private key of a tiny site: always the same one."""
    return hashlib.sha256(site.encode()).digest()


def public_key(site: str) -> str:
    """Return the public half of a tiny site's key, in hexadecimal."""
    return keys.public_hex(Ed25519PrivateKey.from_private_bytes(signing_key(site)))


KEY = public_key("site-00")


def roster(count: int) -> dict[str, str]:
    """Return the names and public keys of so many tiny sites."""
    return {f"site-{number:02d}": public_key(f"site-{number:02d}") for number in range(count)}


def together(count: int, **changes: Any) -> dict[str, Any]:
    """Return what a policy says that lets so many sites add the noise together."""
    trusts = ("local", "distributed", *(("none",) if changes.get("public") else ()))
    return {"trusts": trusts, "roster": roster(count), "max_colluding": 1, **changes}


def rows(count: int = 300, seed: int = 5) -> pa.Table:
    """Return synthetic rows whose label depends on all features."""
    rng = np.random.default_rng(seed)
    age, amount = rng.uniform(0, 100, count), rng.exponential(100, count)
    kind = rng.integers(0, 3, count)
    risk = rng.random(count) < 1 / (1 + np.exp(2 - age / 50 - kind - amount / 500))
    return pa.table(
        {
            "age": age,
            "amount": amount,
            "kind": pa.array(np.array(["a", "b", "c"])[kind]),
            "risk": pa.array(np.where(risk, "yes", "no")),
        }
    )


def policy(**changes: Any) -> Policy:
    """Return a private policy; `public=True` alone makes a public one."""
    public = bool(changes.get("public", False))
    values: dict[str, Any] = {
        "site": "site-00",
        "dataset": "tiny",
        "unit": "record",
        "adjacency": "add-remove",
        "stable_ids": True,
        "delta": DELTA,
        "lifetime_epsilon": 10.0,
        "run_epsilon": 8.0,
        "min_noise_multiplier": 0.3,
        "max_clip_norm": 10.0,
        "max_records_per_account": 1,
        "purposes": ("counts", "training", "score_bins", "evaluation", "subgroups"),
        "models": ("additive", "mlp"),
        "trusts": ("local", "none") if public else ("local",),
        "randomness": ("system", "seeded") if public else ("system",),
        "public": public,
        "units": None,
        "min_sites": 1,
        "max_colluding": 0,
        "max_sites_per_unit": 1,
        "roster": {},
        "bundles": (),
    }
    return Policy(**{**values, **changes})


def make_site(folder: Path, table: pa.Table, rules: Policy) -> Path:
    """Write a site's folder; the split key is the same at every site."""
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "rows.parquet")
    (folder / SIGNING).write_text(signing_key(rules.site).hex())
    Site.create(
        folder,
        policy=rules,
        data="rows.parquet",
        schema=Schema.from_dict(SCHEMA),
        holdout=0.2,
        split_key=bytes([7] * 32),
    )
    return folder


def coding() -> Coding:
    """Return the coding of every tiny site."""
    return Coding(schema=Schema.from_dict(SCHEMA))


def plan(**changes: Any) -> Plan:
    """Return a plan that the private policy allows, with these fields changed."""
    values: dict[str, Any] = {
        "run": "run-1",
        "dataset": "tiny",
        "schema": coding().schema.digest,
        "model": "additive",
        "model_options": {"linear": True, "value_scale": 1.0},
        "dimension": 0,
        "trust": "local",
        "unit": "record",
        "randomness": "system",
        "delta": DELTA,
        "epsilon": 2.0,
        "clip_norm": 1.0,
        "noise_multiplier": 0.0,
        "sampling_rate": 1.0,
        "rounds": 3,
        "steps_per_round": 1,
        "spares": 0,
        "local_rate": 0.0,
        "counts_noise": 20.0,
        "score_bins_noise": 10.0,
        "evaluation_noise": 5.0,
        "stable_ids": True,
        "max_records_per_account": 1,
        "max_sites_per_unit": 1,
        "min_sites": 1,
        "max_colluding": None,
        "participants": {"site-00": KEY},
        "seed": 0,
    }
    values["dimension"] = dimension(module(values["model"], values["model_options"]))
    values["noise_multiplier"] = calibrate(
        2.0, DELTA, sampling_rate=1.0, count=3, others=(Event(noise_multiplier=20.0),)
    )
    return Plan(**{**values, **changes})


def public_plan(**changes: Any) -> Plan:
    """Return a plan without noise, for public sites only."""
    none = {"trust": "none", "noise_multiplier": 0.0, "epsilon": None, "counts_noise": 0.0}
    none |= {"score_bins_noise": 0.0, "evaluation_noise": 0.0}
    return plan(**{**none, **changes})


def module(name: str = "additive", options: Mapping[str, Any] | None = None) -> Any:
    """Return a fresh model."""
    return models.build(name, options or {}, coding(), 0)


def weights(value: float = 0.0) -> dict[str, Any]:
    """Return weights of the additive model, all of one value."""
    return {name: np.full(t.shape, value) for name, t in module().state_dict().items()}


class Server:
    """Speaks to one site as a server does, byte for byte over the wire."""

    def __init__(self, folder: Path, *, remember: bool = False, app: Any = None) -> None:
        self.folder = folder
        self._app = app or make_app(remember=remember)
        self._context = Context(
            run_id=1, node_id=2, node_config={"site": str(folder)}, state=RecordDict(),
            run_config={},
        )  # fmt: skip

    def send(self, kind: str, content: RecordDict) -> Message:
        """Send a message; return the reply as it arrives."""
        message = Message(content, 2, kind)
        message.metadata.__dict__["_message_id"] = "message"
        arrived = message_from_proto(message_to_proto(message))
        return message_from_proto(message_to_proto(self._app(arrived, self._context)))

    def ask(
        self, kind: str, values: Mapping[str, Any], at: Mapping[str, Any] | None = None
    ) -> RecordDict:
        """Ask; return the content of the reply."""
        return self.send(kind, wire.request_record(values, at)).content

    def enrol(self, plan: Plan | Mapping[str, Any]) -> RecordDict:
        """Enrol a plan, or what claims to be one."""
        values = plan.to_dict() if isinstance(plan, Plan) else dict(plan)
        return self.ask("query.enrol", {"plan": values, "run": values.get("run")})

    def train(
        self, plan: Plan, round: Any = 0, at: Mapping[str, Any] | None = None, **more: Any
    ) -> RecordDict:
        """Ask for a training round."""
        values = {"plan": plan.digest, "round": round, **more}
        return self.ask("train", values, weights() if at is None else at)

    def score_bins(
        self, plan: Plan, at: Mapping[str, Any] | None = None, **more: Any
    ) -> RecordDict:
        """Ask for the histogram of score positions."""
        values = {"plan": plan.digest, "round": 0, **more}
        return self.ask("query.score_bins", values, weights() if at is None else at)

    def evaluation(
        self, plan: Plan, edges: Any, at: Mapping[str, Any] | None = None, **more: Any
    ) -> RecordDict:
        """Ask for the histogram of scores by label."""
        values = {"plan": plan.digest, "round": 0, "edges": edges, **more}
        return self.ask("query.evaluation", values, weights() if at is None else at)

    def subgroups(
        self, plan: Plan, edges: Any, column: Any, at: Mapping[str, Any] | None = None, **more: Any
    ) -> RecordDict:
        """Ask for the histogram of scores by group and label."""
        values = {"plan": plan.digest, "round": 0, "edges": edges, "column": column, **more}
        return self.ask("query.subgroups", values, weights() if at is None else at)

    def counts(self, plan: Plan) -> RecordDict:
        """Ask for the number of units."""
        return self.ask("query.counts", {"plan": plan.digest, "round": 0})


def encoded(content: RecordDict) -> bytes:
    """Return a reply's content as the bytes that travel."""
    message = Message(content, 2, "query")
    proto = message_to_proto(message).content
    return bytes(proto.SerializeToString(deterministic=True))


REFUSAL = encoded(wire.refusal_record())


def refused(content: RecordDict) -> bool:
    """Whether a reply is the constant refusal, byte for byte."""
    return encoded(content) == REFUSAL


def history(folder: Path) -> list[tuple[str, str]]:
    """Return the kinds and hashes of a site's ledger entries."""
    site = Site.open(folder)
    found = [(entry.kind, entry.hash) for entry in site.ledger.entries()]
    site.ledger.verify()
    site.ledger.close_file()
    return found


def kinds(folder: Path) -> list[str]:
    """Return the kinds of a site's ledger entries."""
    return [kind for kind, _ in history(folder)]


def training_units(folder: Path) -> int:
    """Return the exact number of training units of a site."""
    site = Site.open(folder)
    site.ledger.close_file()
    return len(site.shard.train)


def replaced(rules: Policy, **changes: Any) -> Policy:
    """Return a policy with fields changed."""
    return dataclasses.replace(rules, **changes)
