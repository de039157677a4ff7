"""Real federations in storms: faults injected, runs finished, charges explained.

    python benchmarks/reliability.py --storms 6 --seconds 240

Each storm starts a federation of processes on loopback (a server, five sites, TLS, keys), lets an
operator ask for one run, and injects faults until it is over (tests/deployment/storm.py).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.deployment.weather import endure, storms


def main() -> None:
    """Run the storms that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--storms", type=int, default=4)
    parser.add_argument("--first", type=int, default=0, help="seed of the first")
    parser.add_argument("--sites", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=240.0, help="most seconds of one storm")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    outcomes = []
    for number in range(asked.first, asked.first + asked.storms):
        trust = ("local", "distributed")[number % 2]
        # What every process wrote is said at its end, for tests that fail.
        with (
            tempfile.TemporaryDirectory() as folder,
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stdout(nowhere),
        ):
            outcome = endure(
                Path(folder) / "storm",
                seed=number,
                trust=trust,
                sites=asked.sites,
                rounds=asked.rounds,
                seconds=asked.seconds,
            )
        outcomes.append(outcome)
        print(json.dumps(dataclasses.asdict(outcome)), flush=True)
    found = storms(outcomes)
    print(json.dumps(found, indent=2))
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=2) + "\n")
    sys.exit(bool(found["problems"]))


if __name__ == "__main__":
    main()
