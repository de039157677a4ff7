"""The outermost layer of the server's ports: who may send what, decided before it is read.

On the open port sites reach Flower's fleet API with a key of the roster, and operators the desk. On
a port of loopback the server's own child reaches the runtime API with the token of its task. All
else is answered with an empty 404. Bodies are read here, within limits of size and time, so that
the apps behind never wait for a peer.
"""

from __future__ import annotations

import asyncio
import ipaddress
from base64 import b64decode
from binascii import Error as Base64Error
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

DESK = "/dp-risk/v1/"
_FLEET, _RUNTIME = "/v1/fleet/", "/v1/runtime/"
# What a site's loop calls; nodes register by the roster alone.
FLEET = frozenset(
    _FLEET + name
    for name in (
        "activate-node",
        "deactivate-node",
        "send-node-heartbeat",
        "pull-messages",
        "push-messages",
        "get-run",
        "get-fab",
        "push-object",
        "pull-object",
        "confirm-message-received",
    )
)
# What a ServerApp's grid calls; tasks are claimed inside the server.
RUNTIME = frozenset(
    _RUNTIME + name
    for name in (
        "send-task-heartbeat",
        "get-nodes",
        "push-messages",
        "pull-messages",
        "push-object",
        "pull-object",
        "confirm-message-received",
    )
)
_PUBLIC_KEY, _SIGNATURE, _TIMESTAMP = b"flwr-public-key", b"flwr-signature", b"flwr-timestamp"
_TOKEN = b"flwr-task-token"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a peer may use.

    Parameters
    ----------
    head_bytes : int
        All headers and the path of one request.
    body_bytes, desk_bytes : int
        The body of one request to Flower, and to the desk.
    waiting_bytes : int
        Bodies of all requests that are being read or answered.
    requests, requests_per_peer : int
        At the same time.
    unknown, unknown_per_peer : int
        Of these, requests of which is known who sends them only when they are read: those to the
        desk. They leave room for the sites.
    seconds, bytes_per_second : float
        A body may take so long, and longer by what it has brought at this rate.
    """

    head_bytes: int = 16 * 1024
    body_bytes: int = 64 * 1024 * 1024
    desk_bytes: int = 1024 * 1024
    waiting_bytes: int = 512 * 1024 * 1024
    requests: int = 256
    requests_per_peer: int = 128
    unknown: int = 64
    unknown_per_peer: int = 16
    seconds: float = 10.0
    bytes_per_second: float = 32 * 1024


class Turned(Exception):
    """A request that is not let in; `status` is all that the peer hears."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class _Gone(Exception):
    """The peer left before its body was there."""


class Way(NamedTuple):
    """Where a request goes, how large its body may be, and whether it is known who sends it."""

    app: App
    most: int
    known: bool


class Door(Protocol):
    """What a port is for."""

    def way(self, scope: Scope, peer: str, limits: Limits) -> Way:
        """Return where a request goes.

        Raises
        ------
        Turned
            If it is for none.
        """
        ...


class Outside:
    """The open port.

    Parameters
    ----------
    link : ASGI app
        Flower's.
    desk : ASGI app
        For everything under `/dp-risk/v1/`; it authenticates by itself.
    node_keys : callable
        Returns the public keys (PEM) of the nodes of the roster, now.
    """

    def __init__(self, link: App, desk: App, node_keys: Callable[[], Collection[bytes]]) -> None:
        self._link = link
        self._desk = desk
        self._node_keys = node_keys

    def way(self, scope: Scope, peer: str, limits: Limits) -> Way:  # noqa: ARG002
        """Let in nodes of the roster, and whoever has something for the desk."""
        path = scope["path"]
        if path in FLEET and scope["method"] == "POST":
            if not self._is_node(scope):
                raise Turned(401, "no key of the roster")
            return Way(self._link, limits.body_bytes, known=True)
        if path.startswith(DESK) and scope["method"] in ("GET", "POST"):
            return Way(self._desk, limits.desk_bytes, known=False)
        raise Turned(404, "no such path")

    def _is_node(self, scope: Scope) -> bool:
        """Whether the headers are signed by a node of the roster; Flower checks their time."""
        try:
            key = b64decode(_only(scope, _PUBLIC_KEY), validate=True)
            signature = b64decode(_only(scope, _SIGNATURE), validate=True)
        except (Base64Error, ValueError):
            return False
        return key in self._node_keys() and _signed(key, _only(scope, _TIMESTAMP), signature)


class Inside:
    """The port of loopback, for the child of the current run.

    Parameters
    ----------
    link : ASGI app
        Flower's; it knows the tokens.
    """

    def __init__(self, link: App) -> None:
        self._link = link

    def way(self, scope: Scope, peer: str, limits: Limits) -> Way:
        """Let in who is on this machine and shows a token."""
        called = scope["path"] in RUNTIME and scope["method"] == "POST"
        if not (called and _is_loopback(peer) and _only(scope, _TOKEN)):
            raise Turned(404, "no task of this server")
        return Way(self._link, limits.body_bytes, known=True)


