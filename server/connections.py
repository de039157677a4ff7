"""Connections of the server's port: none may wait for ever before its request is there.

Uvicorn waits as long as a peer likes for the first byte and for the last header of a request, and
asyncio for a minute for a TLS handshake that does not come.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import resource
import socket
from collections import Counter
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
PER_PEER = 256
# Whoever has one IPv6 address has a network of them.
_NETWORK = 64


class Door(socket.socket):
    """A port that listens; a peer may hold only so many connections, from the first packet on."""

    per_peer = PER_PEER

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.held: Counter[str] = Counter()

    def accept(self) -> tuple[socket.socket, Any]:
        """Return a connection and its address.

        Raises
        ------
        ConnectionAbortedError
            If its peer holds too many; it is closed then.
        """
        found, address = super().accept()
        peer = _peer(address[0])
        if self.held[peer] >= self.per_peer:
            found.close()
            raise ConnectionAbortedError("too many connections of one peer")
        self.held[peer] += 1

        def gone() -> None:
            self.held[peer] -= 1
            if not self.held[peer]:
                del self.held[peer]

        return _Held(gone, fileno=found.detach()), address


class _Held(socket.socket):
    """A connection that tells once when it is closed."""

    def __init__(self, gone: Callable[[], None], *, fileno: int) -> None:
        super().__init__(fileno=fileno)
        self._gone: Callable[[], None] | None = gone

    def close(self) -> None:
        """Close the connection."""
        super().close()
        gone, self._gone = self._gone, None
        if gone is not None:
            gone()


def more_files() -> None:
    """Let this process hold as many connections as the system allows it at most."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Some systems name no limit and take none above one of their own.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _peer(host: str) -> str:
    found = ipaddress.ip_address(host.partition("%")[0])
    if found.version == 4:
        return host
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((int(found), _NETWORK), strict=False))


class Connection(H11Protocol):
    """An HTTP/1.1 connection whose request must come in time."""

    head_seconds = HEAD_SECONDS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._overdue: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for its first request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take in bytes; watch the time until they are a request."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        super().connection_lost(exc)
        self._stop_watching()

    def _watch(self) -> None:
        waiting = self.cycle is None or self.cycle.response_complete
        if not waiting:
            self._stop_watching()
        elif self._overdue is None:
            self._overdue = self.loop.call_later(self.head_seconds, self._close_if_waiting)

    def _close_if_waiting(self) -> None:
        self._overdue = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()

    def _stop_watching(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None
