"""What a service says while it runs: one line an event, for people or for machines."""

from __future__ import annotations

import datetime
import json
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

# How long the same line is held back after it was said.
_QUIET_SECONDS = 60.0
# Peers choose what they are; so many different lines are remembered.
_MOST_LINES = 10_000


class Lines:
    """Writes events: a name, and facts by name.

    Parameters
    ----------
    as_json : bool
        One JSON object a line; else the time, the name, and `fact=value`.
    stream : file or None
        Where to; None is standard output.
    clock : callable
        Seconds, for `rarely`.
    """

    def __init__(
        self,
        *,
        as_json: bool,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._as_json = as_json
        self._stream = stream
        self._clock = clock
        self._said: dict[str, float] = {}

    def __call__(self, event: str, **facts: Any) -> None:
        """Write an event."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        if self._as_json:
            line = json.dumps({"time": now, "event": event, **facts}, default=str)
        else:
            line = " ".join([now, event, *(f"{name}={_plain(v)}" for name, v in facts.items())])
        print(line, file=self._stream or sys.stdout, flush=True)

    def rarely(self, event: str, **facts: Any) -> None:
        """Write an event, unless the very same one was written within the last minute."""
        now, key = self._clock(), repr((event, sorted(facts.items())))
        if now < self._said.get(key, now):
            return
        if len(self._said) >= _MOST_LINES:
            self._said.clear()
        self._said[key] = now + _QUIET_SECONDS
        self(event, **facts)


def _plain(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return json.dumps(text) if not text or " " in text or not text.isprintable() else text
