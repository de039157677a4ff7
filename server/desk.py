"""What operators ask the server: start and stop runs, look at them, fetch what they brought.

Every request is signed by an operator's key; see `dp_risk.federation.requests`. Answers hold
releases and public facts, and never a value of a private row.
"""

from __future__ import annotations

import io
import json
import tarfile
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router

from dp_risk.data.coding import Coding
from dp_risk.data.groups import check_columns
from dp_risk.data.schema import Schema
from dp_risk.federation import requests
from dp_risk.federation.house import House
from dp_risk.types import ConfigurationError, DpRiskError, VerificationError
from server.guard import DESK, Receive, Scope, Send
from server.job import Job
from server.link import Node
from server.queue import FINISHED, RUNNING, Entry, Queue

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"


class Desk:
    """The ASGI app of the operators' requests.

    Parameters
    ----------
    house : House
        The federation.
    queue : Queue
        Its runs.
    nodes : callable
        Returns the nodes of the roster, now.
    budgets : Path
        JSON file with what every site stated last.
    wake : callable
        Called when the queue has changed.
    """

    def __init__(
        self,
        house: House,
        queue: Queue,
        *,
        nodes: Callable[[], list[Node]],
        budgets: Path,
        wake: Callable[[], None],
    ) -> None:
        self._house = house
        self._queue = queue
        self._nodes = nodes
        self._budgets = budgets
        self._wake = wake
        self._seen = requests.Nonces(time.time())
        self._router = Router(
            [
                self._route("status", "GET", self._status),
                self._route("runs", "POST", self._submit),
                self._route("runs/{run}", "GET", self._rounds),
                self._route("runs/{run}/files", "GET", self._files),
                self._route("runs/{run}/stop", "POST", self._stop),
            ]
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await self._router(scope, receive, send)

    def _route(
        self, path: str, method: str, act: Callable[[Request, str, bytes], Awaitable[Response]]
    ) -> Route:
        async def endpoint(request: Request) -> Response:
            body = await request.body()
            try:
                operator = self._operator(request, body)
                return await act(request, operator, body)
            except requests.TooEarly as error:
                return _refusal(error, 425)
            except VerificationError as error:
                return _refusal(error, 401)
            except DpRiskError as error:
                return _refusal(error, 400)

        return Route(DESK + path, endpoint, methods=[method])

    def _operator(self, request: Request, body: bytes) -> str:
        query = request.url.query
        try:
            operators = self._house.operators
        except ConfigurationError:
            # Whoever asks may be a stranger, who hears nothing of the server's files.
            raise VerificationError("the server cannot read who its operators are") from None
        return requests.verify(
            request.headers,
            operators,
            request.method,
            request.url.path + (f"?{query}" if query else ""),
            requests.body_digest(body),
            time.time(),
            self._seen,
            federation=self._house.public_key,
        )

    async def _status(self, request: Request, operator: str, body: bytes) -> Response:  # noqa: ARG002
        house = self._house
        said = {
            "schema_version": SCHEMA_VERSION,
            "federation": {"name": house.name, **house.agreed.to_dict()},
            "nodes": [asdict(node) for node in self._nodes()],
            "runs": [self._about(entry) for entry in self._queue.entries()],
            "sites": _read(self._budgets),
        }
        return JSONResponse(said)

    async def _submit(self, request: Request, operator: str, body: bytes) -> Response:  # noqa: ARG002
        try:
            asked = json.loads(body)
            run, job, config = str(asked["run"]), dict(asked["job"]), str(asked["config"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ConfigurationError("the request holds no run") from None
        entry = self._queue.submit(run, job, config, operator, check=self._check)
        self._wake()
        return JSONResponse(self._about(entry))

    def _check(self, job: Job) -> None:
        """Refuse a job that no site of this federation could accept."""
        agreed = self._house.agreed
        try:
            schema = Schema.from_dict(dict(job.schema))
        except ConfigurationError as error:
            raise ConfigurationError(f"data.schema: {error}") from None
        check_columns(Coding(schema=schema), job.subgroups)
        for key, found, wanted in (
            ("data", job.dataset, agreed.dataset),
            ("data.schema", schema.digest, agreed.schema),
            ("privacy.unit", str(job.privacy.unit), agreed.unit),
            ("privacy.delta", job.privacy.delta, agreed.delta),
        ):
            if found != wanted:
                raise ConfigurationError(f"{key}: {found}; this federation agreed on {wanted}")
        sites = len(self._house.roster.members)
        if job.federation.sites > sites:
            raise ConfigurationError(
                f"federation.sites: {job.federation.sites}; the roster has {sites}"
            )

    async def _rounds(self, request: Request, operator: str, body: bytes) -> Response:  # noqa: ARG002
        entry = self._queue.entry(request.path_params["run"])
        offset = request.query_params.get("offset", "0")
        if not offset.isascii() or not offset.isdigit() or len(offset) > 15:
            raise ConfigurationError("offset: not a number of bytes")
        lines, after = self._queue.rounds(entry.run, int(offset))
        return JSONResponse({**self._about(entry), "lines": lines, "offset": after})

    async def _files(self, request: Request, operator: str, body: bytes) -> Response:  # noqa: ARG002
        entry = self._queue.entry(request.path_params["run"])
        if entry.state != FINISHED:
            raise ConfigurationError(f"run: {entry.run} is {entry.state}, it has no files yet")
        content = await run_in_threadpool(_tar, self._queue.run_folder(entry.run))
        return Response(content, media_type="application/x-tar")

    async def _stop(self, request: Request, operator: str, body: bytes) -> Response:  # noqa: ARG002
        entry = self._queue.stop(request.path_params["run"])
        self._wake()
        return JSONResponse(self._about(entry))

    def _about(self, entry: Entry) -> dict[str, Any]:
        progress = self._queue.progress(entry.run) if entry.over or entry.state == RUNNING else {}
        named = {name: progress.get(name) for name in ("round", "rounds", "epsilon_spent")}
        return {**asdict(entry), **named}


def _refusal(error: DpRiskError, status: int) -> Response:
    return JSONResponse({"error": str(error), "exit_code": error.exit_code}, status)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def _tar(folder: Path) -> bytes:
    """Return the files that a run's manifest names, and the manifest, as a tar archive."""
    names = [*sorted(json.loads((folder / MANIFEST).read_text())["files"]), MANIFEST]
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name in names:
            archive.add(folder / name, arcname=name)
    return made.getvalue()
