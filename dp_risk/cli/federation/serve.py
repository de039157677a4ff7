"""`dp-risk federation serve`: the server of a federation, one process and a child for each run."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import fcntl
import json
import logging
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import uvicorn

from dp_risk.cli.federation.execute import BUDGETS
from dp_risk.cli.federation.supervisor import Order, Supervisor
from dp_risk.cli.lines import Lines
from dp_risk.federation.bundle import official_bundle
from dp_risk.federation.house import ROSTER, House
from dp_risk.types import ConfigurationError
from server.connections import Connection, Door, more_files
from server.desk import Desk
from server.guard import Guard, Inside, Outside
from server.link import Link, silence
from server.queue import Queue

_LOOPBACK = "127.0.0.1"
_LOG = "child.log"
_LOOK_SECONDS = 1.0
_GRACE_SECONDS = 5
_MOST_HEAD_BYTES = 16 * 1024
# Longer than clients keep a connection that they do not use: they close it, not the server.
_KEEP_ALIVE_SECONDS = 65


def serve(folder: Path, *, insecure: bool, as_json: bool, verbose: bool) -> None:
    """Serve a federation until SIGTERM or SIGINT.

    Parameters
    ----------
    folder : Path
        The federation's folder.
    insecure : bool
        Whether the operator has said that there is to be no TLS.
    as_json : bool
        Whether events are written as JSON.
    verbose : bool
        Whether Flower and uvicorn write their own logs too.

    Raises
    ------
    ConfigurationError
        If the folder is none of a federation, is served already, or the port is taken.
    """
    house = House.open(folder)
    tell = Lines(as_json=as_json)
    if house.insecure != insecure:
        raise ConfigurationError(
            f"{folder}: this federation has no certificates: say --insecure to serve it without"
            if house.insecure
            else f"--insecure: {folder} has certificates; leave the flag out"
        )
    if insecure:
        tell(
            "INSECURE",
            level="warning",
            what="no TLS: anybody on the way reads and changes messages; never for real data",
        )
    _quieten(verbose=verbose)
    more_files()
    with _held(folder):
        if house.renew(datetime.datetime.now(datetime.UTC)):
            tell("certificate renewed", file=str(house.certificate))
        asyncio.run(_Service(house, tell).run())
    tell("ended")


class Following:
    """The roster as its file says now, and the nodes that follow it.

    Parameters
    ----------
    house : House
        Whose roster.
    link : Link
        Flower's side.
    tell : callable
        Told who came and who went.
    """

    def __init__(self, house: House, link: Link, tell: Lines) -> None:
        self._house = house
        self._link = link
        self._tell = tell
        self._stamp: tuple[int, ...] | None = None
        self._keys: frozenset[bytes] = frozenset()

    def keys(self) -> frozenset[bytes]:
        """Return the public keys of the nodes of the roster."""
        path = self._house.folder / ROSTER
        try:
            found = path.stat()
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
            if stamp != self._stamp:
                nodes = self._house.roster.node_keys
                self._stamp = stamp
                self._follow(nodes)
        except (OSError, ConfigurationError) as error:
            # Who was let in stays so; a half-written file is no reason to shut all out.
            self._tell.rarely("roster unreadable", reason=str(error))
        return self._keys

    def _follow(self, nodes: dict[str, str]) -> None:
        come, gone = self._link.follow(nodes)
        self._keys = frozenset(pem.encode() for pem in nodes.values())
        for site in gone:
            self._tell("site removed", site=site)
        for site in come:
            self._tell("site admitted", site=site)


class _Server(uvicorn.Server):
    """A server that leaves signals alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Service:
    """All parts of the server, wired."""

    def __init__(self, house: House, tell: Lines) -> None:
        self._house = house
        self._tell = tell
        self._queue = Queue(house.runs, house.heads)
        self._queue.tidy()
        self._link = Link(official_bundle())
        self._following = Following(house, self._link, tell)
        self._inner = ""

    async def run(self) -> None:
        """Serve until a signal comes or a part fails."""
        house, link = self._house, self._link
        supervisor = Supervisor(self._queue, link, self._child, tell=self._tell)
        desk = Desk(
            house,
            self._queue,
            nodes=link.nodes,
            budgets=house.folder / BUDGETS,
            wake=supervisor.wake,
        )
        outside = Guard(
            Outside(link.app, desk, self._following.keys), lifespan=link.app, report=self._refused
        )
        inside = Guard(Inside(link.app), lifespan=None, report=self._refused)
        with _listen(house.listen, house.port) as door, _listen(_LOOPBACK, 0) as inner:
            self._inner = f"{_LOOPBACK}:{inner.getsockname()[1]}"
            servers = [
                (_Server(_settings(outside, house)), door),
                (_Server(_settings(inside, None)), inner),
            ]
            self._following.keys()
            self._tell("listening", address=house.address, federation=house.name)
            ports = [asyncio.create_task(server.serve([at])) for server, at in servers]
            work = [
                asyncio.create_task(supervisor.forever()),
                asyncio.create_task(self._watch()),
                asyncio.create_task(_signal()),
            ]
            done, _ = await asyncio.wait([*ports, *work], return_when=asyncio.FIRST_COMPLETED)
            # First the child, which is killed, then the ports that it speaks to.
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            for server, _ in servers:
                server.should_exit = True
            await asyncio.gather(*ports, return_exceptions=True)
            for task in done:
                task.result()

    async def _child(self, order: Order) -> _Process:
        said = {**asdict(order), "federation": str(self._house.folder), "address": self._inner}
        log = self._queue.folder / order.run / _LOG
        with log.open("ab") as errors:
            # -P: a stray server.py in the working folder is not ours.
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "dp_risk.cli.federation.execute",
                stdin=subprocess.PIPE, stdout=errors, stderr=errors, start_new_session=True,
            )  # fmt: skip
        child = _Process(process)
        child.order(said)
        return child

    async def _watch(self) -> None:
        """Follow the roster, and say who comes online and who goes."""
        online: set[str] = set()
        while True:
            self._following.keys()
            now = {node.site for node in self._link.nodes() if node.online}
            for site in sorted(now - online):
                self._tell("site online", site=site)
            for site in sorted(online - now):
                self._tell("site offline", site=site)
            online = now
            await asyncio.sleep(_LOOK_SECONDS)

    def _refused(self, peer: str, why: str) -> None:
        self._tell.rarely("request refused", peer=peer, reason=why)