class Guard:
    """An ASGI app that lets requests through a door.

    Parameters
    ----------
    door : Door
        Who may go where.
    lifespan : ASGI app or None
        Hears of the start and the end of the server.
    report : callable
        Told of every refusal: (peer, what was wrong), without anything that the peer sent.
    limits : Limits
        What a peer may use.
    """

    def __init__(
        self,
        door: Door,
        *,
        lifespan: App | None,
        report: Callable[[str, str], None],
        limits: Limits | None = None,
    ) -> None:
        self._door = door
        self._lifespan = lifespan
        self._report = report
        self._limits = limits or Limits()
        self._peers: Counter[str] = Counter()
        self._unknown: Counter[str] = Counter()
        self._waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's event: refuse it, or hand it on with its body read."""
        if scope["type"] == "lifespan" and self._lifespan is not None:
            await self._lifespan(scope, receive, send)
        elif scope["type"] == "http":
            await self._request(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        peer = str((scope.get("client") or ("unknown", 0))[0])
        body = bytearray()
        started = False

        async def sending(event: Event) -> None:
            nonlocal started
            started = True
            await send(event)

        self._peers[peer] += 1
        try:
            self._check_load(peer)
            self._check_head(scope)
            way = self._door.way(scope, peer, self._limits)
            with self._room(peer, way):
                await self._read(body, scope, receive, way.most)
                await way.app(scope, _replay(bytes(body), receive), sending)
        except _Gone:
            return
        except Turned as turned:
            self._report(peer, str(turned))
            await _answer(send, turned.status)
        except Exception as error:
            self._report(peer, f"internal error: {type(error).__name__}")
            if not started:
                await _answer(send, 500)
        finally:
            self._waiting -= len(body)
            self._peers[peer] -= 1
            if not self._peers[peer]:
                del self._peers[peer]

    def _check_load(self, peer: str) -> None:
        limits = self._limits
        if self._peers[peer] > limits.requests_per_peer:
            raise Turned(503, "too many requests at the same time from one peer")
        if self._peers.total() > limits.requests:
            raise Turned(503, "too many requests at the same time")

    @contextmanager
    def _room(self, peer: str, way: Way) -> Iterator[None]:
        if way.known:
            yield
            return
        limits = self._limits
        self._unknown[peer] += 1
        try:
            if self._unknown[peer] > limits.unknown_per_peer:
                raise Turned(503, "too many requests to the desk from one peer")
            if self._unknown.total() > limits.unknown:
                raise Turned(503, "too many requests to the desk")
            yield
        finally:
            self._unknown[peer] -= 1
            if not self._unknown[peer]:
                del self._unknown[peer]

    def _check_head(self, scope: Scope) -> None:
        size = len(scope["path"]) + len(scope.get("query_string", b""))
        size += sum(len(name) + len(value) for name, value in scope["headers"])
        if size > self._limits.head_bytes:
            raise Turned(431, "headers are too large")

    async def _read(self, body: bytearray, scope: Scope, receive: Receive, most: int) -> None:
        """Read the whole body.

        Raises
        ------
        Turned
            If it is too large or too slow.
        _Gone
            If the peer leaves.
        """
        limits, loop = self._limits, asyncio.get_running_loop()
        length = _only(scope, b"content-length")
        if length and (not length.isdigit() or len(length) > 15 or int(length) > most):
            raise Turned(413, "body is too large")
        start = loop.time()
        more = True
        while more:
            until = start + limits.seconds + len(body) / limits.bytes_per_second
            try:
                async with asyncio.timeout_at(until):
                    event = await receive()
            except TimeoutError:
                raise Turned(408, "body is too slow") from None
            if event["type"] == "http.disconnect":
                raise _Gone
            chunk, more = event.get("body", b""), event.get("more_body", False)
            if len(body) + len(chunk) > most:
                raise Turned(413, "body is too large")
            if self._waiting + len(chunk) > limits.waiting_bytes:
                raise Turned(503, "too many bodies at the same time")
            body += chunk
            self._waiting += len(chunk)


def _only(scope: Scope, name: bytes) -> bytes:
    """Return the value of a header that is there once; else nothing."""
    values = [value for key, value in scope["headers"] if key.lower() == name]
    return values[0] if len(values) == 1 else b""


def _is_loopback(peer: str) -> bool:
    try:
        return ipaddress.ip_address(peer).is_loopback
    except ValueError:
        return False


@lru_cache(maxsize=1024)
def _public_key(pem: bytes) -> ec.EllipticCurvePublicKey | None:
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, ec.EllipticCurvePublicKey) else None


def _signed(pem: bytes, text: bytes, signature: bytes) -> bool:
    key = _public_key(pem)
    if key is None or not text:
        return False
    try:
        key.verify(signature, text, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return what gives a body that was read already, and then what comes after it."""
    given = False

    async def again() -> Event:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _answer(send: Send, status: int) -> None:
    """Answer with a status alone, and close: an unread body is not waited for."""
    headers = [(b"content-length", b"0"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
