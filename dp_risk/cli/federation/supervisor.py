"""One run after the other, each in a child that may die and is started again until a verdict.

A child does a run to its end, or tells the sites that the run is over (`close`). It is only ever
killed, never asked: a run that ends by itself is closed at its sites, and one whose server goes
down must stay open.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from server.link import Task
from server.queue import FAILED, RUNNING, STOPPED, Entry, Queue, Verdict

# How often a child that lives is looked after; Flower ends a run that nobody keeps for a minute.
_LOOK_SECONDS = 5.0
# A child that lived so long starts a new series of attempts.
_STABLE_SECONDS = 300.0
# Sites that cannot be told of the end hear of it with their next run.
_CLOSINGS = 3
# How often the progress of a run is told.
_PARTS = 10


class Child(Protocol):
    """A process that does a run."""

    async def wait(self) -> int:
        """Return the exit code."""
        ...

    def kill(self) -> None:
        """End it at once, if it lives."""
        ...


class Runs(Protocol):
    """Where Flower's runs are started."""

    def start(self) -> Task:
        """Start a run."""
        ...

    def keep(self, task: Task) -> bool:
        """Keep it alive; False where it has ended."""
        ...

    def end(self, task: Task) -> None:
        """End it."""
        ...


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a child is to do: a run, or only to close it at the sites."""

    run: str
    task: Task
    close: bool


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Seconds between a death and the next attempt: doubled each time, up to `most`."""

    first: float = 1.0
    most: float = 60.0

    def after(self, deaths: int) -> float:
        """Return the pause after so many deaths in a row, at least 1."""
        return min(self.most, self.first * 2.0 ** min(deaths - 1, 30))


class Supervisor:
    """Does the runs of a queue.

    Parameters
    ----------
    queue : Queue
        The runs.
    link : Runs
        Flower's side.
    start : callable
        Starts a child for an order.
    tell : callable
        Told of events: a name, and facts by name.
    patience : Patience
        How long to wait after a death.
    look : float
        Seconds between two looks at a living child.
    """

    def __init__(
        self,
        queue: Queue,
        link: Runs,
        start: Callable[[Order], Awaitable[Child]],
        *,
        tell: Callable[..., None],
        patience: Patience | None = None,
        look: float = _LOOK_SECONDS,
    ) -> None:
        self._queue = queue
        self._link = link
        self._start = start
        self._tell = tell
        self._patience = patience or Patience()
        self._look = look
        self._changed = asyncio.Event()

    def wake(self) -> None:
        """Say that the queue has changed."""
        self._changed.set()

    async def forever(self) -> None:
        """Do runs until this is cancelled; a run that is being done then stays as it is."""
        while True:
            entry = self._queue.next()
            if entry is None:
                await self._sleep(None)
                continue
            try:
                await self._do(entry.run)
            except OSError as error:
                # A full disk is no reason to shut the sites out.
                why = f"its files cannot be written: {error.strerror}"
                self._tell("run interrupted", run=entry.run, reason=why)
                await self._sleep(self._patience.most)

    async def _do(self, run: str) -> None:
        """Bring one run to its verdict."""
        deaths = 0
        while not self._judged(run, deaths):
            entry = self._queue.entry(run)
            entry = self._queue.change(run, state=RUNNING, starts=entry.starts + 1, reason=None)
            self._tell("run started", run=run, start=entry.starts, **_closing(entry))
            began = time.monotonic()
            why = await self._attempt(entry)
            if self._queue.verdict(run) is not None:
                continue
            if self._queue.entry(run).stop and not entry.stop:
                deaths = 0
                continue
            if time.monotonic() - began > _STABLE_SECONDS:
                deaths = 0
            deaths += 1
            pause = self._patience.after(deaths)
            reason = f"{why}; it is started again after {pause:g} s"
            self._queue.change(run, reason=reason)
            self._tell("run interrupted", level="warning", run=run, reason=reason, deaths=deaths)
            await self._sleep(pause)

    def _judged(self, run: str, deaths: int) -> bool:
        """Whether a run is over; its verdict is kept then."""
        verdict = self._queue.verdict(run)
        if verdict is None and self._queue.entry(run).stop and deaths >= _CLOSINGS:
            verdict = Verdict(state=STOPPED, reason="the sites could not be told")
        if verdict is None:
            return False
        self._queue.change(run, **asdict(verdict))
        level = "error" if verdict.state == FAILED else "info"
        self._tell(f"run {verdict.state}", level=level, run=run, reason=verdict.reason)
        return True

    async def _attempt(self, entry: Entry) -> str:
        """Let one child work; return why it does not any more."""
        task = self._link.start()
        child: Child | None = None
        try:
            child = await self._start(Order(run=entry.run, task=task, close=entry.stop))
            return await self._watch(child, entry, task)
        except OSError as error:
            return f"its process could not be started: {error.strerror}"
        finally:
            if child is not None:
                child.kill()
            self._link.end(task)

    async def _watch(self, child: Child, entry: Entry, task: Task) -> str:
        waiting = asyncio.ensure_future(child.wait())
        said = _told({})
        try:
            while True:
                changed = asyncio.ensure_future(self._changed.wait())
                await asyncio.wait(
                    {waiting, changed}, timeout=self._look, return_when=asyncio.FIRST_COMPLETED
                )
                changed.cancel()
                self._changed.clear()
                if waiting.done():
                    return f"its process ended ({_how(waiting.result())})"
                if self._queue.entry(entry.run).stop and not entry.stop:
                    return "it is to be stopped"
                if not self._link.keep(task):
                    return "the server was asleep for too long"
                progress = self._queue.progress(entry.run)
                if _told(progress) != said:
                    said = _told(progress)
                    self._tell("run progress", run=entry.run, **progress)
        finally:
            waiting.cancel()

    async def _sleep(self, seconds: float | None) -> None:
        """Wait until the queue changes, or so long."""
        try:
            await asyncio.wait_for(self._changed.wait(), seconds)
        except TimeoutError:
            return
        self._changed.clear()


def _closing(entry: Entry) -> dict[str, bool]:
    return {"close": True} if entry.stop else {}


def _told(progress: Mapping[str, Any]) -> int:
    """Return in which part of a run, one of ten, its last round was."""
    return _PARTS * int(progress.get("round", 0)) // max(1, int(progress.get("rounds", 1)))


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
