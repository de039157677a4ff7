"""What all sites of a run must agree on before the first secure sum."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NoReturn

from dp_risk.privacy.plan import NAME, Plan
from dp_risk.privacy.release import digest
from dp_risk.privacy.schedule import MAX_UNITS
from dp_risk.privacy.shares import ShareGrid
from dp_risk.secure_sum.masks import Round
from dp_risk.types import ConfigurationError, Refused

LOG = logging.getLogger("dp_risk.site")
REFUSAL = "the secure sum was refused"


def refuse(reason: str) -> NoReturn:
    """Give the one answer to everything that is refused; the reason stays in the site's log."""
    LOG.warning("secure sum: %s", reason)
    raise Refused(REFUSAL)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One kind of secure sum of a run.

    Parameters
    ----------
    purpose : str
        What the ledger's schedule calls it.
    rounds : int
        Most rounds, spares for lost ones included, at least 1: those of the schedule.
    clip_norm, noise_multiplier, dimension, units
        Of the sum, as in `ShareGrid`.
    """

    purpose: str
    rounds: int
    clip_norm: float
    noise_multiplier: float
    dimension: int
    units: int

    def grid(self, participants: int, max_colluding: int) -> ShareGrid:
        """Return the grid of a round with so many participants."""
        return ShareGrid(
            clip_norm=self.clip_norm,
            noise_multiplier=self.noise_multiplier,
            dimension=self.dimension,
            participants=participants,
            max_colluding=max_colluding,
            units=self.units,
        )


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The terms of a run, as one site or the server sees them.

    Parameters
    ----------
    run : str
        Run id.
    plan_digest : str
        Digest of the plan, which fixes all the rest but the roster.
    roster : mapping of str to str
        Site id and Ed25519 public key (hexadecimal) of every site that may take part: from the
        site's own policy, never from a message.
    min_sites : int
        Fewest sites of a round, at least `max_colluding` + 2.
    max_colluding : int
        Most sites of a round that tell the server all they know, at least 1.
    lines : tuple of Line
        Every kind of secure sum of the run, in order.

    Raises
    ------
    ConfigurationError
        If a number is out of range, a purpose stands twice, or a grid does not fit 64 bits.
    """

    run: str
    plan_digest: str
    roster: Mapping[str, str]
    min_sites: int
    max_colluding: int
    lines: tuple[Line, ...]

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.run):
            raise ConfigurationError("a run id is 1 to 100 letters, digits, points and dashes")
        if self.max_colluding < 1 or self.min_sites < self.max_colluding + 2:
            raise ConfigurationError("secure sum: max_colluding >= 1, min_sites >= that + 2")
        if len(self.roster) < self.min_sites:
            raise ConfigurationError(
                f"secure sum: min_sites is {self.min_sites}, the roster has {len(self.roster)}"
            )
        if len({line.purpose for line in self.lines}) < len(self.lines):
            raise ConfigurationError("secure sum: a purpose stands twice")
        for line in self.lines:
            if line.rounds < 1:
                raise ConfigurationError(f"secure sum: {line.purpose} has no round")
            try:
                for participants in range(self.min_sites, len(self.roster) + 1):
                    line.grid(participants, self.max_colluding)
            except ValueError as error:
                raise ConfigurationError(f"secure sum: {line.purpose}: {error}") from None

    @classmethod
    def of(cls, plan: Plan, roster: Mapping[str, str]) -> Terms:
        """Return the terms of a plan whose trust is distributed.

        Parameters
        ----------
        plan : Plan
            The run's plan.
        roster : mapping of str to str
            As above; a server, which checks no statement, takes the plan's participants.

        Raises
        ------
        ConfigurationError
            As above, and if the plan has another trust.
        """
        if plan.max_colluding is None:
            raise ConfigurationError("secure sum: the plan has another trust")
        return cls(
            run=plan.run,
            plan_digest=plan.digest,
            roster=roster,
            min_sites=plan.min_sites,
            max_colluding=plan.max_colluding,
            lines=tuple(
                Line(
                    purpose=line.name,
                    rounds=line.rounds,
                    clip_norm=plan.sums[line.name].clip_norm,
                    noise_multiplier=plan.sums[line.name].noise_multiplier,
                    dimension=plan.sums[line.name].dimension,
                    units=MAX_UNITS,
                )
                for line in plan.schedule
            ),
        )

    @cached_property
    def roster_digest(self) -> str:
        """SHA-256 of the roster."""
        return digest(dict(self.roster))

    def line(self, purpose: str) -> Line:
        """Return the line of a purpose.

        Raises
        ------
        Refused
            If the run has none of that name.
        """
        for line in self.lines:
            if line.purpose == purpose:
                return line
        refuse("a purpose that the plan does not sum")

    def numbers(self, purpose: str) -> range:
        """Return the numbers r of a purpose's rounds, in order.

        One sequence of r numbers all secure sums of a run, so that no two share a mask: a line's
        numbers start where those of the line before it end. Because the ledger pays for each
        (run, purpose, round) once, each r is used once, and nothing else needs to be kept.

        Raises
        ------
        Refused
            If the run has no such purpose.
        """
        at = self.lines.index(self.line(purpose))
        start = sum(line.rounds for line in self.lines[:at])
        return range(start, start + self.lines[at].rounds)

    def round(self, purpose: str, r: int, participants: Sequence[str], request: str = "") -> Round:
        """Return round number r of a purpose, for its masks; `request` as in `Round`.

        Raises
        ------
        Refused
            If the run has no such purpose, or that has no such round.
        """
        line = self.line(purpose)
        if isinstance(r, bool) or not isinstance(r, int) or r not in self.numbers(purpose):
            refuse("a round that the plan does not hold")
        return Round(
            plan_digest=self.plan_digest,
            r=r,
            purpose=purpose,
            dimension=line.dimension,
            participants=tuple(participants),
            request=request,
        )