class _Process:
    """A child; its standard input stays open as long as this process lives."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    def order(self, said: dict[str, Any]) -> None:
        """Say what it is to do."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(said).encode() + b"\n")

    async def wait(self) -> int:
        """Return the exit code."""
        return await self._process.wait()

    def kill(self) -> None:
        """End it at once, if it lives."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()


def _settings(app: Guard, house: House | None) -> uvicorn.Config:
    """Return the settings of a port; one without a house speaks plain HTTP."""
    secure = house is not None and not house.insecure
    return uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        loop="asyncio",
        lifespan="on" if house is not None else "off",
        log_config=None,
        access_log=logging.getLogger("uvicorn").level <= logging.INFO,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        h11_max_incomplete_event_size=_MOST_HEAD_BYTES,
        ssl_certfile=str(house.certificate) if house is not None and secure else None,
        ssl_keyfile=str(house.certificate_key) if house is not None and secure else None,
    )


@contextlib.contextmanager
def _listen(host: str, port: int) -> Iterator[socket.socket]:
    """Yield a socket that is bound.

    Raises
    ------
    ConfigurationError
        If the address is taken, or not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with Door(family) as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind((host, port))
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or "no address of this machine"
            raise ConfigurationError(f"cannot listen on {host} port {port}: {why}") from None
        yield door


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold a federation's folder; the lock goes with the process.

    Raises
    ------
    ConfigurationError
        If it is served already.
    """
    with (folder / ".serving").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigurationError(f"{folder}: is served already") from None
        yield


async def _signal() -> None:
    """Return when this process is asked to end."""
    loop, asked = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    await asked.wait()


def _quieten(*, verbose: bool) -> None:
    silence(verbose=verbose)
    for name in ("uvicorn", "uvicorn.access", "uvicorn.error", "asyncio"):
        logging.getLogger(name).setLevel(logging.INFO if verbose else logging.CRITICAL)
