"""What the secure sum costs a site a round, and the server: measured, for some numbers of sites.

One site answers real rounds: it pays its ledger, draws its share of the noise, masks, stores and
signs. The other sites are there by their keys. The same rounds without masks are timed in turns
with them. For the first number of sites whole rounds are timed too: all of them answer one after
another, and the server decodes the sum. Nothing is trained. Run it where the ledger will lie:

    python benchmarks/secure_sum.py --folder /some/disk --json figures.json
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from dp_risk.privacy import keys
from dp_risk.privacy.account import Account
from dp_risk.privacy.accounting import Event
from dp_risk.privacy.ledger import Ledger
from dp_risk.privacy.randomness import Randomness
from dp_risk.privacy.schedule import Purpose
from dp_risk.privacy.shares import ShareGrid
from dp_risk.secure_sum.enrolment import Enrolment
from dp_risk.secure_sum.masks import mask, pair_key, public_of, unmask
from dp_risk.secure_sum.session import Session
from dp_risk.secure_sum.store import RunKeys
from dp_risk.secure_sum.terms import Line, Terms

ACCOUNT = Account(
    dataset="benchmark", unit="record", adjacency="add-remove", delta=1e-5, lifetime_epsilon=100.0,
    public=False, splits=("train", "holdout"), partition={"split key": "5a" * 32},
)  # fmt: skip
RUN, PLAN, NOISE, PLAIN = "run", "5c" * 32, 60.0, "without_masks"


def milliseconds(samples: list[float]) -> float:
    """Return the median of seconds, in milliseconds."""
    return round(1e3 * float(np.median(samples)), 3)


class Everybody:
    """Sites of one run, of which some answer.

    Parameters
    ----------
    folder : Path
        Where their ledgers lie.
    count : int
        Number of sites.
    dimension, rounds : int
        Of the run.
    answering : list of int
        Which sites have a ledger and answer.
    """

    def __init__(
        self, folder: Path, *, count: int, dimension: int, rounds: int, answering: list[int]
    ) -> None:
        self.names = [f"site-{number:04d}" for number in range(count)]
        self.answering = [self.names[number] for number in answering]
        signing = {name: Ed25519PrivateKey.generate() for name in self.names}
        self.line = Line(
            purpose="training", rounds=rounds, clip_norm=1.0, noise_multiplier=NOISE,
            dimension=dimension, units=100_000,
        )  # fmt: skip
        self.terms = Terms(
            run=RUN, plan_digest=PLAN, min_sites=3, max_colluding=1, lines=(self.line,),
            roster={name: keys.public_hex(key) for name, key in signing.items()},
        )  # fmt: skip
        self.grid = self.line.grid(count, self.terms.max_colluding)
        stores = {name: RunKeys(folder / name / "runs") for name in self.answering}
        self.secrets = {
            name: Ed25519PrivateKey.generate().private_bytes_raw() for name in self.names
        }
        self.secrets |= {name: store.secret(RUN) for name, store in stores.items()}
        statements = [
            Enrolment.make(
                terms=self.terms, site=name, secret=self.secrets[name],
                sign=partial(keys.sign, signing[name]),
            )
            for name in self.names
        ]  # fmt: skip
        self.sessions, self.ledgers = {}, {}
        event = Event(noise_multiplier=NOISE)
        schedule = tuple(
            Purpose(name=name, split="train", event=event, rounds=rounds)
            for name in ("training", PLAIN)
        )
        started = time.perf_counter()
        for name, store in stores.items():
            self.sessions[name] = Session.open(
                store, terms=self.terms, site=name, statements=statements
            )
        self.enrolling = (time.perf_counter() - started) / len(stores)
        for name in self.answering:
            ledger = Ledger.open(folder / name / "ledger", ACCOUNT, key=signing[name])
            ledger.reserve(run=RUN, plan_digest=PLAN, schedule=schedule)
            self.ledgers[name] = ledger

    def share(self, grid: ShareGrid) -> NDArray[np.float64]:
        """Return one site's share of the noise; its sum is zero."""
        return grid.release(np.zeros(self.line.dimension), Randomness.system())

    def masked(self, name: str, number: int) -> NDArray[np.uint64]:
        """Answer one round with masks."""
        release = self.sessions[name].answer(
            self.ledgers[name], purpose="training", r=number, participants=self.names,
            request="q", compute=self.share,
        )  # fmt: skip
        return release.arrays["masked"]

    def plain(self, name: str, number: int) -> NDArray[np.float64]:
        """Answer the same round without masks."""
        where: Any = {"run": RUN, "purpose": PLAIN, "round": number}
        self.ledgers[name].pay(**where, plan_digest=PLAN, request="q")
        release = self.ledgers[name].mint(**where, arrays={"sum": self.share(self.grid)})
        return release.arrays["sum"]

    def close(self) -> None:
        """Close the ledgers' files."""
        for ledger in self.ledgers.values():
            ledger.close_file()


