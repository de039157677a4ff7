"""Connections of the server's port: none may wait for ever before its request is there.

Uvicorn waits as long as a peer likes for the first byte and for the last header of a request.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
PER_PEER = 256


class Connection(H11Protocol):
    """An HTTP/1.1 connection whose request must come in time; a peer may hold only so many."""

    head_seconds = HEAD_SECONDS
    per_peer = PER_PEER
    _held: ClassVar[Counter[str]] = Counter()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._peer = ""
        self._overdue: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection; close it where its peer holds too many."""
        super().connection_made(transport)
        self._peer = self.client[0] if self.client else ""
        self._held[self._peer] += 1
        if self._held[self._peer] > self.per_peer:
            transport.abort()
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        """Take in bytes; watch the time until they are a request."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        super().connection_lost(exc)
        self._stop_watching()
        self._held[self._peer] -= 1
        if not self._held[self._peer]:
            del self._held[self._peer]

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
