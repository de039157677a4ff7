"""What a service says while it runs: one line an event, for people or for machines."""

from __future__ import annotations

import datetime
import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from dp_risk.federation.events import plain

# How long the same line is held back after it was said.
_QUIET_SECONDS = 60.0
# Peers choose what they are; so many different lines are remembered.
_MOST_LINES = 10_000


def line(
    now: float, level: str, event: str, facts: Mapping[str, Any], *, as_json: bool = False
) -> str:
    """Return the line of an event.

    Parameters
    ----------
    now : float
        Seconds since 1970.
    level : str
        "info", "warning" or "error"; only JSON says it.
    event : str
        What happened, in a few words.
    facts : mapping of str to object
        By name.
    as_json : bool
        One JSON object; else the time, the event, and `fact=value`.
    """
    at = datetime.datetime.fromtimestamp(now, datetime.UTC).isoformat(timespec="seconds")
    if as_json:
        said = {"time": at, "level": level, "event": event, **facts}
        return json.dumps(said, default=str)
    return f"{at} {plain(event, facts)}"


class Lines:
    """Writes events.

    Parameters
    ----------
    as_json : bool
        Whether as JSON.
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

    def __call__(self, event: str, *, level: str = "info", **facts: Any) -> None:
        """Write an event."""
        text = line(time.time(), level, event, facts, as_json=self._as_json)
        print(text, file=self._stream or sys.stdout, flush=True)

    def rarely(self, event: str, *, level: str = "warning", **facts: Any) -> None:
        """Write an event, unless the very same one was written within the last minute."""
        now, key = self._clock(), repr((event, sorted(facts.items())))
        if now < self._said.get(key, now):
            return
        if len(self._said) >= _MOST_LINES:
            self._said.clear()
        self._said[key] = now + _QUIET_SECONDS
        self(event, level=level, **facts)


class Formatter(logging.Formatter):
    """Writes what a site tells its log in the same way; what has no facts is an event of words.

    Parameters
    ----------
    as_json : bool
        Whether as JSON.
    """

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        facts = dict(getattr(record, "facts", {}))
        event, level = facts.pop("event", None) or record.getMessage(), record.levelname.lower()
        return line(record.created, level, event, facts, as_json=self._as_json)
