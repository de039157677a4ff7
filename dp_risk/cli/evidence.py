"""What the sites signed of a run: their ledgers' heads, and statements with the run's entries."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dp_risk.cli import planned
from dp_risk.cli.folders import parse
from dp_risk.cli.planned import RELATIVE, Notes, check_price, same_charges, same_epsilon
from dp_risk.privacy.accounting import epsilon, rdp
from dp_risk.privacy.entries import verify_head
from dp_risk.privacy.events import decode
from dp_risk.privacy.plan import Plan
from dp_risk.privacy.run_statement import Evidence
from dp_risk.privacy.run_statement import check as check_statement
from dp_risk.privacy.schedule import costs
from dp_risk.types import VerificationError
from server.ledgers import FOLDER, KIND, SCHEMA_VERSION


def check(folder: Path, notes: Notes) -> None:
    """Check what the sites signed against a run's record.

    Parameters
    ----------
    folder : Path
        The run folder.
    notes : Notes
        What is told.

    Raises
    ------
    VerificationError
        Naming the first thing that does not hold.
    """
    record = parse((folder / "run.json").read_text())
    sites = record.get("sites", [])
    signed = [site for site in sites if site.get("statement") is not None]
    plan = planned.check(folder, record, notes, signed=bool(signed))
    _heads(sites, notes)
    _no_others(folder, [str(site["site"]) for site in signed])
    for site in signed:
        _statement(folder, record, site, plan, notes)
    if signed:
        if record["epsilon_lifetime"] != max(site["epsilon_lifetime"] for site in sites):
            raise VerificationError("epsilon_lifetime: not that of the site that spent most")
        _public(record, signed)
        _charges(record)
        notes.holds(
            f"{len(signed)} ledger statements hold: signatures, entries, charges, and each gives "
            "the run's epsilon again"
        )
    for site in sites:
        if site.get("statement") is None:
            why = site.get("no_statement", "the record has none, as older programs wrote it")
            notes.missing(f"what {site['site']} charged: no statement: {why}")
    if not sites and record.get("epsilon_spent") is not None:
        notes.missing("what was charged: the record names no site")
    notes.missing(
        "what the ledgers held before this run, and since (dp-risk ledger verify, at each site or "
        "on its export)"
    )
    if sites:
        alone = "sizes, model and utility"
        if not (plan and signed):
            alone = f"which sites took part, trust, steps, {alone}"
        notes.missing(f"what only the record's signer says: {alone}")
        notes.missing("whether the sites read these rows and drew this noise: no file shows it")


def one_key_each(folder: Path, signers: Mapping[str, str]) -> None:
    """Check that nobody speaks for a site but itself: a trusted key does not vouch for two.

    Parameters
    ----------
    folder : Path
        The run folder.
    signers : mapping of str to str
        The public keys that signed its files, by file.

    Raises
    ------
    VerificationError
        If a site's key is that of another site, or of who signed the folder.
    """
    taken = dict.fromkeys(signers.values(), "whoever signed the folder")
    for site in parse((folder / "run.json").read_text()).get("sites", []):
        # Records of older runs hold no keys.
        name, key = str(site["site"]), site.get("key")
        if key is not None and str(key) in taken:
            raise VerificationError(f"the key of {name} is also that of {taken[str(key)]}")
        taken[str(key)] = name


def _heads(sites: Sequence[Mapping[str, Any]], notes: Notes) -> None:
    # Records of older runs hold no signatures.
    signed = [site for site in sites if "ledger_signature" in site]
    for site in signed:
        if not verify_head(site["key"], site["ledger_head"], site["ledger_signature"]):
            raise VerificationError(f"the ledger head of {site['site']} is not signed by its key")
    if len(signed) < len(sites):
        notes.missing(f"the ledger heads of {len(sites) - len(signed)} sites: not signed")
    if not signed:
        return
    notes.holds(f"{len(signed)} ledger heads are signed by the keys that the record names")
    known = sum(notes.known([site["key"]]) for site in signed)
    if known < len(signed):
        notes.missing(f"whether {len(signed) - known} of these keys are the sites' own")
    else:
        notes.holds("all of them are keys that you trust")


def _no_others(folder: Path, sites: Sequence[str]) -> None:
    place = folder / FOLDER
    names = {path.name for path in place.iterdir()} if place.exists() else set()
    others = sorted(names - {f"{site}.json" for site in sites})
    away = sorted({f"{site}.json" for site in sites} - names)
    if away:
        # Also what a name with a path in it would lead to.
        raise VerificationError(f"{place}: a statement of the record is not there: {away[0]}")
    if others:
        raise VerificationError(f"{place / others[0]}: of no site whose statement the record has")


def _statement(
    folder: Path,
    record: Mapping[str, Any],
    site: Mapping[str, Any],
    plan: Plan | None,
    notes: Notes,
) -> None:
    path = folder / FOLDER / f"{site['site']}.json"
    kept = parse(path.read_text())
    if (kept["schema_version"], kept["kind"]) != (SCHEMA_VERSION, KIND):
        raise VerificationError(f"{path}: not the ledger of a run, or of another version")
    try:
        found = check_statement(kept["statement"], kept["entries"])
    except VerificationError as error:
        raise VerificationError(f"{path}: {error}") from None
    why = _disagrees(record, site, kept["statement"], found)
    if why is not None:
        raise VerificationError(f"{path}: {why} than run.json says")
    if plan is not None and plan.participants[found.site] not in (found.terms.key, *found.earlier):
        raise VerificationError(f"{path}: signed by another key than the plan names")
    if site["ledger_head"] != found.head:
        if site["ledger_head"] in {entry["hash"] for entry in kept["entries"]}:
            raise VerificationError(f"{path}: run.json names an earlier head of this ledger")
        notes.missing(
            f"the budgets of {site['site']}: its ledger moved on before they were told, and they "
            "are only compared with what its statement says was spent"
        )
    if found.earlier and not notes.known([found.terms.key]) and notes.known(found.earlier):
        notes.holds(
            f"the key of {found.site} follows one that you trust, which signed for it: "
            f"{found.terms.key}"
        )


def _disagrees(
    record: Mapping[str, Any], site: Mapping[str, Any], statement: Any, found: Evidence
) -> str | None:
    """Return in what a statement, which holds, differs from the record; None where in nothing."""
    account = found.terms.account
    terms = [record[name] for name in ("dataset", "unit", "adjacency")]
    for differs, why in (
        (statement != site["statement"], "another statement"),
        ((found.site, found.run) != (site["site"], record["run"]), "another site or run"),
        (found.terms.key != site["key"], "another key"),
        (found.plan != record["plan"], "another plan"),
        ([account.dataset, account.unit, account.adjacency] != terms, "another account"),
        (not same_charges(found.schedule, record["charges"]), "other charges"),
        (not _same_books(statement, site, found), "other budgets"),
    ):
        if differs:
            return why
    # Last, because it takes time.
    check_price(found.schedule)
    if not _same_epsilon(found, record):
        return "another epsilon"
    if site["epsilon_spent"] != record["epsilon_spent"]:
        return "another epsilon of this site"
    return None


def _charges(record: Mapping[str, Any]) -> None:
    """Check what the record says of each charge against its event, which the sites signed."""
    delta, charges = record["delta"], record["charges"]
    private = record["epsilon_by_split"] is not None
    events = [decode(line["event_json"]) for line in charges]
    weights = [rdp(event, 2) if private else 0.0 for event in events]
    for line, event, weight in zip(charges, events, weights, strict=True):
        account = sum(
            w for x, w in zip(charges, weights, strict=True) if x["split"] == line["split"]
        )
        share = weight / account if account else None
        cost = epsilon([event], delta) if private else None
        if line["event"] != str(event) or not (
            _close(line["epsilon"], cost) and _close(line["share"], share)
        ):
            raise VerificationError(f"charge {line['purpose']}: not what its event costs")


def _close(said: Any, expected: float | None) -> bool:
    if said is None or expected is None:
        return said is expected
    return math.isclose(said, expected, rel_tol=RELATIVE)


def _same_books(statement: Any, site: Mapping[str, Any], found: Evidence) -> bool:
    """Whether the site's budgets are those it signed, or later ones of the same books."""
    before = max(one["used"] for one in statement["balances_before"].values())
    if site["lifetime_used_before"] > before:
        return False
    balances = statement["balances"]
    figures = {
        "epsilon_lifetime_left": min(one["left_epsilon"] for one in balances.values()),
        "epsilon_lifetime": max(one["spent_epsilon"] for one in balances.values()),
        "lifetime_used": max(one["used"] for one in balances.values()),
        "epsilon_lifetime_budget": statement["lifetime_epsilon"],
        "ledger_entries": statement["entries"],
        "accounts": balances,
        "amendments": statement["amendments"],
    }
    if site["ledger_head"] == found.head:
        return all(site[name] == value for name, value in figures.items())
    # The ledger has moved on since: nothing of what was spent comes back.
    known = len(statement["amendments"])
    return (
        site["ledger_entries"] > statement["entries"]
        and site["epsilon_lifetime"] >= figures["epsilon_lifetime"]
        and site["amendments"][:known] == statement["amendments"]
        and (
            len(site["amendments"]) > known
            or site["epsilon_lifetime_budget"] == statement["lifetime_epsilon"]
        )
    )


def _public(record: Mapping[str, Any], signed: Sequence[Mapping[str, Any]]) -> None:
    """Check that what was read without a charge was, as every site signed, public."""
    exact = [record.get("utility_source"), *(one["source"] for one in record.get("subgroups", ()))]
    private = [site["site"] for site in signed if not site["statement"]["account"]["public"]]
    if "exact" in exact and private:
        raise VerificationError(f"exact figures, but the data of {private[0]} is not public")


def _same_epsilon(found: Evidence, record: Mapping[str, Any]) -> bool:
    """Whether the reserved events cost what the record says: their PLD, split by split."""
    said = record["epsilon_by_split"]
    if said is None:
        # Nothing was protected, and nothing is claimed.
        return record["epsilon_spent"] is None and not any(
            line.event.noise_multiplier for line in found.schedule
        )
    if found.terms.account.delta != record["delta"]:
        return False
    return same_epsilon(costs(found.schedule, record["delta"]), record)
