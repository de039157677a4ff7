"""Scratch sites behind the real apps: runs through the ServerApp, and questions of a liar."""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from flwr.app import ArrayRecord, Context, Message, RecordDict
from numpy.typing import NDArray

from clients.app import make_app as make_client
from dp_risk import wire
from dp_risk.cli.audit.spies import Spy
from dp_risk.cli.audit.views import Opponent, View
from dp_risk.cli.settings import Settings
from dp_risk.data.coding import Coding
from dp_risk.data.groups import group_names
from dp_risk.privacy.plan import Plan
from dp_risk.privacy.release import Release
from dp_risk.privacy.schedule import TRAINING
from dp_risk.types import FederationError, Trust
from server.app import make_app as make_server
from server.evaluation import HISTOGRAM
from server.exchange import ask
from server.grids import InProcessGrid
from server.job import Job

# Whatever is computed from it, a weight does not move by a bit that counts.
FROZEN = 1e-300
# What a refusal may say.
REFUSAL = {"refusal.refused": True}
_TIMEOUT = 60.0
Arrays = Mapping[str, NDArray[Any]]


class Bench:
    """Sites under watch, and everything that left them.

    Parameters
    ----------
    settings : Settings
        Configuration of the runs.
    folders : sequence of Path
        Site folders.
    amnesia : bool
        Forget every site between two messages.
    transcript : bool
        Keep every reply in full; without it releases alone are kept.

    Attributes
    ----------
    spy : Spy
        What was read.
    releases : list of (str, Release)
        Releases in order, with the name of the site's folder.
    opponent : Opponent
        What all of that amounts to for who may be against a site.
    messages : list of dict
        Every reply as fields, where a transcript is kept.
    refusals : list of dict
        Every refusal as fields; an error that a site let out is one that says too much.
    plan : Plan or None
        Plan of the last run.
    stopped : bool
        Whether a run ended early because a site did not answer.
    """

    def __init__(
        self, settings: Settings, folders: Sequence[Path], *, transcript: bool = False
    ) -> None:
        self.settings = settings
        self.spy = Spy()
        self.releases: list[tuple[str, Release]] = []
        self.messages: list[dict[str, Any]] = []
        self.refusals: list[dict[str, Any]] = []
        self.plan: Plan | None = None
        self.stopped = False
        self._transcript = transcript
        self._folders = {number + 2: folder for number, folder in enumerate(folders)}
        schema = settings.data.load_schema()
        self._coding = Coding(schema=schema)
        self.opponent = Opponent({folder.name: folder for folder in folders}, schema)
        app = make_client(remember=not settings.in_process.amnesia, open_site=self.spy.open)
        sites = {node: str(folder.resolve()) for node, folder in self._folders.items()}
        self.grid = InProcessGrid(app, sites, self._hear)

    @property
    def nodes(self) -> list[int]:
        """Flower node ids of the sites, in the order of their folders."""
        return list(self._folders)

    def folder(self, node: int) -> Path:
        """Return the folder of a site."""
        return self._folders[node]

    def _hear(self, request: Message, reply: Message) -> None:
        name = self._folders[request.metadata.dst_node_id].name
        if self._transcript:
            self.messages.append(self._fields(request, reply))
        if not reply.has_content() or wire.is_refusal(reply.content):
            said = self._fields(request, reply)
            self.refusals.append({key: said[key] for key in said if key != "answers"})
        elif wire.RECEIPT in reply.content:
            release = wire.read_release(reply.content)
            self.releases.append((name, release))
            self.opponent.hear(self.plan, name, wire.read_request(request), release)

    def _fields(self, request: Message, reply: Message) -> dict[str, Any]:
        return fields(request, reply, self._coding)

    def run(
        self, folder: Path, *, start: Arrays | None = None, frozen: bool = False, **privacy: Any
    ) -> dict[str, Any]:
        """Do one federated run; return `run.json`.

        Where a transcript is kept, a run that a site's silence ended is one too: nothing is
        returned then.

        Parameters
        ----------
        folder : Path
            A new folder of the run.
        start : mapping of str to ndarray, optional
            Weights to start from.
        frozen : bool
            Keep the weights where they are.
        **privacy
            Fields of the privacy settings to change.
        """
        folder.mkdir(parents=True)
        settings, federation = self.settings, self.settings.federation
        if frozen:
            federation = dataclasses.replace(federation, learning_rate=FROZEN)
        if start is not None:
            safetensors.numpy.save_file(dict(start), folder / "start.safetensors")
        job = Job(
            run=f"audit-{secrets.token_hex(8)}",
            folder=folder.resolve(),
            dataset=settings.data.dataset,
            schema=settings.data.load_schema().to_dict(),
            model=settings.model_name,
            model_options=settings.model_options,
            privacy=dataclasses.replace(settings.asked, **privacy),
            federation=dataclasses.replace(federation, sites=len(self._folders)),
            seed=settings.seed,
            capacity=settings.evaluation.capacity,
            subgroups=tuple(settings.evaluation.subgroups),
            memory=None,
            start=None if start is None else (folder / "start.safetensors").resolve(),
        )
        context = Context(
            run_id=1, node_id=1, node_config={}, state=RecordDict(),
            run_config={"job": job.to_json()},
        )  # fmt: skip
        try:
            with self.spy.listening():
                make_server(self)(self.grid, context)
        except FederationError:
            if not self._transcript:
                raise
            self.stopped = True
            return {}
        record: dict[str, Any] = json.loads((folder / "run.json").read_text())
        return record

    def planned(self, plan: Plan) -> None:
        """Keep the plan."""
        self.plan = plan

    def stepped(self, *_: object) -> float | None:
        """Do nothing."""
        return None

    def ask(
        self, node: int, kind: str, values: Mapping[str, Any], weights: Arrays | None = None
    ) -> RecordDict:
        """Ask one site anything; return the content of its reply, empty for an error."""
        answers = ask(self.grid, [node], kind, values, weights, _TIMEOUT)
        return answers.get(node, RecordDict())

    def statement(self, node: int) -> dict[str, Any]:
        """Return what a site says of itself."""
        return wire.read_statement(self.ask(node, "query.status", {}))

    def participants(self) -> dict[str, str]:
        """Return the name and the public key of every site."""
        said = [self.statement(node) for node in self.nodes]
        return {one["site"]: one["key"] for one in said}

    def enrol(self, node: int, plan: Plan) -> RecordDict:
        """Enrol a plan at one site."""
        return self.ask(node, "query.enrol", {"plan": plan.to_dict(), "run": plan.run})

    def begin(self, plan: Plan) -> bool:
        """Enrol a plan everywhere and let the sites meet; return whether all of them accept."""
        self.plan = plan
        replies = [self.enrol(node, plan) for node in self.nodes]
        if not all(wire.STATEMENT in reply for reply in replies):
            return False
        if plan.trust != Trust.DISTRIBUTED:
            return True
        said = [wire.read_statement(reply)["enrolment"] for reply in replies]
        values = {"plan": plan.digest, "run": plan.run, "enrolments": said}
        met = [self.ask(node, "query.meet", values) for node in self.nodes]
        return all(wire.STATEMENT in reply for reply in met)

    def end(self, run: str) -> None:
        """Close a run everywhere."""
        for node in self.nodes:
            self.ask(node, "query.close", {"run": run})

    def release(
        self, node: int, plan: Plan, purpose: str, round: int, weights: Arrays | None, **more: Any
    ) -> RecordDict:
        """Ask one site for a release."""
        kind = "train" if purpose == TRAINING else f"query.{purpose}"
        if plan.trust == Trust.DISTRIBUTED:
            more = {"participants": sorted(plan.participants), **more}
        values = {"plan": plan.digest, "round": round, **more}
        return self.ask(node, kind, values, weights)

    def view(
        self, plan: Plan, purpose: str, round: int, weights: Arrays | None, **more: Any
    ) -> Arrays | None:
        """Ask for one round; return what the opponent sees of the first site, or of the sum.

        None where a site that is needed does not answer.
        """
        before = len(self.opponent.views)
        nodes = self.nodes if plan.trust == Trust.DISTRIBUTED else self.nodes[:1]
        for node in nodes:
            self.release(node, plan, purpose, round, weights, **more)
        seen = self.opponent.views[before:]
        return seen[0].arrays if seen else None


