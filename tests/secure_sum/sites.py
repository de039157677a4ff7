"""Sites of a secure sum in folders, with a ledger each, and a server that only relays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dp_risk.privacy import keys
from dp_risk.privacy.account import Account
from dp_risk.privacy.accounting import Event
from dp_risk.privacy.ledger import Ledger
from dp_risk.privacy.randomness import Randomness
from dp_risk.privacy.release import Release
from dp_risk.privacy.schedule import Purpose
from dp_risk.privacy.shares import ShareGrid
from dp_risk.secure_sum.enrolment import Enrolment
from dp_risk.secure_sum.masks import unmask
from dp_risk.secure_sum.session import MASKED, Session
from dp_risk.secure_sum.store import RunKeys
from dp_risk.secure_sum.terms import Line, Terms

RUN, PLAN = "run-1", "5c" * 32
ACCOUNT = Account(
    dataset="people", unit="record", adjacency="add-remove", delta=1e-5, lifetime_epsilon=100.0,
    public=False, splits=("train", "holdout"), partition={"split key": "5a" * 32},
)  # fmt: skip
COUNTS = Line(
    purpose="counts", rounds=2, clip_norm=1.0, noise_multiplier=20.0, dimension=1, units=1000
)
TRAINING = Line(
    purpose="training", rounds=40, clip_norm=0.5, noise_multiplier=20.0, dimension=6, units=1000
)


def signing_key(site: str) -> keys.Key:
    return Ed25519PrivateKey.from_private_bytes(site.encode().ljust(32, b"."))


def names(count: int) -> tuple[str, ...]:
    return tuple(f"site-{number:02d}" for number in range(count))


def terms_of(sites: Sequence[str], **changes: Any) -> Terms:
    base = {
        "run": RUN, "plan_digest": PLAN, "min_sites": 3, "max_colluding": 1,
        "roster": {site: keys.public_hex(signing_key(site)) for site in sites},
        "lines": (COUNTS, TRAINING),
    }  # fmt: skip
    return Terms(**{**base, **changes})


def statement(terms: Terms, site: str, secret: bytes, key: keys.Key | None = None) -> Enrolment:
    sign = partial(keys.sign, key or signing_key(site))
    return Enrolment.make(terms=terms, site=site, secret=secret, sign=sign)


@dataclass(kw_only=True)
class Site:
    """A site; `reopen` forgets all but its folder."""

    name: str
    folder: Path
    terms: Terms

    def __post_init__(self) -> None:
        self.reads = 0
        self.folder.mkdir(parents=True)
        self.reopen()

    def reopen(self) -> None:
        self.store = RunKeys(self.folder / "runs")
        self.ledger = Ledger.open(self.folder / "ledger.db", ACCOUNT, key=signing_key(self.name))
        schedule = tuple(
            Purpose(
                name=line.purpose,
                split="train",
                event=Event(noise_multiplier=line.noise_multiplier),
                rounds=line.rounds,
            )
            for line in self.terms.lines
        )
        self.ledger.reserve(run=RUN, plan_digest=PLAN, schedule=schedule)

    def statement(self) -> Enrolment:
        return Enrolment.make(
            terms=self.terms,
            site=self.name,
            secret=self.store.secret(RUN),
            sign=self.ledger.sign,
        )

    def session(self, statements: Sequence[Enrolment] | None = None) -> Session:
        return Session.open(self.store, terms=self.terms, site=self.name, statements=statements)

    def total(self, purpose: str) -> np.ndarray:
        """Return the site's private sum: its own, the same every round."""
        line = self.terms.line(purpose)
        seed = Randomness.seeded(1, self.name, purpose).words(line.dimension)
        return (seed / 2.0**64 - 0.5) * line.clip_norm * 10

    def compute(self, purpose: str) -> Callable[[ShareGrid], np.ndarray]:
        def run(grid: ShareGrid) -> np.ndarray:
            self.reads += 1
            self.share = grid.release(self.total(purpose), Randomness.system())
            return self.share

        return run

    def answer(
        self, r: int, participants: Sequence[str], *, purpose: str = "training", request: str = "q"
    ) -> Release:
        return self.session().answer(
            self.ledger,
            purpose=purpose,
            r=r,
            participants=participants,
            request=request,
            compute=self.compute(purpose),
        )


def federation(
    folder: Path, count: int = 4, *, enrolled: int | None = None, **changes: Any
) -> dict[str, Site]:
    """Return the sites of a roster, all or the first few of them enrolled."""
    terms = terms_of(names(count), **changes)
    sites = {name: Site(name=name, folder=folder / name, terms=terms) for name in names(count)}
    some = list(sites.values())[:enrolled]
    statements = [site.statement() for site in some]
    for site in some:
        site.session(statements)
    return sites


def summed(
    sites: Mapping[str, Site], r: int, *, purpose: str = "training", named: Sequence[str] = ()
) -> np.ndarray:
    """Return what the server unmasks of a round, in whole steps."""
    everyone = list(named or sites)
    vectors = {
        name: sites[name].answer(r, everyone, purpose=purpose).arrays[MASKED] for name in everyone
    }
    return unmask(vectors, sites[everyone[0]].terms.round(purpose, r, everyone))
