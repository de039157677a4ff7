"""Asking for noisy sums over sites that may be lost, by a server that may be killed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from dp_risk.privacy.plan import Plan
from dp_risk.privacy.release import Release
from dp_risk.types import FederationError
from server.attendance import Attendance, listed
from server.combining import Asked, Question, Sum, combining
from server.journal import Entry, Journal

LOG = logging.getLogger("dp_risk.server")
_ALL = "all"


class Ask(Protocol):
    """The way to the sites for one round."""

    def __call__(
        self, question: Question, round: int, sites: Sequence[str], **more: Any
    ) -> dict[str, Release | str]:
        """Return by site the release that came, of this round and signed, or why there is none."""
        ...


class Summing:
    """Asks for sums, round by round, with sites that may be lost and a server that may be killed.

    Where too few answer, the same round is asked again of those that are silent, once they are
    back: what a site has stored costs nothing more. Where that does not help the round is
    abandoned, its charges stay, and a spare one follows.

    Parameters
    ----------
    plan : Plan
        The run's plan.
    attendance : Attendance
        The sites.
    ask : Ask
        The way to them.
    journal : Journal
        What the run has got so far.
    """

    def __init__(self, plan: Plan, attendance: Attendance, ask: Ask, journal: Journal) -> None:
        self._attendance = attendance
        self._ask = ask
        self._journal = journal
        self._kind = combining(plan)
        self._spares = {line.name: line.rounds - plan.needed[line.name] for line in plan.schedule}
        self.asked: Counter[str] = Counter()
        """Rounds that were asked so far, lost ones included, by purpose: the sites' charges."""
        self.abandoned: Counter[str] = Counter()
        """Rounds that were lost with a site, by purpose."""
        self.lost: Counter[str] = Counter()
        """Answers that did not come, by purpose."""
        self.paid: dict[str, set[tuple[str, int]]] = {site: set() for site in attendance.sites}
        """Purpose and round of every release that came, by site: it has charged for them."""
        self.dropped: Counter[tuple[str, str, str]] = Counter()
        """Answers that came and were not believed, by purpose, site and reason."""
        self._reasons: dict[str, str] = {}
        last = journal.last()
        if last is not None:
            # Known before the answers are read again: what the sites have paid for.
            self._restore(last.about["state"])

    @property
    def noises(self) -> float:
        """How often a sum over all sites holds the noise that is accounted."""
        return self._kind.noises

    def __call__(self, question: Question) -> Sum:
        """Ask, and return the sum; or return what the journal holds.

        Raises
        ------
        FederationError
            If too few sites answer, and no spare round is left.
        """
        if self._journal.replaying:
            entry = self._journal.next()
            self._restore(entry.about["state"])
            if entry.about["failed"] is not None:
                raise FederationError(entry.about["failed"])
            return _sum(entry)
        try:
            got = self._live(question)
        except FederationError as error:
            # A question that was given up is not asked again.
            about = {"purpose": question.purpose, "failed": str(error), "state": self._state}
            self._journal.answered(Entry(about=about))
            raise
        self._journal.answered(_entry(got, question, self._state))
        return got

    def _live(self, question: Question) -> Sum:
        opened = self._journal.opened()
        if opened is not None:
            self._restore(opened.about["state"])
            weights = None if question.weights is None else opened.arrays
            question = replace(question, weights=weights, more=opened.about["more"])
        while True:
            if opened is None:
                asked = self._open(question)
            else:
                about, opened = opened.about, None
                asked = Asked(
                    question=question, round=int(about["round"]), sites=tuple(about["sites"])
                )
            releases = self._releases(asked)
            if self._enough(releases, asked):
                break
            self._abandon(asked, releases)
        silent = [site for site in asked.sites if site not in releases]
        self.lost[question.purpose] += len(silent)
        self._attendance.lose(silent)
        dropped = {site: why for site, why in self._reasons.items() if site not in releases}
        return replace(self._kind.sum(releases, asked), dropped=dropped)

    def _open(self, question: Question) -> Asked:
        """Name the sites of the next round, and keep what they are asked."""
        purpose = question.purpose
        self._reasons = {}
        sites = self._attendance.named(purpose)
        round = self.asked[purpose]
        self.asked[purpose] += 1
        about = {
            "purpose": purpose,
            "round": round,
            "sites": sites,
            "more": dict(question.more),
            "state": self._state,
        }
        self._journal.open(Entry(about=about, arrays=question.weights or {}))
        return Asked(question=question, round=round, sites=tuple(sites))

    def _releases(self, asked: Asked) -> dict[str, Release]:
        got = self._got(asked, asked.sites)
        silent = [site for site in asked.sites if site not in got]
        if silent and not self._enough(got, asked):
            there = self._attendance.recover(silent, asked.sites)
            if there and not (self._kind.all_needed and len(there) < len(silent)):
                # They are there, only a message was lost: the same answer costs nothing more.
                got |= self._got(asked, sorted(there))
        return got

    def _got(self, asked: Asked, sites: Sequence[str]) -> dict[str, Release]:
        more = {"participants": list(asked.sites)} if self._kind.all_needed else {}
        came = self._ask(asked.question, asked.round, sites, **more)
        found = {}
        for site, release in came.items():
            reason: str | None = None
            if isinstance(release, str):
                reason = release
            else:
                self.paid[site].add((asked.question.purpose, asked.round))
                reason = self._kind.misfit(site, release, asked)
            if reason is not None:
                self._drop(site, reason, asked)
            elif isinstance(release, Release):
                found[site] = release
        return found

    def _drop(self, site: str, reason: str, asked: Asked) -> None:
        purpose = asked.question.purpose
        self._reasons[site] = reason
        self.dropped[purpose, site, reason] += 1
        LOG.warning("%s round %d: %s is dropped: %s", purpose, asked.round + 1, site, reason)

    def _needed(self, asked: Asked) -> int:
        return len(asked.sites) if self._kind.all_needed else self._attendance.fewest

    def _enough(self, releases: Mapping[str, Release], asked: Asked) -> bool:
        return len(releases) >= self._needed(asked)

    def _abandon(self, asked: Asked, releases: Mapping[str, Release]) -> None:
        purpose, number = asked.question.purpose, asked.round + 1
        lost = [site for site in asked.sites if site not in releases]
        self.abandoned[purpose] += 1
        self.lost[purpose] += len(lost)
        self._attendance.lose(lost)
        spares = self._spares[purpose]
        if self.abandoned[purpose] > spares:
            left = f"none of {spares} spare rounds is left" if spares else "there is no spare round"
            raise FederationError(
                f"{len(releases)} of {len(asked.sites)} sites answered {purpose} round {number}, "
                f"{self._needed(asked)} are needed, and {left}; nothing that fits came from "
                f"{listed(lost)}; charges are kept"
            )
        LOG.warning("%s round %d is lost with %s", purpose, number, listed(lost))

    @property
    def _state(self) -> dict[str, Any]:
        return {
            "asked": dict(self.asked),
            "abandoned": dict(self.abandoned),
            "lost": dict(self.lost),
            "paid": {site: sorted(rounds) for site, rounds in self.paid.items()},
            "dropped": [[*what, count] for what, count in sorted(self.dropped.items())],
            "attendance": self._attendance.state,
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        for counter, name in (
            (self.asked, "asked"),
            (self.abandoned, "abandoned"),
            (self.lost, "lost"),
        ):
            counter.clear()
            counter.update(state[name])
        for site, rounds in state["paid"].items():
            self.paid[site] = {(purpose, round) for purpose, round in rounds}
        self.dropped = Counter({tuple(what): count for *what, count in state["dropped"]})
        self._attendance.restore(state["attendance"])


def _entry(got: Sum, question: Question, state: Mapping[str, Any]) -> Entry:
    """Return a sum as it is kept: arrays by name, those of single sites by site and name."""
    arrays = {f"{_ALL}/{name}": array for name, array in got.arrays.items()}
    order = {site: str(number) for number, site in enumerate(got.each)}
    for site, each in got.each.items():
        arrays |= {f"{order[site]}/{name}": array for name, array in each.items()}
    about = {
        "purpose": question.purpose,
        "sites": list(got.sites),
        "each": list(got.each),
        "std": got.std,
        "dropped": dict(got.dropped),
        "failed": None,
        "state": state,
    }
    return Entry(about=about, arrays=arrays)


def _sum(entry: Entry) -> Sum:
    about = entry.about

    def under(prefix: str) -> dict[str, Any]:
        start = f"{prefix}/"
        return {n.removeprefix(start): a for n, a in entry.arrays.items() if n.startswith(start)}

    each = {site: under(str(number)) for number, site in enumerate(about["each"])}
    return Sum(
        arrays=under(_ALL),
        each=each,
        sites=tuple(about["sites"]),
        std=about["std"],
        dropped=about["dropped"],
    )
