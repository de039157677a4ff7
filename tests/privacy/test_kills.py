"""A site process killed between charge, compute and reply is never under-counted."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dp_risk.privacy.accounting import Event
from dp_risk.privacy.ledger import Ledger
from dp_risk.privacy.release import arrays_digest
from tests.forkserver import fresh
from tests.privacy import mortal

_WARM = 5
ANSWERED, UNANSWERED, UNPAID = "answered", "paid, unanswered", "not paid"


class Site:
    """The process of a site, started anew whenever it died."""

    def __init__(self, folder: Path, rounds: int) -> None:
        self.ledger, self.log, self.rounds = folder / "ledger.sqlite", folder / "steps", rounds
        self._context = fresh("tests.privacy.mortal")
        self._process: Any = None

    def start(self) -> None:
        """Start, and wait until the ledger is open."""
        self._line, theirs = self._context.Pipe()
        arguments = (self.ledger, self.log, self.rounds, theirs)
        self._process = self._context.Process(target=mortal.serve, args=arguments)
        self._process.start()
        theirs.close()
        assert self._line.recv() == self._process.pid

    def ask(self, round: int, weights: np.ndarray, kill_after: float | None = None) -> Any:
        """Ask for a round; kill the process meanwhile. None when no answer came."""
        if kill_after is not None:
            killer = threading.Timer(kill_after, os.kill, (self._process.pid, signal.SIGKILL))
            killer.start()
        try:
            self._line.send((round, weights))
            answer = self._line.recv()
        except (EOFError, ConnectionError):
            answer = None
        if kill_after is not None:
            killer.join()
            self._process.join(10)
            assert self._process.exitcode == -signal.SIGKILL
        return answer

    def stop(self) -> None:
        """Let the process end."""
        with contextlib.suppress(OSError):
            self._line.close()
        self._process.join(10)
        assert self._process.exitcode == 0


def chain(path: Path) -> tuple[dict[int, str], dict[int, str], float]:
    """Return requests by paid round, digests by released round, and the filter's total."""
    ledger = Ledger.open(path)
    try:
        ledger.verify()
        entries = list(ledger.entries())
        paid = {e.body["round"]: e.body["request"] for e in entries if e.kind == "charge"}
        assert len(paid) == sum(e.kind == "charge" for e in entries)
        released = {e.body["round"]: e.body["digest"] for e in entries if e.kind == "release"}
        assert len(released) == sum(e.kind == "release" for e in entries)
        return paid, released, float(entries[-1].body["filter"]["train"])
    finally:
        ledger.close_file()


def run_with_kills(folder: Path, kills: int, seed: int) -> dict[str, int]:
    """Train with one kill a round, at a random time; return at which points it died."""
    chance, site = random.Random(seed), Site(folder, _WARM + kills)
    weights, received, points = np.zeros(mortal.DIMENSION), {}, dict.fromkeys(
        (ANSWERED, UNANSWERED, UNPAID), 0
    )  # fmt: skip
    site.start()
    times = []
    for round in range(_WARM):
        started = time.monotonic()
        received[round] = site.ask(round, weights)
        times.append(time.monotonic() - started)
    for round in range(_WARM, _WARM + kills):
        answer = site.ask(round, weights, kill_after=chance.uniform(0, 1.5 * min(times)))
        paid, released, _ = chain(site.ledger)
        point = ANSWERED if round in released else UNANSWERED if round in paid else UNPAID
        points[point] += 1
        # Nothing was received that was not released, nothing released that was not paid.
        assert answer is None or point == ANSWERED
        assert set(released) <= set(paid)
        before = steps(site.log)
        site.start()
        again = site.ask(round, weights)
        if point == ANSWERED:
            assert arrays_digest(again[0]) == again[1] == released[round]
            assert answer is None or answer[1] == again[1]
            assert steps(site.log) == before
        elif point == UNANSWERED:
            # Paid and lost: neither this request nor another one is ever computed.
            assert again == "refused"
            assert site.ask(round, weights + 1) == "refused"
            assert steps(site.log) == before
        else:
            assert steps(site.log) == [*before, round]
        if again != "refused":
            received[round] = again
            weights = weights - 0.01 * again[0]["sum"]
    site.stop()
    paid, released, total = chain(site.ledger)
    computed = steps(site.log)
    # Every step was paid once, and every answer is the one that the chain holds.
    assert len(computed) == len(set(computed))
    assert set(released) <= set(computed) <= set(paid) == set(range(_WARM + kills))
    assert {round: arrays_digest(a[0]) for round, a in received.items()} == released
    ledger = Ledger.open(site.ledger, mortal.ACCOUNT, key=mortal.KEY)
    cost = ledger.filter.cost(Event(noise_multiplier=mortal.NOISE))
    ledger.close(mortal.RUN)
    # Lost rounds are not given back.
    assert total == pytest.approx((_WARM + kills) * cost)
    assert ledger.state.used == pytest.approx((_WARM + kills) * cost / ledger.filter.capacity)
    ledger.close_file()
    return points


def steps(log: Path) -> list[int]:
    """Return the rounds that were computed, in order."""
    return [int(line) for line in log.read_text().splitlines()]


def test_a_site_killed_20_times_is_never_under_counted(tmp_path: Path) -> None:
    assert sum(run_with_kills(tmp_path, 20, seed=1).values()) == 20


@pytest.mark.slow
def test_a_site_killed_200_times_is_never_under_counted(tmp_path: Path) -> None:
    points = run_with_kills(tmp_path, 200, seed=2)
    assert sum(points.values()) == 200
    # The kills came at every point.
    assert min(points.values()) > 0, points
