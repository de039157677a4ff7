"""What other processes do to a ledger; imports nothing that is slow to import."""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dp_risk.privacy.account import Account
from dp_risk.privacy.accounting import Event
from dp_risk.privacy.chain import Chain
from dp_risk.privacy.ledger import Ledger
from dp_risk.privacy.migration import migrate
from dp_risk.privacy.schedule import Purpose
from dp_risk.types import DpRiskError

ACCOUNT = Account(
    dataset="people", unit="record", adjacency="add-remove", delta=1e-5, lifetime_epsilon=4.0,
    public=False, splits=("train", "holdout"), partition={"split key": "5a" * 32},
)  # fmt: skip
KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)


def schedule(rounds: int = 3, noise: float = 20.0) -> tuple[Purpose, ...]:
    """Return a count and some training rounds."""
    return (
        Purpose(name="counts", split="train", event=Event(noise_multiplier=40.0), rounds=1),
        Purpose(
            name="training",
            split="train",
            event=Event(noise_multiplier=noise, sampling_rate=0.5, count=2),
            rounds=rounds,
        ),
    )


def pay_for_all(path: Path, rounds: int, gate: Any, results: Any) -> None:
    """Open the ledger when the gate opens and try to pay for every round of one run."""
    gate.wait(30)
    won = []
    try:
        ledger = Ledger.open(path, ACCOUNT, key=KEY)
        ledger.reserve(run="shared", plan_digest="p", schedule=schedule(rounds))
    except DpRiskError as error:
        results.put(("failed", str(error), "torch" in sys.modules))
        return
    for number in range(rounds):
        try:
            paid = ledger.pay(
                run="shared", plan_digest="p", purpose="training", round=number,
                request=f"from {os.getpid()}",
            )  # fmt: skip
        except DpRiskError:
            continue
        if paid is None:
            won.append(number)
    results.put(("paid", won, "torch" in sys.modules))


def pay_and_die(path: Path) -> None:
    """Pay for a round and die before its answer is stored."""
    ledger = Ledger.open(path, ACCOUNT, key=KEY)
    ledger.reserve(run="r", plan_digest="p", schedule=schedule())
    ledger.pay(run="r", plan_digest="p", purpose="training", round=0, request="q")
    os.kill(os.getpid(), signal.SIGKILL)


def pay_within(path: Path, size: int, results: Any) -> None:
    """Pay and mint until a file may grow no more; report every answer and the refusal."""
    ledger = Ledger.open(path, ACCOUNT, key=KEY)
    ledger.reserve(run="r", plan_digest="p", schedule=schedule(400, 60.0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    released = []
    try:
        for number in range(400):
            ledger.pay(run="r", plan_digest="p", purpose="training", round=number, request="q")
            arrays = {"w": np.zeros(100)}
            ledger.mint(run="r", purpose="training", round=number, arrays=arrays)
            released.append(number)
    except BaseException as error:
        results.put((released, type(error).__name__, str(error)))
        return
    results.put((released, "nothing", ""))


def write_as_nobody(path: Path, results: Any) -> None:
    """Try to open, pay and read as a user who may write neither the file nor its folder."""
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    answers = []
    for key in (KEY, None):
        try:
            ledger = Ledger.open(path, ACCOUNT, key=key)
            answers.append(("read", str(ledger.verify().entries)))
            ledger.pay(run="r", plan_digest="p", purpose="training", round=0, request="q")
            answers.append(("paid", ""))
        except BaseException as error:
            answers.append((type(error).__name__, str(error)))
    results.put(answers)


def migrate_and_die(path: Path, account: Account, statement: int) -> None:
    """Migrate, and be killed before a numbered change of the file."""
    change, done = Chain.change, 0

    def counting(chain: Chain, text: str, *values: Any) -> int:
        nonlocal done
        done += 1
        if done > statement:
            os.kill(os.getpid(), signal.SIGKILL)
        return change(chain, text, *values)

    Chain.change = counting  # type: ignore[method-assign]
    migrate(path, account, key=KEY)
    os.kill(os.getpid(), signal.SIGKILL)
