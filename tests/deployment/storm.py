"""Faults on purpose: what happens to a real federation in years, in minutes.

A `Storm` kills, freezes and starts processes, cuts and slows connections, fills disks, moves
clocks, sends garbage to every port, and lets strangers try. Every fault heals by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import shutil
import signal
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from clients.fleet import Fleet, Server
from clients.node import Lost, NotAdmitted
from tests.deployment.loopback import SERVER, Loopback
from tests.deployment.processes import HOST

FAKETIME = next(
    iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), Path("/no/libfaketime.so.1")
)
_LARGE = 200 * 2**20


class Proxy:
    """A TCP proxy in front of a port, whose connections can be cut and slowed down."""

    def __init__(self, port: int, target: int) -> None:
        self.port, self._target = port, target
        self.delay, self.open = 0.0, True
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        start = asyncio.start_server(self._serve, HOST, port)
        self._server = asyncio.run_coroutine_threadsafe(start, self._loop).result()

    def cut(self) -> None:
        """Break every connection, and refuse new ones until `open` is true again."""
        self.open = False
        self._loop.call_soon_threadsafe(self._abort)

    def close(self) -> None:
        """End the proxy."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    async def _end(self) -> None:
        self._server.close()
        self._abort()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.open:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection(HOST, self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, back}
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
        self._writers -= {writer, back}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                writer.write(data)
                await writer.drain()
        with contextlib.suppress(OSError, RuntimeError):
            writer.close()


