"""What the sites signed of a run: their ledgers' heads, and statements with the run's entries."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from dp_risk.cli.folders import parse
from dp_risk.privacy.accounting import epsilon, rdp
from dp_risk.privacy.entries import GARBLED, verify_head
from dp_risk.privacy.events import Event, decode
from dp_risk.privacy.plan import Plan
from dp_risk.privacy.run_statement import Evidence
from dp_risk.privacy.run_statement import check as check_statement
from dp_risk.privacy.schedule import PURPOSES, Purpose, costs
from dp_risk.types import VerificationError
from server.ledgers import FOLDER, KIND, SCHEMA_VERSION

# Settings that a plan and the record call the same.
_PLANNED = (
    *("run", "dataset", "model", "trust", "unit", "delta", "clip_norm", "rounds", "stable_ids"),
    *("max_records_per_account", "max_sites_per_unit", "min_sites", "max_colluding"),
    *("randomness", "seed"),
)
# Another version of the accountant may round its grid otherwise.
_RELATIVE = 1e-6
# No plan comes near: beyond these an epsilon is in the hundreds, or takes minutes to compute.
_LEAST_NOISE, _MOST_USES, _MOST_LOSS = 0.1, 10**6, 1e3


class Notes(Protocol):
    """Takes lines of what was checked and what was not."""

    def holds(self, line: str) -> None:
        """Note what was checked."""
        ...

    def missing(self, line: str) -> None:
        """Note what could not be checked."""
        ...

    def known(self, keys: Iterable[str]) -> bool:
        """Whether one of these keys was given."""
        ...


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
    planned = _plan(folder, record, notes)
    _heads(sites, notes)
    signed = [site for site in sites if site.get("statement") is not None]
    _no_others(folder, [str(site["site"]) for site in signed])
    for site in signed:
        _statement(folder, record, site, notes)
    if signed:
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
        if not (planned and signed):
            alone = f"which sites took part, trust, steps, {alone}"
        notes.missing(f"what only the record's signer says: {alone}")
        notes.missing("whether the sites read these rows and drew this noise: no file shows it")


def _plan(folder: Path, record: Mapping[str, Any], notes: Notes) -> bool:
    """Check the record against the plan whose digest the sites signed; return whether there is one.

    Raises
    ------
    VerificationError
        Naming the first setting in which they differ.
    """
    path = folder / "plan.json"
    if not path.exists():
        notes.missing("the plan that the sites signed the digest of: older programs kept none")
        return False
    try:
        plan = Plan.from_dict(parse(path.read_text())["plan"])
    except GARBLED:
        raise VerificationError(f"{path}: does not hold: no plan") from None
    if plan.digest != record["plan"]:
        raise VerificationError(f"{path}: not the plan whose digest run.json names")
    settings = {
        **{name: getattr(plan, name) for name in _PLANNED},
        "epsilon_target": plan.epsilon,
        "sigma": plan.noise_multiplier,
        "q": plan.sampling_rate,
        "steps": plan.rounds * plan.steps_per_round,
        "spare_rounds": plan.spares,
    }
    for name, value in settings.items():
        if record[name] != value:
            raise VerificationError(f"{path}: {name} is another than run.json says")
    names = {str(site["site"]) for site in record["sites"]}
    if names != set(plan.participants):
        raise VerificationError(f"{path}: other sites take part than run.json says")
    notes.holds("run.json has the settings and the sites of the plan that the sites signed")
    return True


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
    folder: Path, record: Mapping[str, Any], site: Mapping[str, Any], notes: Notes
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
        (not _same_charges(found.schedule, record["charges"]), "other charges"),
        (not _same_books(statement, site), "other budgets"),
    ):
        if differs:
            return why
    # Last, because it takes time.
    _check_price(found.schedule)
    if not _same_epsilon(found, record):
        return "another epsilon"
    if site["epsilon_spent"] != record["epsilon_spent"]:
        return "another epsilon of this site"
    return None


def _check_price(schedule: Sequence[Purpose]) -> None:
    """Refuse charges that no plan has, before they are priced.

    A plan has one line a purpose, and one of them is sampled; without sampling any price is a
    formula.

    Raises
    ------
    VerificationError
        If there are more, or any takes too long to price.
    """
    totals = [line.total for line in schedule]
    events = [event for event in totals if isinstance(event, Event)]
    sampled = sum(event.sampling_rate < 1 for event in events)
    dear = sampled and any(map(_dear, events))
    if dear or sampled > 1 or len(schedule) > len(PURPOSES):
        raise VerificationError("its charges are none that a plan can have")


def _dear(event: Event) -> bool:
    noise = event.noise_multiplier
    if noise == 0:
        return False
    if noise < _LEAST_NOISE or event.count > _MOST_USES:
        return True
    # Two bounds of the mean privacy loss: it is convex in the sampling rate, and grows with orders.
    loss = event.sampling_rate * event.count / (2 * noise**2)
    return min(loss, rdp(event, 2)) > _MOST_LOSS


def _same_charges(schedule: Sequence[Purpose], charges: Sequence[Mapping[str, Any]]) -> bool:
    said = [(line["split"], line["purpose"], line["event_json"]) for line in charges]
    return said == [(line.split, line.name, line.total.to_dict()) for line in schedule]


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
    return math.isclose(said, expected, rel_tol=_RELATIVE)


def _same_books(statement: Any, site: Mapping[str, Any]) -> bool:
    """Whether the site's budgets are those it signed; a head of another moment says nothing."""
    if site["ledger_head"] != statement["head"]:
        return True
    balances = statement["balances"]
    figures = (
        ("epsilon_lifetime_left", min(one["left_epsilon"] for one in balances.values())),
        ("epsilon_lifetime", max(one["spent_epsilon"] for one in balances.values())),
        ("lifetime_used", max(one["used"] for one in balances.values())),
    )
    return (
        (site["accounts"], site["amendments"]) == (balances, statement["amendments"])
        and (site["epsilon_lifetime_budget"], site["ledger_entries"])
        == (statement["lifetime_epsilon"], statement["entries"])
        and all(site[name] == value for name, value in figures)
    )


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
    expected = costs(found.schedule, record["delta"])
    return (
        set(said) == set(expected)
        and all(math.isclose(said[s], expected[s], rel_tol=_RELATIVE) for s in said)
        and math.isclose(record["epsilon_spent"], max(expected.values()), rel_tol=_RELATIVE)
    )
