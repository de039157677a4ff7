"""A site process without torch: it pays, computes one DP-SGD step in NumPy, stores and answers."""

from __future__ import annotations

import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dp_risk.privacy.account import Account
from dp_risk.privacy.accounting import Event
from dp_risk.privacy.gaussian import GaussianSum
from dp_risk.privacy.ledger import Ledger
from dp_risk.privacy.randomness import Randomness
from dp_risk.privacy.release import arrays_digest, digest
from dp_risk.privacy.schedule import Purpose
from dp_risk.types import Refused

ACCOUNT = Account(
    dataset="people", unit="record", adjacency="add-remove", delta=1e-5, lifetime_epsilon=8.0,
    public=False, splits=("train", "holdout"), partition={"split key": "5a" * 32},
)  # fmt: skip
KEY = Ed25519PrivateKey.from_private_bytes(b"\x05" * 32)
RUN, PLAN = "run-1", "plan"
NOISE, DIMENSION = 60.0, 6


def schedule(rounds: int) -> tuple[Purpose, ...]:
    """Return the run's schedule."""
    event = Event(noise_multiplier=NOISE)
    return (Purpose(name="training", split="train", event=event, rounds=rounds),)


def request_digest(round: int, weights: np.ndarray) -> str:
    """Return what a request is recognised by."""
    return digest({"round": round, "weights": arrays_digest({"w": weights})})


def serve(ledger_path: Path, log: Path, rounds: int, line: Connection) -> None:
    """Answer requests until the line is closed; `log` counts the steps that were computed."""
    assert "torch" not in sys.modules
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(200, DIMENSION)), rng.integers(0, 2, 200)
    gradient = GaussianSum(clip_norm=1.0, dimension=DIMENSION, noise_multiplier=NOISE)
    ledger = Ledger.open(ledger_path, ACCOUNT, key=KEY)
    ledger.reserve(run=RUN, plan_digest=PLAN, schedule=schedule(rounds))
    line.send(os.getpid())
    while True:
        try:
            round, weights = line.recv()
        except EOFError:
            return
        try:
            line.send(_answer(ledger, gradient, log, round, weights, x, y))
        except Refused:
            line.send("refused")


def _answer(ledger, gradient, log, round, weights, x, y):
    stored = ledger.pay(
        run=RUN, plan_digest=PLAN, purpose="training", round=round,
        request=request_digest(round, weights),
    )  # fmt: skip
    if stored is None:
        residual = 1 / (1 + np.exp(-x @ weights)) - y
        arrays = gradient(residual[:, None] * x, Randomness.system())
        with log.open("a") as file:
            file.write(f"{round}\n")
            file.flush()
            os.fsync(file.fileno())
        stored = ledger.mint(run=RUN, purpose="training", round=round, arrays=arrays)
    return {name: np.asarray(array) for name, array in stored.arrays.items()}, stored.digest
