"""What entries say, as values: the terms of a ledger, its runs, totals and amendments."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dp_risk.privacy.account import Account, Amendment, Balance
from dp_risk.privacy.accounting import Filter
from dp_risk.privacy.chain import Chain
from dp_risk.privacy.entries import GARBLED, REKEY, Entry
from dp_risk.privacy.events import decode
from dp_risk.privacy.schedule import Purpose
from dp_risk.types import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run reserved, and how many rounds of each purpose it paid."""

    run: str
    plan: str
    time: str
    schedule: tuple[Purpose, ...]
    paid: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What the chain says that was fixed, and for which key.

    Parameters
    ----------
    account : Account
        With the lifetime budget of the opening, before any raise.
    order : int
        Order of the Renyi filter; never changes.
    key : str
        The site's public key, in hexadecimal.
    pays : str
        The split that entries of version 1 charged: they name none.
    """

    account: Account
    order: int
    key: str
    pays: str

    def __post_init__(self) -> None:
        if not self.account.partition:
            raise ConfigurationError("a ledger is founded by its site, which says who is a unit")

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Terms:
        """Decode the body of an "open" or "migrate" entry.

        Raises
        ------
        KeyError, ValueError, TypeError
            If it is no such body.
        """
        values = {field.name: body[field.name] for field in dataclasses.fields(Account)}
        plain = {"splits": tuple(values["splits"]), "partition": dict(values["partition"])}
        account = Account(**{**values, **plain})
        order, key = int(body["order"]), str(body["key"])
        return cls(account=account, order=order, key=key, pays=body.get("pays", account.splits[0]))

    def body(self) -> dict[str, Any]:
        """Encode for an entry."""
        return {**dataclasses.asdict(self.account), "order": self.order, "key": self.key}

    def totals(self, entry: Entry, name: str = "filter") -> dict[str, float]:
        """Return the filter's total of every split, as an entry says it."""
        value = entry.body[name]
        if not isinstance(value, Mapping):
            # Version 1 had one account.
            value = {self.pays: value}
        return {split: float(value.get(split, 0.0)) for split in self.account.splits}

    def schedule(self, reservation: Entry) -> tuple[Purpose, ...]:
        """Return the schedule of a "reserve" entry."""

        def split(line: Mapping[str, Any]) -> str:
            known = line.get("split") in self.account.splits
            return str(line["split"]) if known else self.pays

        return tuple(
            Purpose(
                name=line["name"],
                split=split(line),
                event=decode(line["event"]),
                rounds=int(line["rounds"]),
            )
            for line in reservation.body["schedule"]
        )


def read_terms(chain: Chain) -> Terms:
    """Return the terms that a chain states.

    Raises
    ------
    ConfigurationError
        If the entry that states them is damaged.
    """
    founding = chain.latest("migrate") or chain.at(0)
    try:
        if founding is None:
            raise ValueError
        return Terms.read(founding.body)
    except GARBLED:
        raise ConfigurationError(
            f"{chain.path}: the ledger cannot be used: entry 0 is damaged"
        ) from None


def in_force(chain: Chain, entries: int | None = None) -> Terms:
    """Return the terms of a chain with the key, and the partition under it, that are in force.

    Parameters
    ----------
    chain : Chain
        The chain.
    entries : int, optional
        When it had so many entries; None is now.

    Raises
    ------
    ConfigurationError
        If the entry that states them is damaged.
    """
    terms = read_terms(chain)
    rekeys = [e for e in chain.of(REKEY) if entries is None or e.sequence < entries]
    if not rekeys:
        return terms
    try:
        return rekeyed(terms, rekeys[-1])
    except GARBLED:
        raise ConfigurationError(
            f"{chain.path}: the ledger cannot be used: entry {rekeys[-1].sequence} is damaged"
        ) from None


def rekeyed(terms: Terms, entry: Entry) -> Terms:
    """Return terms under the key that a "rekey" entry names."""
    account = dataclasses.replace(terms.account, partition=dict(entry.body["partition"]))
    return dataclasses.replace(terms, key=str(entry.body["key"]), account=account)


def lines_of(schedule: tuple[Purpose, ...]) -> list[dict[str, Any]]:
    """Encode a schedule for a "reserve" entry."""
    return [
        {
            "name": line.name,
            "split": line.split,
            "event": line.event.to_dict(),
            "rounds": line.rounds,
        }
        for line in schedule
    ]


def balance(filter: Filter, spent: float) -> Balance:
    """Return where an account stands that has spent so much divergence."""
    epsilon = filter.epsilon(spent)
    used = spent / filter.capacity if filter.capacity > 0 else 1.0
    return Balance(
        spent_epsilon=epsilon,
        left_epsilon=max(0.0, filter.lifetime_epsilon - epsilon),
        used=min(1.0, used),
    )


def amendment_of(entry: Entry) -> Amendment:
    """Decode a "raise", "retire" or "rekey" entry."""
    body = entry.body
    return Amendment(
        sequence=entry.sequence,
        time=entry.time,
        kind=entry.kind,
        by=str(body["by"]),
        reason=str(body["reason"]),
        lifetime_epsilon=float(body["lifetime_epsilon"]),
    )
