"""Whether the entries of a ledger add up: everything that its owner could have miscounted.

Links and signatures say who wrote a chain; this says that what was written follows from the
founding entry. Every total is computed anew from the events, at the founding entry's order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from dp_risk.privacy.accounting import Filter
from dp_risk.privacy.entries import GARBLED, REKEY, Entry
from dp_risk.privacy.schedule import MAX_RUNS, Purpose
from dp_risk.privacy.terms import Terms, rekeyed
from dp_risk.types import VerificationError

# Totals are sums of floating point numbers; another library may round the last digits otherwise.
_RELATIVE, _ABSOLUTE = 1e-9, 1e-12
# What version 1 fixed at its opening; "key", "splits" and "partition" came later.
_FIXED = ("dataset", "unit", "adjacency", "delta", "lifetime_epsilon", "public", "order")


class Replay:
    """What a chain comes to, entry by entry.

    Parameters
    ----------
    terms : Terms
        What the chain's own founding entry says.

    Attributes
    ----------
    lifetime_epsilon : float
        The budget in force after the last entry.
    retired : bool
        Whether the ledger is retired.
    terms : Terms
        With the key, and the partition under it, that are in force after the last entry.
    """

    def __init__(self, terms: Terms) -> None:
        self._terms = self.terms = terms
        self._keys = {terms.key}
        self.lifetime_epsilon = terms.account.lifetime_epsilon
        self.retired = False
        self._totals = dict.fromkeys(terms.account.splits, 0.0)
        self._before = dict(self._totals)
        self._founded = False
        self._runs: set[str] = set()
        self._open: str | None = None
        self._schedule: dict[str, Purpose] = {}
        self._paid: dict[str, int] = {}
        self._last: dict[str, int] = {}
        self._unanswered: set[tuple[str, str, int]] = set()

    @classmethod
    def of_run(cls, terms: Terms, reservation: Entry) -> Replay:
        """Start at one run's reservation, from the totals that it says there were.

        Raises
        ------
        VerificationError
            If these are none.
        """
        replay = cls(terms)
        try:
            replay._totals = terms.totals(reservation, "filter_before")
            good = all(0 <= total < math.inf for total in replay._totals.values())
        except GARBLED:
            good = False
        if not good:
            raise _broken(reservation, "it starts from impossible totals")
        replay._founded = True
        return replay

    def run(self, entries: Iterable[Entry]) -> Replay:
        """Follow a chain whose links hold: a whole one, or from a reservation to its close.

        Raises
        ------
        VerificationError
            Naming the first entry that does not follow from those before it.
        """
        steps = {
            "open": self._opened, "migrate": self._migrated, "reserve": self._reserved,
            "charge": self._charged, "release": self._released, "close": self._closed,
            "raise": self._raised, "retire": self._retire, REKEY: self._rekeyed,
        }  # fmt: skip
        for entry in entries:
            try:
                if self.retired:
                    raise _Wrong("the ledger is retired")
                if entry.kind not in steps:
                    raise _Wrong("it is of no known kind")
                steps[entry.kind](entry)
                self._stated(entry)
            except _Wrong as wrong:
                raise _broken(entry, str(wrong)) from None
            except GARBLED:
                raise _broken(entry, "it is not well formed") from None
        return self

    @property
    def _filter(self) -> Filter:
        return Filter(
            lifetime_epsilon=self.lifetime_epsilon,
            delta=self._terms.account.delta,
            order=self._terms.order,
        )

    def _stated(self, entry: Entry) -> None:
        stated, filter = self._terms.totals(entry), self._filter
        if not self._equal(stated, self._totals):
            raise _Wrong("its totals are not what the events cost")
        for split, total in self._totals.items():
            if not filter.epsilon(total) <= self.lifetime_epsilon * (1 + _RELATIVE):
                raise _Wrong(f"the lifetime budget of {split} is exceeded")

    def _equal(self, found: Mapping[str, float], expected: Mapping[str, float]) -> bool:
        return all(
            math.isclose(found[split], total, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)
            for split, total in expected.items()
        )

    def _after(self, before: Mapping[str, float], rounds: Mapping[str, int]) -> dict[str, float]:
        after, filter = dict(before), self._filter
        for name, count in rounds.items():
            line = self._schedule[name]
            if line.event.noise_multiplier:
                after[line.split] += count * filter.cost(line.event)
            elif not self._terms.account.public:
                raise _Wrong("an event without noise on data that is not public")
        return after

    def _opened(self, entry: Entry) -> None:
        self._found(entry, founding="key" in entry.body)

    def _migrated(self, entry: Entry) -> None:
        if self._founded:
            raise _Wrong("the ledger is of this version already")
        self._found(entry, founding=True)

    def _found(self, entry: Entry, *, founding: bool) -> None:
        said = self._terms.body()
        names = tuple(said) if founding else _FIXED
        if any(_plain(entry.body[name]) != _plain(said[name]) for name in names):
            raise _Wrong("it is about another account")
        if self._terms.order < 2:
            raise _Wrong("a filter has an order of at least 2")
        self._founded = founding

    def _reserved(self, entry: Entry) -> None:
        body = entry.body
        run = str(body["run"])
        if self._open is not None:
            raise _Wrong("another run is open")
        if run in self._runs or len(self._runs) >= MAX_RUNS:
            raise _Wrong("the run id was used before, or there are too many runs")
        lines = self._terms.schedule(entry)
        if self._founded and any(
            said["split"] != line.split for said, line in zip(body["schedule"], lines, strict=True)
        ):
            raise _Wrong("a line names a split without an account")
        self._schedule = {line.name: line for line in lines}
        if len(self._schedule) < len(lines):
            raise _Wrong("a purpose stands twice")
        if not self._equal(self._terms.totals(entry, "filter_before"), self._totals):
            raise _Wrong("it starts from other totals than those before it")
        self._before, self._open = self._totals, run
        self._paid, self._last = {}, {}
        self._runs.add(run)
        self._totals = self._after(self._before, {line.name: line.rounds for line in lines})

    def _charged(self, entry: Entry) -> None:
        run, purpose, round = _where(entry)
        line = self._schedule.get(purpose)
        if run != self._open or line is None or not 0 <= round < line.rounds:
            raise _Wrong("the charge is not in the open reservation")
        if entry.body["event"] != line.event.to_dict():
            raise _Wrong("the charge is for another event than the reserved one")
        if self._founded and entry.body["split"] != line.split:
            raise _Wrong("the charge is to another account than the reserved one")
        if round <= self._last.get(purpose, -1):
            raise _Wrong("the round was charged before, or is out of order")
        self._last[purpose] = round
        self._paid[purpose] = self._paid.get(purpose, 0) + 1
        self._unanswered.add((run, purpose, round))

    def _released(self, entry: Entry) -> None:
        # A run may be closed while its last round is computed: what is paid may still leave.
        if _where(entry) not in self._unanswered:
            raise _Wrong("what is released was not charged, or was released before")
        self._unanswered.remove(_where(entry))

    def _closed(self, entry: Entry) -> None:
        if self._open is None or entry.body["run"] != self._open:
            raise _Wrong("the run is not open")
        if entry.body["paid"] != self._paid:
            raise _Wrong("the rounds that it says were paid are not those that were")
        self._totals = self._after(self._before, self._paid)
        self._open, self._schedule = None, {}

    def _raised(self, entry: Entry) -> None:
        was, now = entry.body["was"], float(entry.body["lifetime_epsilon"])
        if was != self.lifetime_epsilon or not was < now < math.inf:
            raise _Wrong("a raise goes up from the budget in force")
        self.lifetime_epsilon = now

    def _rekeyed(self, entry: Entry) -> None:
        terms = rekeyed(self._terms, entry)
        if self._open is not None or entry.body["lifetime_epsilon"] != self.lifetime_epsilon:
            raise _Wrong("a run is open, or the budget is another one")
        if entry.body["was"] != self.terms.key or terms.key in self._keys:
            raise _Wrong("it follows another key, or the new one was in force before")
        # What they digest cannot be compared: the key of the digests is another one.
        if set(terms.account.partition) != set(self._terms.account.partition):
            raise _Wrong("it says other parts of who is a unit")
        self.terms = terms
        self._keys.add(terms.key)

    def _retire(self, entry: Entry) -> None:
        if self._open is not None or entry.body["lifetime_epsilon"] != self.lifetime_epsilon:
            raise _Wrong("a run is open, or the budget is another one")
        self.retired = True


class _Wrong(Exception):
    pass


def _broken(entry: Entry, why: str) -> VerificationError:
    return VerificationError(f"ledger entry {entry.sequence} does not hold: {why}")


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _where(entry: Entry) -> tuple[str, str, int]:
    body = entry.body
    if type(body["round"]) is not int:
        raise _Wrong("a round is a whole number")
    return str(body["run"]), str(body["purpose"]), body["round"]
