"""What a ledger says of one run that is over: a signed statement, and the run's part of the chain.

The statement alone goes into the run's record. With the entries from the run's reservation to its
close beside it, every hash, signature and total of the run can be checked, and no other run is
shown: what was charged before is only the figure that the reservation starts from.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dp_risk.privacy import keys
from dp_risk.privacy.account import Amendment
from dp_risk.privacy.accounting import Filter
from dp_risk.privacy.entries import CONTEXT as ENTRY
from dp_risk.privacy.entries import GARBLED, Entry, follow
from dp_risk.privacy.ledger import Ledger
from dp_risk.privacy.release import canonical
from dp_risk.privacy.replay import Replay
from dp_risk.privacy.schedule import Purpose
from dp_risk.privacy.terms import Terms, balance
from dp_risk.types import Adjacency, Unit, VerificationError

CONTEXT = "dp-risk run statement"
SCHEMA_VERSION = 1
KIND = "run statement"
# What a site calls it where it states how it stands after a run.
CLOSING = "closing"
_RELATIVE, _ABSOLUTE = 1e-9, 1e-12
_LONGEST, _LONGEST_TEXT, _MOST, _LARGEST_ORDER = 500, 20_000, 1000, 1024
_BALANCES = ("balances_before", "balances")


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a statement and its entries prove of one run at one site.

    Parameters
    ----------
    site, run, plan : str
        Names, and the digest of the plan that was reserved.
    terms : Terms
        What the account is, and the key that signed.
    schedule : tuple of Purpose
        What was reserved: its PLD is the run's epsilon.
    paid : mapping of str to int
        Rounds that were paid, by purpose.
    earlier : tuple of str
        Keys that were in force before, oldest first; each signed for the next.
    entries, head : int, str
        Number of entries up to the run's close, and the hash of the last.
    """

    site: str
    run: str
    plan: str
    terms: Terms
    schedule: tuple[Purpose, ...]
    paid: Mapping[str, int]
    earlier: tuple[str, ...]
    entries: int
    head: str


def make(ledger: Ledger, *, site: str, run: str) -> dict[str, Any] | None:
    """Return ``{"statement", "entries"}`` of a run; None where it is not over, or not of this key.

    Parameters
    ----------
    ledger : Ledger
        Open with the site's key. It always says the same of a run that is over, as long as the key
        is not rotated and the policy's budget stays.
    site : str
        What the site is called.
    run : str
        The run.
    """
    entries = ledger.entries_of(run)
    rotations = [
        entry for entry in ledger.rekeys() if entries and entry.sequence < entries[0].sequence
    ]
    if not entries or len(rotations) < len(ledger.rekeys()):
        return None
    body = _body(
        site=site,
        terms=ledger.terms,
        lifetime_epsilon=ledger.account.lifetime_epsilon,
        amendments=[a for a in ledger.amendments() if a.sequence < entries[-1].sequence],
        rotations=rotations,
        entries=entries,
    )
    signature = ledger.sign(CONTEXT, canonical(body))
    return {
        "statement": {**body, "signature": signature},
        "entries": [dataclasses.asdict(entry) for entry in entries],
    }


def check(statement: Any, entries: Any) -> Evidence:
    """Check a statement and the entries beside it, whoever made them.

    Parameters
    ----------
    statement, entries : object
        What `make` returned, decoded from JSON.

    Raises
    ------
    VerificationError
        Naming the first thing that does not hold, without a word of what was sent.
    """
    try:
        chain = [_entry(one) for one in _listed(entries)]
        said = {name: value for name, value in statement.items() if name != "signature"}
        terms = _terms(said)
        rotations = [_entry(one) for one in _few(said["rotations"])]
        amendments = [_amendment(one) for one in _few(said["amendments"])]
        _need(_text(said["site"]), "the site's name is none")
        _need(_number(said["lifetime_epsilon"]), "the lifetime budget is no number")
        known = follow(rotations) if rotations else (terms.key,)
        _need(known[-1] == terms.key, "the key is not the one that was rotated to")
        _check_slice(chain, terms, amendments, rotations)
        expected = _body(
            site=said["site"],
            terms=terms,
            lifetime_epsilon=said["lifetime_epsilon"],
            amendments=amendments,
            rotations=rotations,
            entries=chain,
        )
        _need(_same(said, expected), "it does not say what its entries say")
        good = keys.verify(terms.key, CONTEXT, canonical(said), str(statement["signature"]))
        _need(good, "the signature is wrong")
        return Evidence(
            site=said["site"],
            run=said["run"],
            plan=said["plan"],
            terms=terms,
            schedule=terms.schedule(chain[0]),
            paid=dict(chain[-1].body["paid"]),
            earlier=known[:-1],
            entries=said["entries"],
            head=said["head"],
        )
    except (RecursionError, *GARBLED):
        raise VerificationError("the run statement does not hold: it is not well formed") from None


def _body(
    *,
    site: str,
    terms: Terms,
    lifetime_epsilon: float,
    amendments: Sequence[Amendment],
    rotations: Sequence[Entry],
    entries: Sequence[Entry],
) -> dict[str, Any]:
    """Return what is signed: all that the entries do not say stands in the arguments."""
    first, last = entries[0], entries[-1]
    account, paid = terms.account, last.body["paid"]
    filter = Filter(lifetime_epsilon=lifetime_epsilon, delta=account.delta, order=terms.order)
    before, after = terms.totals(first, "filter_before"), terms.totals(last)
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "site": site,
        "run": first.body["run"],
        "plan": first.body["plan"],
        "account": {**dataclasses.asdict(account), "splits": list(account.splits)}
        | {"order": terms.order},
        "lifetime_epsilon": lifetime_epsilon,
        "charges": [
            {
                "purpose": line.name,
                "split": line.split,
                "event": str(line.event),
                "event_json": line.event.to_dict(),
                "rounds_reserved": line.rounds,
                "rounds_paid": paid.get(line.name, 0),
            }
            for line in terms.schedule(first)
        ],
        "balances_before": _balances(filter, before),
        "balances": _balances(filter, after),
        "amendments": [dataclasses.asdict(amendment) for amendment in amendments],
        "rotations": [dataclasses.asdict(entry) for entry in rotations],
        "first": first.sequence,
        "previous": first.previous,
        "entries": last.sequence + 1,
        "head": last.hash,
        "public_key": terms.key,
    }


