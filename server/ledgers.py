"""What the sites' ledgers say of a run, signed, beside its record: `ledgers/<site>.json`.

A site that lies, or is away when the run is closed, has no statement; the record says why.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dp_risk.federation import files
from dp_risk.privacy import run_statement
from dp_risk.privacy.entries import GARBLED
from dp_risk.privacy.plan import Plan
from dp_risk.privacy.release import canonical
from dp_risk.privacy.run_statement import CLOSING
from dp_risk.types import Adjacency, VerificationError
from server.budget import SiteView

FOLDER = "ledgers"
SCHEMA_VERSION = 1
KIND = "ledger of a run"
_NAME = re.compile(r"\w[\w.-]{0,99}", re.ASCII)
# A run has a reservation, a close, and perhaps a raised budget in between.
_MORE_ENTRIES, _MORE_CHARACTERS, _CHARACTERS = 12, 40_000, 1500
# A statement stands in the record: room for hundreds of amendments and rotations.
_MOST_OF_A_STATEMENT = 500_000


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What one site's ledger says of the run.

    Parameters
    ----------
    statement : mapping or None
        Its statement, which holds; None where there is none.
    entries : sequence of mapping
        The entries that go with it.
    missing : str or None
        Why there is no statement.
    """

    statement: Mapping[str, Any] | None = None
    entries: Sequence[Mapping[str, Any]] = ()
    missing: str | None = None


def judge(plan: Plan, site: str, view: SiteView | None, released: Mapping[str, int]) -> Evidence:
    """Return the statement that a site gave when the run was closed, if it holds.

    Whatever a site sends, this returns.

    Parameters
    ----------
    plan : Plan
        Of the run.
    site : str
        Whose statement it should be.
    view : SiteView or None
        What the site stated at the close; None where it was away.
    released : mapping of str to int
        Releases that came from it, by purpose.
    """
    if view is None:
        return Evidence(missing="it was away when the run was closed")
    said = view.statement.get(CLOSING)
    if said is None:
        return Evidence(missing="it gave none: its program is older, or does not know the run")
    try:
        _check(plan, site, said, released)
    except (VerificationError, RecursionError, *GARBLED) as error:
        known = isinstance(error, VerificationError)
        return Evidence(missing=str(error) if known else "the run statement is not well formed")
    return Evidence(statement=said["statement"], entries=said["entries"])


def _check(plan: Plan, site: str, said: Any, released: Mapping[str, int]) -> None:
    if not isinstance(said, dict) or set(said) != {"statement", "entries"}:
        raise VerificationError("the run statement is not well formed")
    if not _NAME.fullmatch(site):
        raise VerificationError("the site's name is no name of a file")
    most = 2 * sum(line.rounds for line in plan.schedule) + _MORE_ENTRIES
    entries = said["entries"]
    characters = sum(len(entry["text"]) for entry in entries[: most + 1])
    size = len(canonical(said["statement"]))
    if (
        len(entries) > most
        or characters > _CHARACTERS * most + _MORE_CHARACTERS
        or size > _MOST_OF_A_STATEMENT
    ):
        raise VerificationError("the run statement is longer than the run")
    found = run_statement.check(said["statement"], entries)
    account = found.terms.account
    for good, why in (
        (found.site == site, "of another site"),
        (found.run == plan.run, "of another run"),
        (found.terms.key == plan.participants.get(site), "signed with another key"),
        (found.plan == plan.digest and found.schedule == plan.schedule, "of another plan"),
        (
            (account.dataset, account.unit, account.adjacency)
            == (plan.dataset, plan.unit, Adjacency.ADD_REMOVE)
            and (account.delta == plan.delta or not plan.private),
            "of another account",
        ),
        (
            all(found.paid.get(name, 0) >= count for name, count in released.items()),
            "of fewer charges than releases came",
        ),
    ):
        if not good:
            raise VerificationError(f"the run statement is {why}")


def collect(
    folder: Path,
    plan: Plan,
    views: Mapping[str, SiteView],
    paid: Mapping[str, Iterable[tuple[str, int]]],
) -> dict[str, Evidence]:
    """Judge the statements of all sites; write those that hold, with their entries.

    Parameters
    ----------
    folder : Path
        The run folder.
    plan : Plan
        Of the run.
    views : mapping of site to SiteView
        What the sites stated at the close.
    paid : mapping of site to iterable of (str, int)
        Purpose and round of every release that came from it.
    """
    evidence = {
        site: judge(plan, site, views.get(site), Counter(name for name, _ in paid.get(site, ())))
        for site in sorted(plan.participants)
    }
    place = folder / FOLDER
    # A server that was killed here leaves a part of them.
    shutil.rmtree(place, ignore_errors=True)
    for site, one in evidence.items():
        if one.statement is None:
            continue
        place.mkdir(exist_ok=True)
        whole = {
            "schema_version": SCHEMA_VERSION,
            "kind": KIND,
            "statement": one.statement,
            "entries": one.entries,
        }
        files.write(place / f"{site}.json", json.dumps(whole, indent=1) + "\n")
    return evidence
