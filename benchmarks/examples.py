"""The three example reports of docs/examples, made anew.

    python benchmarks/examples.py --out docs/examples

A run on built-in data with its audit; a federation of processes on loopback that loses a site and
some rounds, with utility by subgroup; and a trainer with a planted defect, whose claim an audit
falsifies.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from dp_risk.cli.main import run as dp_risk
from tests.deployment.loopback import SERVER, Loopback
from tests.deployment.processes import free_ports, processes
from tests.planted.test_planted import DEFECTS

SITES, ROUNDS = 5, 20
DEFECT = "sigma off by a factor of 2"
REVIEW = (
    "report.owner='Risk models, EU'",
    "report.contact='risk-models@example.org'",
    "report.purpose='Ranking cases for human review, no automatic blocking.'",
    "report.review_by=2027-05-31",
)
DELTA = ("--delta", "1e-5")
SUBGROUPS = "evaluation.subgroups=[sex,race]"


def do(*words: str | Path, expected: int = 0) -> None:
    """Run one command in this process.

    Raises
    ------
    SystemExit
        If it ends with another code than expected.
    """
    code = dp_risk([str(word) for word in words])
    if code != expected:
        raise SystemExit(f"dp-risk {' '.join(map(str, words))}: exit {code}, expected {expected}")


def audited(place: Path, name: str, *overrides: str, expected: int = 0) -> Path:
    """Train and audit with one configuration; return the run folder with the audit in it."""
    run, audit = place / name, place / f"{name}-audit"
    shared = [*overrides, *REVIEW, f"sites.dir={place / 'sites'}", f"server.dir={place / 'server'}"]
    do("train", *shared, f"run.dir={run}")
    do("audit", *shared, f"run.dir={audit.name}", expected=expected)
    do("report", run, "--audit", audit, expected=expected)
    return run


def falsified(place: Path) -> Path:
    """Return the folder of a run of a trainer that adds half the noise it charges."""
    (defect,) = (one for one in DEFECTS if one.name == DEFECT)
    with pytest.MonkeyPatch.context() as patch:
        defect.plant(patch)
        overrides = ("privacy.epsilon=2", "audit=quick", "audit.seconds=20", *defect.overrides)
        return audited(place, "falsified", *overrides, expected=5)


def lost_site(place: Path) -> Path:
    """Return the folder of a run of a real federation from which a site goes and comes back."""
    place = place.resolve()  # each process has a folder of its own
    names, shards = [f"site-{i:02}" for i in range(SITES)], place / "shards"
    sites, house = place / "sites", place / "fed"
    schema = shards / "schema.yaml"
    do("data", "partition", "adult", "--sites", str(SITES), "--out", shards)
    about = ("--schema", schema, "--dataset", "adult", *DELTA)
    do("federation", "init", house, *about, "--port", str(free_ports(1)[0]))
    sites.mkdir()
    for name in names:
        rows = ("--data", shards / f"{name}.parquet")
        do("site", "init", sites / name, *rows, *about, "--trust", "distributed", "--subgroups")
    do("federation", "admit", house, *(sites / name / "site.json" for name in names))
    for name in names:
        do("site", "join", sites / name, house / "federation.json")
    with processes(place / "processes", seconds=600.0) as running:
        federation = Loopback(root=place, running=running, insecure=False)
        federation.start()
        run = federation.run(
            "privacy.trust=distributed", f"federation.rounds={ROUNDS}",
            "federation.timeout=20", "federation.spare_rounds=5",
            f"federation.min_sites={SITES - 1}", SUBGROUPS, *REVIEW,
        )  # fmt: skip
        federation.wait_until(lambda: _round(federation) >= ROUNDS // 3, seconds=120)
        federation.kill(names[-1])
        federation.wait_until(lambda: _offline(federation), seconds=120)
        federation.restart(names[-1])
        running.wait_for_exit("run")
        federation.kill(SERVER)
    audit = place / "audit"
    do(
        "audit",
        "privacy.epsilon=1",
        "privacy.trust=distributed",
        "data=adult",
        "data.delta=1e-5",
        "audit=quick",
        "audit.seconds=60",
        SUBGROUPS,
        *REVIEW,
        f"run.dir={audit.name}",
    )
    do("report", run, "--audit", audit, "--key", house / "federation.key")
    return run


def _round(federation: Loopback) -> int:
    with federation.client() as client:
        return max((run["round"] or 0 for run in client.status()["runs"]), default=0)


def _offline(federation: Loopback) -> bool:
    return any(event["event"] == "site offline" for event in federation.events())


def main(words: Sequence[str] | None = None) -> None:
    """Make the examples and copy their run folders."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("names", nargs="*", default=["demo", "lost_site", "falsified"])
    asked = parser.parse_args(words)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    out = asked.out.resolve()
    makers = {
        "demo": lambda place: audited(place, "demo", "privacy.epsilon=1"),
        "lost_site": lost_site,
        "falsified": falsified,
    }
    for name in asked.names:
        # Paths of this machine do not belong into a report.
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            made = makers[name](Path())
            target = out / name
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(made, target)
            print(f"{name}: {target}")


if __name__ == "__main__":
    main()