def _balances(filter: Filter, totals: Mapping[str, float]) -> dict[str, dict[str, float]]:
    return {split: dataclasses.asdict(balance(filter, total)) for split, total in totals.items()}


def _same(said: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    """Whether two statements are one; balances may differ by the last digits of another library."""
    plain = [{k: v for k, v in one.items() if k not in _BALANCES} for one in (said, expected)]
    if set(said) != set(expected) or canonical(plain[0]) != canonical(plain[1]):
        return False
    return all(
        set(said[name]) == set(expected[name])
        and all(
            set(said[name][split]) == set(figures)
            and all(_close(said[name][split][what], figures[what]) for what in figures)
            for split, figures in expected[name].items()
        )
        for name in _BALANCES
    )


def _close(found: Any, expected: float) -> bool:
    return _number(found) and math.isclose(found, expected, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)


def _check_slice(
    chain: Sequence[Entry],
    terms: Terms,
    amendments: Sequence[Amendment],
    rotations: Sequence[Entry],
) -> None:
    """Check links, hashes, signatures and totals from a reservation to its close."""
    _need(bool(chain), "it has no entries")
    last = first = chain[0]
    for count, entry in enumerate(chain):
        linked = count == 0 or entry.previous == last.hash
        placed = entry.sequence == first.sequence + count
        ends = (entry.kind == "reserve") == (count == 0)
        ends &= (entry.kind == "close") == (count == len(chain) - 1)
        good = linked and placed and ends and entry.holds
        _need(good, f"the chain is broken at its entry {count}")
        signed = keys.verify(terms.key, ENTRY, entry.hash.encode(), str(entry.signature))
        _need(signed, f"its entry {count} is not signed by the site's key")
        last = entry
    _need(all(entry.sequence < first.sequence for entry in rotations), "a rotation is misplaced")
    _need(all(a.sequence < last.sequence for a in amendments), "an amendment is misplaced")
    raised = [a for a in amendments if a.kind == "raise" and a.sequence < first.sequence]
    lifetime = raised[-1].lifetime_epsilon if raised else terms.account.lifetime_epsilon
    account = dataclasses.replace(terms.account, lifetime_epsilon=lifetime)
    Replay.of_run(dataclasses.replace(terms, account=account), first).run(chain)


def _terms(said: Mapping[str, Any]) -> Terms:
    """Read the account of a statement; everything in it has its type and range."""
    account = dict(said["account"])
    _need(_text(account["dataset"]), "the dataset is no name")
    _need(account["unit"] in list(Unit), "the unit is none")
    _need(account["adjacency"] in list(Adjacency), "the adjacency is none")
    _need(_number(account["delta"]) and 0 < account["delta"] < 1, "delta is impossible")
    _need(_number(account["lifetime_epsilon"]), "the lifetime budget is no number")
    _need(isinstance(account["public"], bool), "public is no yes or no")
    order, parts = account["order"], account["partition"]
    _need(type(order) is int and 2 <= order <= _LARGEST_ORDER, "the order is impossible")
    _need(isinstance(parts, dict) and len(parts) <= 20, "the partition is none")
    _need(all(_text(part) and _text(value) for part, value in parts.items()), "a part is no text")
    _need(_text(said["public_key"]), "the key is none")
    return Terms.read({**account, "key": said["public_key"]})


def _listed(values: Any) -> Iterator[dict[str, Any]]:
    _need(isinstance(values, list), "a list is none")
    for value in values:
        _need(isinstance(value, dict), "a line is none")
        yield value


def _few(values: Any) -> list[dict[str, Any]]:
    found = list(_listed(values))
    _need(len(found) <= _MOST, "a list is too long")
    return found


def _entry(said: Mapping[str, Any]) -> Entry:
    entry = Entry(**said)
    texts = (entry.time, entry.kind, entry.previous, entry.hash, entry.signature)
    good = type(entry.sequence) is int and entry.sequence >= 0 and isinstance(entry.text, str)
    good = good and all(isinstance(text, str) and len(text) <= _LONGEST for text in texts)
    _need(good and len(entry.text) <= _LONGEST_TEXT, "an entry is not well formed")
    return entry


def _amendment(said: Mapping[str, Any]) -> Amendment:
    texts = (said["time"], said["kind"], said["by"], said["reason"])
    good = all(isinstance(text, str) and len(text) <= _LONGEST for text in texts)
    # Half of a character cannot be written to a page.
    good = good and not any("\ud800" <= c <= "\udfff" for text in texts for c in text)
    _need(good and type(said["sequence"]) is int, "an amendment is not well formed")
    _need(_number(said["lifetime_epsilon"]), "an amendment is not well formed")
    return Amendment(**said)


def _text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST and value.isprintable()


def _number(value: Any) -> bool:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    # Whole numbers first: one of 400 digits is no float.
    return plain and 0 <= value <= 1e9 and math.isfinite(value)


def _need(good: bool, why: str) -> None:
    if not good:
        raise VerificationError(f"the run statement does not hold: {why}")
