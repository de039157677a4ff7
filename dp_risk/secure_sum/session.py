"""A site in the secure sums of one run: nothing leaves it that is not paid, noisy and masked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dp_risk.privacy.ledger import Ledger
from dp_risk.privacy.release import Release, digest
from dp_risk.privacy.shares import ShareGrid
from dp_risk.secure_sum.enrolment import Enrolment, enrolled
from dp_risk.secure_sum.masks import mask, pair_key, public_of
from dp_risk.secure_sum.store import RunKeys
from dp_risk.secure_sum.terms import LOG, REFUSAL, Terms, refuse
from dp_risk.types import Refused

# Name of the array that a release of the secure sum holds.
MASKED = "masked"


@contextmanager
def _constant() -> Iterator[None]:
    """Keep the ledger's reasons in the site's log: a server learns nothing from which it was."""
    try:
        yield
    except Refused as error:
        LOG.warning("secure sum: %s", error)
        raise Refused(REFUSAL) from None


class Session:
    """The secure sums of a run at one site. Open with `Session.open`.

    Parameters
    ----------
    terms : Terms
        The run's, from the site's own plan and policy.
    site : str
        Id of this site.
    secret : bytes
        Its X25519 secret of the run.
    statements : sequence of Enrolment
        All that the server relayed, this site's own among them.

    Raises
    ------
    Refused
        With the constant answer, if a statement does not hold (`enrolled`), this site's own is
        missing or of another key, or a key is no key.
    """

    def __init__(
        self, *, terms: Terms, site: str, secret: bytes, statements: Sequence[Enrolment]
    ) -> None:
        members = enrolled(statements, terms)
        if members.pop(site, None) != public_of(secret):
            refuse("this site is not among the enrolled with its own key")
        self._terms = terms
        self._site = site
        try:
            self._pairs = {
                other: pair_key(secret, site, other, public, terms.run)
                for other, public in members.items()
            }
        except ValueError:
            refuse("a public key that is none")

    @classmethod
    def open(
        cls,
        store: RunKeys,
        *,
        terms: Terms,
        site: str,
        statements: Sequence[Enrolment] | None = None,
    ) -> Session:
        """Open with the enrolments that the server relayed, or after a restart with those kept.

        Raises
        ------
        Refused
            As above, and if others than these were enrolled in the run before.
        ConfigurationError
            If the store cannot be read or written.
        """
        found = store.kept(terms.run) if statements is None else statements
        session = cls(terms=terms, site=site, secret=store.secret(terms.run), statements=found)
        if statements is not None:
            store.keep(terms.run, statements)
        return session

    def answer(
        self,
        ledger: Ledger,
        *,
        purpose: str,
        r: int,
        participants: Sequence[str],
        request: str,
        compute: Callable[[ShareGrid], NDArray[np.float64]],
    ) -> Release:
        """Charge one round and release this site's masked share, or return the stored one.

        Everything that can be refused is refused before anything is charged. The charge is on
        disk before `compute` runs and the masked vector before it is returned, so that a crash at
        any point leaves a round that is answered with the same bytes or never.

        Parameters
        ----------
        ledger : Ledger
            The site's, with the run reserved under the terms' plan digest.
        purpose : str
            Which line of the terms.
        r : int
            Number of the round, of `Terms.numbers(purpose)`.
        participants : sequence of str
            U: the sites that answer, at least `min_sites` of the enrolled, this one among them.
        request : str
            Digest of everything else that the request says: the weights, the bin edges. The masks
            of sites that were asked different things do not cancel.
        compute : callable
            Given the grid of the round, returns the site's clipped sum with its share of the
            noise: `ShareGrid.release`, shape (dimension,). The only thing that reads rows.

        Returns
        -------
        Release
            With one array, "masked", uint64, shape (dimension,).

        Raises
        ------
        Refused
            With the constant answer: for any other request than one that the plan allows, a round
            that was started before with another request or without a stored answer, a share of
            another length or off the grid, or where the ledger says no.
        """
        terms, everyone = self._terms, self._participants(participants)
        this = terms.round(purpose, r, everyone, request)
        grid = terms.line(purpose).grid(len(everyone), terms.max_colluding)
        run, round = terms.run, terms.numbers(purpose).index(r)
        said = {"r": r, "purpose": purpose, "participants": everyone, "request": request}
        with _constant():
            stored = ledger.pay(
                run=run,
                plan_digest=terms.plan_digest,
                purpose=purpose,
                round=round,
                request=digest(said),
            )
        if stored is not None:
            return stored
        share = compute(grid)
        try:
            steps = grid.encode(share)
        except ValueError as error:
            refuse(str(error))
        masked = steps.view(np.uint64) + mask(self._pairs, site=self._site, round=this)
        with _constant():
            return ledger.mint(run=run, purpose=purpose, round=round, arrays={MASKED: masked})

    def _participants(self, named: Any) -> list[str]:
        """Return the participants in order, once they are such."""
        if not isinstance(named, list | tuple) or not all(isinstance(one, str) for one in named):
            refuse("participants that are none")
        everyone = sorted(set(named))
        if len(everyone) < len(named) or self._site not in everyone:
            refuse("a participant named twice, or this site not named")
        if not set(everyone) <= {self._site, *self._pairs}:
            refuse("a participant that is not enrolled")
        if len(everyone) < self._terms.min_sites:
            refuse("fewer participants than min_sites")
        return everyone
