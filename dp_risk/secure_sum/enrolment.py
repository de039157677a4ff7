"""Enrolment: each site's key of the run, signed, and checked against one's own roster."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dp_risk.privacy import keys
from dp_risk.privacy.release import canonical
from dp_risk.secure_sum.masks import public_of
from dp_risk.secure_sum.terms import Terms, refuse

CONTEXT = "dp-risk secure sum enrolment"
_MOST_TEXT = 300


@dataclass(frozen=True, kw_only=True)
class Enrolment:
    """One site's signed statement: with this key I take part in this run, under these terms.

    Parameters
    ----------
    run, site : str
        Run id and site id.
    public_key : str
        The site's X25519 public key of this run, in hexadecimal.
    roster_digest, plan_digest : str
        What the site takes part with and under.
    signature : str
        By the site's long-term Ed25519 key, over all of the above, in hexadecimal.
    """

    run: str
    site: str
    public_key: str
    roster_digest: str
    plan_digest: str
    signature: str

    @classmethod
    def make(
        cls, *, terms: Terms, site: str, secret: bytes, sign: Callable[[str, bytes], str]
    ) -> Enrolment:
        """State and sign.

        Parameters
        ----------
        terms : Terms
            The run's.
        site : str
            Id of this site.
        secret : bytes
            The site's X25519 secret of the run (`RunKeys.secret`).
        sign : callable
            Signs a context and a message with the site's Ed25519 key, as `Ledger.sign` does.
        """
        unsigned = cls(
            run=terms.run,
            site=site,
            public_key=public_of(secret),
            roster_digest=terms.roster_digest,
            plan_digest=terms.plan_digest,
            signature="",
        )
        return dataclasses.replace(unsigned, signature=sign(CONTEXT, unsigned._said()))

    def _said(self) -> bytes:
        said = self.to_dict()
        del said["signature"]
        return canonical(said)

    def holds(self, terms: Terms) -> bool:
        """Whether a site of the roster made it for exactly these terms."""
        same = (terms.run, terms.roster_digest, terms.plan_digest)
        known = terms.roster.get(self.site)
        return (
            (self.run, self.roster_digest, self.plan_digest) == same
            and known is not None
            and keys.verify(known, CONTEXT, self._said(), self.signature)
        )

    def to_dict(self) -> dict[str, str]:
        """Encode for the wire."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> Enrolment:
        """Decode from the wire.

        Raises
        ------
        Refused
            With the constant answer, on anything but six short texts.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(data, Mapping) or set(data) != names:
            refuse("an enrolment that is none")
        if not all(isinstance(text, str) and len(text) <= _MOST_TEXT for text in data.values()):
            refuse("an enrolment that is none")
        return cls(**data)


def enrolled(statements: Iterable[Enrolment], terms: Terms) -> dict[str, str]:
    """Return the public key of every enrolled site, once all statements hold.

    A server that told two sites two plans (one with a small clip bound, which leaves the other
    almost alone with its share of the noise) fails here, since everyone's plan digest must be
    one's own.

    Parameters
    ----------
    statements : iterable of Enrolment
        All that the server relayed, this site's own among them.
    terms : Terms
        The run's, as this site itself derived them.

    Returns
    -------
    dict of str to str
        Site id and X25519 public key, in hexadecimal.

    Raises
    ------
    Refused
        With the constant answer, if any statement does not hold, a site states twice, or fewer
        than `min_sites` take part.
    """
    found: dict[str, str] = {}
    for statement in statements:
        if statement.site in found or not statement.holds(terms):
            refuse("an enrolment that does not hold for this run, roster and plan")
        found[statement.site] = statement.public_key
    if len(found) < terms.min_sites:
        refuse(f"{len(found)} sites enrolled, fewer than min_sites")
    return found