def one_site(folder: Path, count: int, dimension: int, rounds: int) -> dict[str, float]:
    """Return the median milliseconds of each part at one of `count` sites."""
    sites = Everybody(
        folder, count=count, dimension=dimension, rounds=rounds, answering=[count // 2]
    )
    (me,) = sites.answering
    masked, plain, masks, unmasking = [], [], [], []
    pairs = {
        name: pair_key(sites.secrets[me], me, name, public_of(sites.secrets[name]), RUN)
        for name in sites.names
        if name != me
    }
    for number in range(rounds):
        start = time.perf_counter()
        vector = sites.masked(me, number)
        masked.append(time.perf_counter() - start)
        start = time.perf_counter()
        sites.plain(me, number)
        plain.append(time.perf_counter() - start)
        this = sites.terms.round("training", number, sites.names)
        start = time.perf_counter()
        mask(pairs, site=me, round=this)
        masks.append(time.perf_counter() - start)
        start = time.perf_counter()
        unmask(dict.fromkeys(sites.names, vector), this)
        unmasking.append(time.perf_counter() - start)
    sites.close()
    return {
        "sites": count,
        "round_ms": milliseconds(masked),
        "round_without_masks_ms": milliseconds(plain),
        "masks_ms": milliseconds(masks),
        "server_unmask_ms": milliseconds(unmasking),
        "enrol_ms": milliseconds([sites.enrolling]),
    }


def whole_rounds(folder: Path, count: int, dimension: int, rounds: int) -> dict[str, float]:
    """Return the median milliseconds of a round of all sites and the server, and their ratio."""
    sites = Everybody(
        folder, count=count, dimension=dimension, rounds=rounds, answering=list(range(count))
    )
    masked, plain = [], []
    for number in range(rounds):
        start = time.perf_counter()
        vectors = {name: sites.masked(name, number) for name in sites.names}
        this = sites.terms.round("training", number, sites.names)
        sites.grid.decode(unmask(vectors, this))
        masked.append(time.perf_counter() - start)
        start = time.perf_counter()
        sum(sites.plain(name, number) for name in sites.names)
        plain.append(time.perf_counter() - start)
    sites.close()
    return {
        "sites": count,
        "whole_round_ms": milliseconds(masked),
        "whole_round_without_masks_ms": milliseconds(plain),
        "ratio": round(float(np.median(masked) / np.median(plain)), 3),
    }


def main() -> None:
    """Measure, print a table, and write it as JSON where asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    parser.add_argument("--sites", type=int, nargs="+", default=[10, 100, 300])
    parser.add_argument("--dimension", type=int, default=10_000, help="weights of the model")
    parser.add_argument("--rounds", type=int, default=30, help="rounds a measurement")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    found = []
    for measure, count in [
        (whole_rounds, options.sites[0]),
        *((one_site, count) for count in options.sites),
    ]:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            found.append(measure(Path(name), count, options.dimension, options.rounds))
        print(", ".join(f"{key} {value:g}" for key, value in found[-1].items()))
    if options.json:
        figures = {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "machine": platform.machine(),
            "dimension": options.dimension,
            "rounds": options.rounds,
            "whole_rounds": found[0],
            "by_sites": found[1:],
        }
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
