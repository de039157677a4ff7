"""What a ledger says: accounts, runs, amendments. Nothing here writes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping

from dp_risk.privacy import seal
from dp_risk.privacy.account import Account, Amendment, State
from dp_risk.privacy.accounting import Filter
from dp_risk.privacy.answers import Answers
from dp_risk.privacy.chain import Chain
from dp_risk.privacy.entries import GARBLED, REKEY, Entry, Verified, check, raw
from dp_risk.privacy.replay import Replay
from dp_risk.privacy.schedule import Purpose
from dp_risk.privacy.terms import Run, Terms, amendment_of, balance, read_terms
from dp_risk.types import Refused, VerificationError


class Books:
    """What is read of a ledger, under the smaller one of the policy's and the chain's budget.

    Parameters
    ----------
    chain : Chain
        Its entries.
    terms : Terms
        What is in force.
    bound : float
        Lifetime budget that the policy says; infinite where there is no policy.
    """

    def __init__(self, chain: Chain, terms: Terms, bound: float) -> None:
        self._chain = chain
        self._answers = Answers(chain)
        self._terms = terms
        self._bound = bound

    @property
    def public_key(self) -> str:
        """The site's public key that is in force, in hexadecimal."""
        return self._terms.key

    @property
    def terms(self) -> Terms:
        """What was fixed at the opening, with the key and the partition that are in force."""
        return self._terms

    def _allowed(self) -> float:
        raised = self._chain.latest("raise")
        found = raised.body["lifetime_epsilon"] if raised else self._terms.account.lifetime_epsilon
        return float(found)

    @property
    def account(self) -> Account:
        """What was fixed at the opening, with the budget in force."""
        lifetime = min(self._bound, self._allowed())
        return dataclasses.replace(self._terms.account, lifetime_epsilon=lifetime)

    @property
    def filter(self) -> Filter:
        """The filter of every account: its order never changes."""
        account = self.account
        return Filter(
            lifetime_epsilon=account.lifetime_epsilon, delta=account.delta, order=self._terms.order
        )

    def entries(self) -> Iterator[Entry]:
        """Iterate over all entries in order."""
        return self._chain.entries()

    @property
    def last(self) -> Entry:
        """The last entry."""
        return self._chain.last()

    @property
    def state(self) -> State:
        """Where the accounts stand."""
        last, filter = self._chain.last(), self.filter
        reservation = self._open_reservation()
        return State(
            head=last.hash,
            signature=last.signature or "",
            entries=last.sequence + 1,
            open_run=reservation.body["run"] if reservation else None,
            lifetime_epsilon=filter.lifetime_epsilon,
            retired=self._retired,
            balances={
                split: balance(filter, spent) for split, spent in self._terms.totals(last).items()
            },
        )

    @property
    def _retired(self) -> bool:
        return self._chain.latest("retire") is not None

    def _open_reservation(self) -> Entry | None:
        reserve, close = self._chain.latest("reserve"), self._chain.latest("close")
        open = reserve and (close is None or close.sequence < reserve.sequence)
        return reserve if open else None

    def quote(self, schedule: tuple[Purpose, ...]) -> float:
        """Return the lifetime epsilon that the worst account would show after a schedule.

        An open reservation of another run is left out: reserving closes it first.

        Raises
        ------
        Refused
            If a line names a split that has no account.
        """
        after = self._after(self._settled(self._open_reservation()), schedule)
        return max(self.filter.epsilon(total) for total in after.values())

    def _after(
        self, before: Mapping[str, float], schedule: tuple[Purpose, ...]
    ) -> dict[str, float]:
        after, filter = dict(before), self.filter
        if len({line.name for line in schedule}) < len(schedule):
            raise Refused("a purpose stands twice in the schedule")
        for line in schedule:
            if line.split not in after:
                raise Refused(f"there is no account of the split {line.split}")
            if line.event.noise_multiplier:
                after[line.split] += line.rounds * filter.cost(line.event)
            elif not self._terms.account.public:
                after[line.split] = math.inf
        return after

    def _settled(self, reservation: Entry | None) -> dict[str, float]:
        """Return the filter's totals once the rounds of a reservation that never ran are back."""
        if reservation is None:
            return self._terms.totals(self._chain.last())
        paid, filter = self._answers.paid(reservation.body["run"]), self.filter
        totals = self._terms.totals(reservation, "filter_before")
        used = dict.fromkeys(totals, 0.0)
        for line in self._terms.schedule(reservation):
            if line.event.noise_multiplier:
                used[line.split] += paid.get(line.name, 0) * filter.cost(line.event)
        return {split: total + used[split] for split, total in totals.items()}

    def _reservation(self, run: str) -> Entry | None:
        found = self._chain.rows(
            "SELECT sequence FROM entry WHERE kind = 'reserve' AND json_extract(body, '$.run') = ?",
            run,
        )
        return self._chain.at(found[0][0]) if found else None

    def head_at(self, *, run: str, purpose: str, round: int) -> str | None:
        """Return the ledger's head when a round was released, or None."""
        entry = self._answers.entry(run, purpose, round)
        return None if entry is None else entry.hash

    def hash_at(self, sequence: int) -> str | None:
        """Return the head when an entry was the last, or None when there is no such entry.

        Whoever remembers a head sees by this whether an older copy was restored.
        """
        entry = self._chain.at(sequence)
        return None if entry is None else entry.hash

    def released(self, *, run: str, purpose: str, round: int) -> str | None:
        """Return the digest of what was released in a round, or None."""
        known = self._answers.request(run, purpose, round)
        return None if known is None else known[1]

    def rekeys(self) -> tuple[Entry, ...]:
        """Return every entry that named another key: they prove whose ledger this still is."""
        return tuple(self._chain.of(REKEY))

    def amendments(self) -> tuple[Amendment, ...]:
        """Return every raise, and the retirement: they go into every later report."""
        found = (*self._chain.of("raise"), *self._chain.of("retire"))
        return tuple(amendment_of(entry) for entry in found)

    def charged(self, run: str) -> tuple[Purpose, ...]:
        """Return what a run has paid so far, one line a purpose."""
        reservation = self._reservation(run)
        if reservation is None:
            return ()
        paid = self._answers.paid(run)
        return tuple(
            dataclasses.replace(line, rounds=paid[line.name])
            for line in self._terms.schedule(reservation)
            if paid.get(line.name)
        )

    def entries_of(self, run: str) -> tuple[Entry, ...]:
        """Return the entries from a run's reservation to its close; none before it is closed."""
        first = self._reservation(run)
        if first is None:
            return ()
        rows = self._chain.rows(
            "SELECT * FROM entry WHERE sequence BETWEEN ? AND (SELECT MIN(sequence) FROM entry "
            "WHERE kind = 'close' AND sequence > ?) ORDER BY sequence",
            first.sequence, first.sequence,
        )  # fmt: skip
        return tuple(map(raw, rows))

    def runs(self) -> tuple[Run, ...]:
        """Return every run, in order."""
        return tuple(
            Run(
                run=entry.body["run"],
                plan=entry.body["plan"],
                time=entry.time,
                schedule=self._terms.schedule(entry),
                paid=self._answers.paid(entry.body["run"]),
            )
            for entry in self._chain.of("reserve")
        )

    def enrolled(self, run: str) -> str | None:
        """Return the digest of the plan that an open run was reserved with, or None."""
        reservation = self._open_reservation()
        if reservation is None or reservation.body["run"] != run:
            return None
        return str(reservation.body["plan"])

    def audit(self) -> Verified:
        """Check all entries: links, signatures, and that every total follows from the events.

        Raises
        ------
        VerificationError
            Naming the first entry that does not hold.
        """
        verified = check(self.entries())
        Replay(read_terms(self._chain)).run(self.entries())
        return verified

    def verify(self) -> Verified:
        """Check everything that the file says, and its every byte where a seal covers them.

        Raises
        ------
        VerificationError
            Naming the first thing that does not hold.
        """
        path = self._chain.path
        try:
            with self._chain.snapshot():
                verified = self.audit()
                reservation = self._open_reservation()
                open_run = reservation.body["run"] if reservation else None
                self._answers.check(self.entries(), open_run)
                self._chain.check_file()
            sealed = seal.check(self._chain)
        except GARBLED as error:
            raise VerificationError(f"{path}: the ledger does not hold: {error}") from None
        return dataclasses.replace(verified, sealed=sealed)