def fields(request: Message, reply: Message, coding: Coding) -> dict[str, Any]:
    """Return everything that a reply says, and which question it answers."""
    out: dict[str, Any] = {"answers": request.metadata.message_type}
    if not reply.has_content():
        return {**out, "error": True}
    for name, record in reply.content.items():
        for key, value in record.items():
            if isinstance(record, ArrayRecord):
                array = value.numpy()
                # How many bins there are is the server's choice, from what was released before.
                asked = wire.read_request(request).values
                edges, column = asked.get("edges"), asked.get("column")
                if edges is not None and key == HISTOGRAM:
                    groups = 1 if column is None else len(group_names(coding, column))
                    out[f"{name}.{key}.unasked"] = array.size - groups * 2 * (len(edges) + 1)
                    array = array[:1]
                else:
                    out[f"{name}.{key}.bytes"] = len(value.data)
                out[f"{name}.{key}"] = array
            elif key == "json":
                out[name] = json.loads(str(value))
            else:
                out[f"{name}.{key}"] = value
    return out


def stacked(views: Sequence[View], purpose: str, name: str) -> NDArray[np.float64]:
    """Return one array of all views of a purpose, shape (sources, rounds, ...)."""
    found: dict[str, list[NDArray[np.float64]]] = {}
    for view in views:
        if view.purpose == purpose:
            found.setdefault(view.source, []).append(view.arrays[name])
    return np.array([found[source] for source in sorted(found)])
