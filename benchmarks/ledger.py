"""What a charge costs beside the disk: pay and mint against bare synced commits of SQLite.

Each of the two writes of a charge is one synced commit, so the bare commits are counted in pairs
too, on the same file system and in turns with the charges. Run it where the ledger will lie:

    python benchmarks/ledger.py --folder /some/disk
"""

from __future__ import annotations

import argparse
import sqlite3
import tempfile
import time
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dp_risk.privacy.account import Account
from dp_risk.privacy.accounting import Event
from dp_risk.privacy.ledger import Ledger
from dp_risk.privacy.schedule import Purpose

ACCOUNT = Account(
    dataset="benchmark", unit="record", adjacency="add-remove", delta=1e-5, lifetime_epsilon=100.0,
    public=False, splits=("train", "holdout"), partition={"split key": "5a" * 32},
)  # fmt: skip
ROUNDS = 100_000


class Bare:
    """Commits of one row of a charge's size, synced as the ledger's are."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.execute("CREATE TABLE row (text TEXT)")

    def commit(self) -> None:
        """Write one row."""
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.execute("INSERT INTO row VALUES (?)", ("x" * 600,))
        self._connection.execute("COMMIT")


def charge(ledger: Ledger, number: int, arrays: dict[str, np.ndarray]) -> None:
    """Pay for a round and mint its release."""
    where = {"run": "run", "purpose": "training", "round": number}
    ledger.pay(**where, plan_digest="p" * 64, request="q" * 64)
    ledger.mint(**where, arrays=arrays)


def measure(
    ledger: Ledger, bare: Bare, first: int, count: int, dimension: int
) -> tuple[float, float]:
    """Return the median milliseconds of a charge and of two bare commits, taken in turns."""
    arrays = {"w": np.zeros(dimension)}
    charges, commits = [], []
    for number in range(first, first + count):
        start = time.perf_counter()
        charge(ledger, number, arrays)
        middle = time.perf_counter()
        bare.commit()
        bare.commit()
        charges.append(middle - start)
        commits.append(time.perf_counter() - middle)
    return 1e3 * float(np.median(charges)), 1e3 * float(np.median(commits))


def main() -> None:
    """Measure with an empty and with a long ledger, and print both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    parser.add_argument("--charges", type=int, default=300, help="charges a measurement")
    parser.add_argument("--entries", type=int, default=10_000, help="length of the long ledger")
    parser.add_argument("--dimension", type=int, default=100, help="numbers in a release")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        ledger = Ledger.open(folder / "ledger", ACCOUNT, key=Ed25519PrivateKey.generate())
        event = Event(noise_multiplier=1e4, sampling_rate=0.01)
        line = Purpose(name="training", split="train", event=event, rounds=ROUNDS)
        ledger.reserve(run="run", plan_digest="p" * 64, schedule=(line,))
        bare = Bare(folder / "bare")
        done = 0
        for asked in (0, options.entries):
            connection = ledger._chain.connection
            connection.execute("PRAGMA synchronous=OFF")
            while ledger.state.entries < asked:
                charge(ledger, done, {"w": np.zeros(options.dimension)})
                done += 1
            connection.execute("PRAGMA synchronous=FULL")
            entries = ledger.state.entries
            mine, theirs = measure(ledger, bare, done, options.charges, options.dimension)
            done += options.charges
            print(
                f"{entries:6d} entries: charge {mine:.3f} ms, two bare commits {theirs:.3f} ms, "
                f"beside the disk {mine - theirs:.3f} ms, ratio {mine / theirs:.2f}"
            )
        start = time.perf_counter()
        found = ledger.verify()
        print(f"verify: {found.entries} entries in {time.perf_counter() - start:.2f} s")
        ledger.close_file()


if __name__ == "__main__":
    main()