@dataclass(kw_only=True)
class Storm:
    """Faults against one federation.

    Parameters
    ----------
    federation : Loopback
        It is running.
    proxies : dict of str to Proxy
        In front of the server, one for every site.
    revoked : Path
        Private key file of a node that was admitted and revoked.
    seed : int
        Which faults, and when.
    """

    federation: Loopback
    proxies: dict[str, Proxy]
    revoked: Path
    seed: int
    injected: Counter[str] = field(default_factory=Counter)
    leaks: list[str] = field(default_factory=list)
    _healing: list[tuple[float, str, Callable[[], None]]] = field(default_factory=list)
    _hurt: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def rage(self, over: Callable[[], bool], *, seconds: float, pause: tuple[float, float]) -> None:
        """Inject faults until something is over, or for so many seconds; then heal everything."""
        kinds = [
            self.kill_server,
            self.kill_child,
            self.kill_site,
            self.freeze,
            self.cut,
            self.slow,
            self.garbage,
            self.strangers,
            self.fill_disk,
            self.move_clock,
        ]
        end, next_fault = time.monotonic() + seconds, 0.0
        while not over() and time.monotonic() < end:
            self._heal(time.monotonic())
            if time.monotonic() >= next_fault:
                self._random.choice(kinds)()
                next_fault = time.monotonic() + self._random.uniform(*pause)
            time.sleep(0.1)
        while self._healing:
            self._heal(float("inf"))

    def _later(self, seconds: float, who: str, heal: Callable[[], None]) -> None:
        self._hurt.add(who)
        self._healing.append((time.monotonic() + seconds, who, heal))

    def _heal(self, now: float) -> None:
        due = [one for one in self._healing if one[0] <= now]
        self._healing = [one for one in self._healing if one[0] > now]
        for _, who, heal in due:
            heal()
            self._hurt.discard(who)

    def _healthy_site(self) -> str | None:
        return next(iter(self._sample([s for s in self.proxies if s not in self._hurt])), None)

    def _sample(self, names: list[str]) -> list[str]:
        return self._random.sample(names, len(names))

    def kill_server(self) -> None:
        """SIGKILL to the server and the child of the run."""
        if SERVER in self._hurt:
            return
        for child in self.federation.children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self.federation.kill(SERVER)
        self.injected["server killed"] += 1
        restart = lambda: self.federation.restart(SERVER)  # noqa: E731
        self._later(self._random.uniform(0.2, 3), SERVER, restart)

    def kill_child(self) -> None:
        """SIGKILL to the process that runs the ServerApp."""
        if SERVER in self._hurt or not self.federation.children():
            return
        self.federation.kill_child()
        self.injected["ServerApp killed"] += 1

    def kill_site(self) -> None:
        """SIGKILL to a site."""
        site = self._healthy_site()
        if site is not None:
            self.federation.kill(site)
            self.injected["site killed"] += 1
            self._later(self._random.uniform(0.2, 4), site, lambda: self.federation.restart(site))

    def freeze(self) -> None:
        """SIGSTOP to a site: it is there, and slow."""
        site = self._healthy_site()
        if site is not None:
            pid = self.federation.running.process(site).pid
            os.kill(pid, signal.SIGSTOP)
            self.injected["site frozen"] += 1
            self._later(self._random.uniform(1, 8), site, lambda: os.kill(pid, signal.SIGCONT))

    def cut(self) -> None:
        """Break a site's connections and refuse new ones."""
        site = self._healthy_site()
        if site is not None:
            proxy = self.proxies[site]
            proxy.cut()
            self.injected["connections cut"] += 1
            self._later(self._random.uniform(0.2, 5), site, lambda: setattr(proxy, "open", True))

    def slow(self) -> None:
        """Delay every packet of a site."""
        site = self._healthy_site()
        if site is not None:
            proxy = self.proxies[site]
            proxy.delay = self._random.uniform(0.1, 0.6)
            self.injected["connections delayed"] += 1
            self._later(self._random.uniform(1, 6), site, lambda: setattr(proxy, "delay", 0.0))

    def fill_disk(self) -> None:
        """Let a site or the server write no file any more."""
        site = self._healthy_site() if self._random.random() < 0.7 else SERVER
        if site is None or site in self._hurt:
            return
        process = self.federation.running.process(site)
        pids = [process.pid, *(self.federation.children() if site == SERVER else [])]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        self.injected["disk full"] += 1

        def heal() -> None:
            for pid in (*pids, *(self.federation.children() if site == SERVER else [])):
                with contextlib.suppress(ProcessLookupError):
                    whole = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
                    resource.prlimit(pid, resource.RLIMIT_FSIZE, whole)

        self._later(self._random.uniform(0.5, 4), site, heal)

    def move_clock(self) -> None:
        """Start a site anew with a wrong clock, and later with the right one."""
        site = self._healthy_site()
        if site is None or not FAKETIME.exists():
            return
        self.federation.kill(site)
        offset = self._random.choice(["-3h", "-30s", "+30s", "+3h"])
        with _environment(LD_PRELOAD=str(FAKETIME), FAKETIME=offset):
            self.federation.restart(site)
        self.injected["clock moved"] += 1

        def heal() -> None:
            self.federation.kill(site)
            self.federation.restart(site)

        self._later(self._random.uniform(4, 10), site, heal)

    def garbage(self) -> None:
        """Send what is no message, or is too large, to every port that is open."""
        for port in (self.federation.house.port, *self._inner_ports()):
            for send in (_random_bytes, _endless_head, _large_body, _plain_http, _half_open):
                with contextlib.suppress(OSError, ValueError):
                    send(port, self._random)
                self.injected["garbage sent"] += 1

    def _inner_ports(self) -> list[int]:
        """Return the other ports on which the server listens."""
        if SERVER in self._hurt:
            return []
        own = self.federation.house.port
        return [p for p in listening(self.federation.running.process(SERVER).pid) if p != own]

    def strangers(self) -> None:
        """Let a node that was never admitted and one that was revoked try to take part."""
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        house = self.federation.house
        revoked = load_pem_private_key(self.revoked.read_bytes(), None)
        for kind, key in (
            ("unregistered node tried", ec.generate_private_key(ec.SECP384R1())),
            ("revoked node tried", revoked),
        ):
            server = Server(
                address=f"{HOST}:{house.port}",
                insecure=False,
                authority=house.authority.read_bytes(),
                key=key,
            )
            self.injected[kind] += 1
            try:
                with Fleet(server=server)():
                    self.leaks.append(f"{kind} and was let in")
            except (NotAdmitted, Lost):
                continue


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def listening(pid: int) -> list[int]:
    """Return the TCP ports on which a process listens."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            target = os.readlink(link)
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    found = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if words[3] == "0A" and words[9] in inodes:
            found.append(int(words[1].partition(":")[2], 16))
    return found


def _connected(port: int) -> socket.socket:
    connection = socket.create_connection((HOST, port), timeout=3)
    connection.settimeout(3)
    return connection


def _tls(port: int) -> Any:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(_connected(port))


def _random_bytes(port: int, rng: random.Random) -> None:
    with _connected(port) as connection:
        connection.sendall(rng.randbytes(4096))
        connection.recv(100)


def _endless_head(port: int, rng: random.Random) -> None:
    with _tls(port) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n" + b"x: " + b"y" * 2**20)
        connection.recv(100)


def _large_body(port: int, rng: random.Random) -> None:
    path = rng.choice(["/v1/fleet/push-messages", "/dp-risk/v1/runs", "/v1/control/start-run"])
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {_LARGE}\r\n\r\n"
    with _tls(port) as connection:
        connection.sendall(head.encode() + b"0" * 2**20)
        connection.recv(100)


def _plain_http(port: int, rng: random.Random) -> None:
    with _connected(port) as connection:
        connection.sendall(b"POST /v1/runtime/acquire-task HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.recv(100)


def _half_open(port: int, rng: random.Random) -> None:
    connection = _connected(port)
    connection.sendall(b"\x16")
    # Left alone: the server has to notice.
    threading.Timer(5.0, connection.close).start()


def clear(folder: Path) -> None:
    """Remove a federation that is not needed any more."""
    shutil.rmtree(folder, ignore_errors=True)
