"""What other processes do to a site: one is killed while it rotates its key, one charges."""

from __future__ import annotations

import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from clients.rotation import rotate
from clients.site import Site
from dp_risk.privacy.accounting import Event
from dp_risk.privacy.chain import Chain
from dp_risk.privacy.schedule import Purpose


def rotate_and_die(folder: Path, step: int) -> None:
    """Rotate, and be killed before the step of this number: a change of a file or of the ledger."""
    site, done = Site.open(folder), 0

    def counting(act: Any) -> Any:
        def counted(*arguments: Any, **named: Any) -> Any:
            nonlocal done
            if done == step:
                os.kill(os.getpid(), signal.SIGKILL)
            done += 1
            return act(*arguments, **named)

        return counted

    Chain.change = counting(Chain.change)  # type: ignore[method-assign]
    for name in ("open", "link", "replace", "unlink", "fsync"):
        setattr(os, name, counting(getattr(os, name)))
    rotate(site, by="A. Person", reason="once a year")


def charge_until_told(folder: Path, line: Connection) -> None:
    """Charge rounds of one run, as fast as can be; say at the end how many entries there are."""
    event = Event(noise_multiplier=400.0)
    schedule = (Purpose(name="training", split="train", event=event, rounds=20_000),)
    ledger = Site.open(folder).ledger
    ledger.reserve(run="busy", plan_digest="p", schedule=schedule)
    for number in range(20_000):
        ledger.pay(run="busy", plan_digest="p", purpose="training", round=number, request="q")
        ledger.mint(run="busy", purpose="training", round=number, arrays={"w": np.zeros(50)})
        if number == 10:
            line.send("charging")
        if line.poll():
            break
    line.send(ledger.state.entries)
