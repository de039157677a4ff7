"""What other processes do to a ledger; imports nothing that is slow to import."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dp_risk.privacy.account import Account
from dp_risk.privacy.accounting import Event
from dp_risk.privacy.ledger import Ledger
from dp_risk.privacy.plan import Purpose
from dp_risk.types import DpRiskError

ACCOUNT = Account(
    dataset="people", unit="record", adjacency="add-remove", delta=1e-5, lifetime_epsilon=4.0,
    public=False, splits=("train", "holdout"),
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
