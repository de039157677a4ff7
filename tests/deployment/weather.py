"""One run of a real federation in a storm, and what is left of it."""

from __future__ import annotations

import json
import struct
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clients.site import LEDGER
from dp_risk.federation import files, node_keys
from dp_risk.federation.letters import FederationLetter
from dp_risk.federation.membership import LETTER
from tests.deployment.loopback import Loopback, loopback
from tests.deployment.processes import HOST, free_ports
from tests.deployment.storm import Proxy, Storm
from tests.federation import together

# A number that is in one row of one site, and nowhere else.
CANARY = 777.1357924680


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a storm left.

    Parameters
    ----------
    seed : int
        Of the storm.
    trust : str
        Of the run.
    finished : bool
        Whether the run came to its end with a signed record.
    reason : str
        What the operator was told, where it did not.
    seconds : float
        Duration, or how long it was waited for.
    injected : mapping of str to int
        Faults by kind.
    charges, spent : int
        Charges of all sites, and those of them whose release was never stored.
    abandoned, lost : int
        Rounds and answers, as the record says.
    problems : tuple of str
        What must not be: a round twice, a release without a charge, a leak.
    """

    seed: int
    trust: str
    finished: bool
    reason: str
    seconds: float
    injected: dict[str, int]
    charges: int
    spent: int
    abandoned: int
    lost: int
    problems: tuple[str, ...]


def endure(
    root: Path,
    *,
    seed: int,
    trust: str = "local",
    sites: int = 5,
    rounds: int = 20,
    seconds: float = 300.0,
    pause: tuple[float, float] = (0.5, 3.0),
) -> Outcome:
    """Run a federation of so many sites through a storm, and reconcile what is left.

    Parameters
    ----------
    root : Path
        A new folder.
    seed : int
        Of the storm.
    trust : str
        local or distributed.
    sites, rounds : int
        Of the run.
    seconds : float
        How long the storm lasts at most; the run then has as long again.
    pause : tuple of float
        Least and most seconds between two faults.
    """
    roster = together(sites, public=True, units=240)
    with loopback(root, sites=sites, seconds=3 * seconds, **roster) as federation:
        _plant(federation.site("site-00"))
        revoked = root / "revoked.key"
        node_keys.load_or_create(revoked)
        proxies = dict(zip(federation.sites, map(Proxy, free_ports(sites),
                           [federation.house.port] * sites), strict=True))  # fmt: skip
        for name, proxy in proxies.items():
            _redirect(federation, name, proxy.port)
        federation.start()
        place = federation.run(
            f"privacy.trust={trust}",
            f"federation.rounds={rounds}",
            f"federation.min_sites={sites - 1}",
            f"federation.spare_rounds={rounds}",
            "federation.deadline=20",
            f"federation.timeout={seconds}",
        )
        start, operator = time.monotonic(), federation.running.process("run")
        federation.wait_until(lambda: "is asked for" in _said(federation))
        storm = Storm(federation=federation, proxies=proxies, revoked=revoked, seed=seed)
        storm.rage(lambda: operator.poll() is not None, seconds=seconds, pause=pause)
        ended = _wait(operator, seconds)
        took = time.monotonic() - start
        for proxy in proxies.values():
            proxy.close()
        problems, charges, spent = _reconciled(federation)
        problems += [*storm.leaks, *_leaked(federation)]
        record = json.loads((place / "run.json").read_text()) if ended == 0 else {}
        log = _said(federation).strip().splitlines()
    return Outcome(
        seed=seed,
        trust=trust,
        finished=ended == 0,
        reason="" if ended == 0 else (log[-1] if log else "no word"),
        seconds=round(took, 1),
        injected=dict(storm.injected),
        charges=charges,
        spent=spent,
        abandoned=record.get("rounds_abandoned", 0),
        lost=record.get("answers_lost", 0),
        problems=tuple(problems),
    )


def _said(federation: Loopback) -> str:
    """Return what the operator was told."""
    return (federation.running.folder / "run.log").read_text()


def _wait(process: Any, seconds: float) -> int | None:
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.2)
    return process.poll()


def _plant(site: Path) -> None:
    """Put the canary into the last row of a site."""
    path = site / "rows.parquet"
    table = pq.read_table(path)
    amounts = table["amount"].to_pylist()
    amounts[-1] = CANARY
    pq.write_table(table.set_column(1, "amount", pa.array(amounts)), path)


def _redirect(federation: Loopback, name: str, port: int) -> None:
    """Let a site call the server through a port of its own."""
    path = federation.site(name) / LETTER
    letter = FederationLetter.read(files.read(path), str(path))
    moved = replace(letter, address=f"{HOST}:{port}")
    path.write_text(moved.signed(federation.house.key))


def _reconciled(federation: Loopback) -> tuple[list[str], int, int]:
    """Return what is wrong with the ledgers, all charges, and those without a stored release."""
    problems, charges, spent = [], 0, 0
    for site in federation.sites:
        if not (federation.site(site) / LEDGER).exists():
            continue
        entries = federation.entries(site)
        charged, released = (
            Counter(
                (e.body["run"], e.body["purpose"], e.body["round"])
                for e in entries
                if e.kind == kind
            )
            for kind in ("charge", "release")
        )
        twice = [key for key, count in (charged + released).items() if count > 2]
        twice += [key for counter in (charged, released) for key, n in counter.items() if n > 1]
        problems += [f"{site}: {key} twice" for key in twice]
        problems += [f"{site}: {key} released without a charge" for key in released - charged]
        if sum(e.kind == "reserve" for e in entries) > 1:
            problems.append(f"{site}: the run was reserved twice")
        charges += charged.total()
        spent += (charged - released).total()
    return problems, charges, spent


def _leaked(federation: Loopback) -> list[str]:
    """Return where the canary is, outside its site's folder."""
    texts = [f"{CANARY:.6f}".encode(), repr(CANARY).encode(), struct.pack("<d", CANARY)]
    found = []
    for folder in (federation.folder, federation.running.folder, federation.root / "run"):
        for path in folder.rglob("*"):
            if path.is_file() and any(text in path.read_bytes() for text in texts):
                found.append(f"the canary is in {path.name}")
    return found


def storms(outcomes: list[Outcome]) -> dict[str, Any]:
    """Return the figures of several storms together."""
    faults: Counter[str] = Counter()
    for outcome in outcomes:
        faults.update(outcome.injected)
    return {
        "runs": len(outcomes),
        "finished": sum(o.finished for o in outcomes),
        "faults": dict(sorted(faults.items())),
        "faults_total": faults.total(),
        "charges": sum(o.charges for o in outcomes),
        "spent_without_release": sum(o.spent for o in outcomes),
        "rounds_abandoned": sum(o.abandoned for o in outcomes),
        "answers_lost": sum(o.lost for o in outcomes),
        "problems": [p for o in outcomes for p in o.problems],
        "reasons": [o.reason for o in outcomes if not o.finished],
    }
