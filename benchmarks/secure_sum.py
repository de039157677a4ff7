"""What the secure sum costs a site a round, and the server: measured, for some numbers of sites.

One site answers real rounds: it pays its ledger, draws its share of the noise, masks, stores and
signs. The other sites are there by their keys. The same rounds without masks are timed in turns
with them. Run it where the ledger will lie:

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

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dp_risk.privacy import keys
from dp_risk.privacy.account import Account
from dp_risk.privacy.accounting import Event
from dp_risk.privacy.ledger import Ledger
from dp_risk.privacy.plan import Purpose
from dp_risk.privacy.randomness import Randomness
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


def measure(folder: Path, count: int, dimension: int, rounds: int) -> dict[str, float]:
    """Return the median milliseconds of each part with `count` sites."""
    names = [f"site-{number:04d}" for number in range(count)]
    signing = {name: Ed25519PrivateKey.generate() for name in names}
    line = Line(
        purpose="training", rounds=rounds, clip_norm=1.0, noise_multiplier=NOISE,
        dimension=dimension, units=100_000,
    )  # fmt: skip
    terms = Terms(
        run=RUN, plan_digest=PLAN, min_sites=3, max_colluding=1, lines=(line,),
        roster={name: keys.public_hex(key) for name, key in signing.items()},
    )  # fmt: skip
    me, store = names[count // 2], RunKeys(folder / "runs")
    secrets = {name: Ed25519PrivateKey.generate().private_bytes_raw() for name in names}
    secrets[me] = store.secret(RUN)
    statements = [
        Enrolment.make(
            terms=terms, site=name, secret=secrets[name], sign=partial(keys.sign, signing[name])
        )
        for name in names
    ]
    start = time.perf_counter()
    session = Session.open(store, terms=terms, site=me, statements=statements)
    enrolling = time.perf_counter() - start
    ledger = Ledger.open(folder / "ledger", ACCOUNT, key=signing[me])
    event = Event(noise_multiplier=NOISE)
    schedule = [
        Purpose(name=name, split="train", event=event, rounds=rounds)
        for name in ("training", PLAIN)
    ]
    ledger.reserve(run=RUN, plan_digest=PLAN, schedule=tuple(schedule))

    def share(grid: ShareGrid) -> np.ndarray:
        return grid.release(np.zeros(dimension), Randomness.system())

    masked, plain, masks, unmasking = [], [], [], []
    pairs = {
        name: pair_key(secrets[me], me, name, public_of(secrets[name]), RUN)
        for name in names
        if name != me
    }
    for number in range(rounds):
        start = time.perf_counter()
        release = session.answer(
            ledger, purpose="training", r=number, participants=names, request="q", compute=share
        )
        masked.append(time.perf_counter() - start)
        start = time.perf_counter()
        where = {"run": RUN, "purpose": PLAIN, "round": number}
        ledger.pay(**where, plan_digest=PLAN, request="q")
        arrays = {"sum": share(line.grid(count, terms.max_colluding))}
        ledger.mint(**where, arrays=arrays)
        plain.append(time.perf_counter() - start)
        this = terms.round("training", number, names)
        start = time.perf_counter()
        mask(pairs, site=me, round=this)
        masks.append(time.perf_counter() - start)
        vectors = dict.fromkeys(names, release.arrays["masked"])
        start = time.perf_counter()
        unmask(vectors, this)
        unmasking.append(time.perf_counter() - start)
    ledger.close_file()
    return {
        "sites": count,
        "round_ms": milliseconds(masked),
        "round_without_masks_ms": milliseconds(plain),
        "masks_ms": milliseconds(masks),
        "server_unmask_ms": milliseconds(unmasking),
        "enrol_ms": milliseconds([enrolling]),
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
    for count in options.sites:
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
            "by_sites": found,
        }
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
