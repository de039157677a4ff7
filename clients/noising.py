"""Who adds the noise to what a site computes: the site itself, or all sites together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from dp_risk.privacy.ledger import Ledger
from dp_risk.privacy.mechanism import Arrays
from dp_risk.privacy.plan import Plan
from dp_risk.privacy.release import Release
from dp_risk.privacy.shares import ShareGrid
from dp_risk.secure_sum.enrolment import Enrolment
from dp_risk.secure_sum.session import Session
from dp_risk.secure_sum.store import RunKeys
from dp_risk.secure_sum.terms import Terms, refuse
from dp_risk.types import ConfigurationError, Refused

# From the grid of a secure sum, or None, to a mechanism's output: the only thing that reads rows.
Compute = Callable[[ShareGrid | None], Arrays]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a request asks, beside what it is computed from.

    Parameters
    ----------
    purpose, round : str, int
        Which line of the plan's schedule.
    participants : object
        What the request says about who answers the round with this site.
    request : str
        Digest of everything that the request says.
    """

    purpose: str
    round: int
    participants: Any
    request: str


class Noising(Protocol):
    """What a plan's trust means for a site."""

    def enrolment(self) -> dict[str, str] | None:
        """Return what this site says to the others before the first round."""
        ...

    def meet(self, statements: Any) -> None:
        """Hear what all sites say before the first round."""
        ...

    def answer(self, asked: Asked, compute: Compute) -> Release:
        """Charge one round and release its output, or return the stored one."""
        ...


@dataclass(frozen=True, kw_only=True)
class Alone:
    """A site adds all of the noise, if any: what leaves needs nobody else.

    Parameters
    ----------
    plan : Plan
        An enrolled plan.
    ledger : Ledger
        The site's.
    """

    plan: Plan
    ledger: Ledger

    def enrolment(self) -> None:
        """Say nothing."""

    def meet(self, statements: Any) -> NoReturn:  # noqa: ARG002
        """Refuse: there is nobody to meet.

        Raises
        ------
        Refused
            Always.
        """
        raise Refused("other sites where none belong")

    def answer(self, asked: Asked, compute: Compute) -> Release:
        """Charge, compute and release.

        Raises
        ------
        Refused
            If the ledger says no, or the request names participants.
        """
        if asked.participants is not None:
            raise Refused("participants where none belong")
        plan = self.plan
        stored = self.ledger.pay(
            run=plan.run,
            plan_digest=plan.digest,
            purpose=asked.purpose,
            round=asked.round,
            request=asked.request,
        )
        if stored is not None:
            return stored
        return self.ledger.mint(
            run=plan.run, purpose=asked.purpose, round=asked.round, arrays=compute(None)
        )


@dataclass(frozen=True, kw_only=True)
class Together:
    """A site adds a share of the noise, and what leaves is masked (`dp_risk.secure_sum`).

    Parameters
    ----------
    plan : Plan
        An enrolled plan whose trust is distributed.
    ledger : Ledger
        The site's.
    site : str
        Name of this site.
    roster : mapping of str to str
        Who may take part: from the site's own policy.
    store : RunKeys
        Where the site keeps what the run needs between two messages.
    """

    plan: Plan
    ledger: Ledger
    site: str
    roster: Any
    store: RunKeys

    @cached_property
    def _terms(self) -> Terms:
        try:
            return Terms.of(self.plan, self.roster)
        except ConfigurationError as error:
            refuse(str(error))

    @cached_property
    def _session(self) -> Session:
        return self._open(None)

    def _open(self, statements: Sequence[Enrolment] | None) -> Session:
        # A secret is made for a run that is open only: a closed one never gets another.
        if self.ledger.enrolled(self.plan.run) != self.plan.digest:
            refuse("the run is not open")
        return Session.open(self.store, terms=self._terms, site=self.site, statements=statements)

    def enrolment(self) -> dict[str, str]:
        """Return this site's signed statement, the same one every time."""
        secret = self.store.secret(self.plan.run)
        made = Enrolment.make(
            terms=self._terms, site=self.site, secret=secret, sign=self.ledger.sign
        )
        return made.to_dict()

    def meet(self, statements: Any) -> None:
        """Check what all sites say and keep it: the first time counts.

        Raises
        ------
        Refused
            With the constant answer, if a statement does not hold or there are too few.
        """
        if not isinstance(statements, list) or len(statements) > len(self.roster):
            refuse("enrolments that are none")
        said = [Enrolment.from_dict(one) for one in statements]
        if not {one.site for one in said} <= set(self.plan.participants):
            # The plan's price holds for rounds of its participants, and of no more sites.
            refuse("a site of the roster that the plan does not name")
        self._open(said)

    def answer(self, asked: Asked, compute: Compute) -> Release:
        """Charge, compute this site's share, mask and release.

        Raises
        ------
        Refused
            With the constant answer, as in `Session.answer`.
        """
        numbers = self._terms.numbers(asked.purpose)
        if not 0 <= asked.round < len(numbers):
            refuse("a round that the plan does not hold")
        return self._session.answer(
            self.ledger,
            purpose=asked.purpose,
            r=numbers[asked.round],
            participants=asked.participants,
            request=asked.request,
            compute=lambda grid: flat(list(compute(grid).values())),
        )


def flat(arrays: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return arrays one after another on one axis, in the mechanism's order."""
    return np.concatenate([array.ravel() for array in arrays])
