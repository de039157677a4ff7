"""A federation, sites and letters that the tests of this folder share."""

from __future__ import annotations

import datetime
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from dp_risk.federation import node_keys
from dp_risk.federation.agreement import Agreement
from dp_risk.federation.house import House
from dp_risk.federation.letters import SiteLetter
from dp_risk.federation.roster import Member
from dp_risk.privacy import keys

NOW = datetime.datetime(2026, 3, 1, 12, 0, tzinfo=datetime.UTC)
AGREED = Agreement(dataset="mine", schema="ab" * 32, unit="record", delta=1e-5)


@cache
def key(name: str) -> keys.Key:
    """Return an Ed25519 key, the same for a name."""
    return keys.Key.generate()


@cache
def node_key(name: str) -> str:
    """Return the public key of a node, the same for a name."""
    return node_keys.public_text(ec.generate_private_key(ec.SECP384R1()))


def member(site: str, **changes: str) -> Member:
    """Return a site with keys of its own."""
    said = {
        "site": site,
        "key": keys.public_hex(key(site)),
        "node_key": node_key(site),
        "since": NOW.isoformat(),
    }
    return Member(**{**said, **changes})


def site_letter(site: str, agreed: Agreement = AGREED) -> str:
    """Return a site's signed letter."""
    public = keys.public_hex(key(site))
    letter = SiteLetter(site=site, key=public, node_key=node_key(site), agreed=agreed)
    return letter.signed(key(site))


def house(folder: Path, **changes: object) -> House:
    """Make a federation."""
    folder.mkdir()
    said = {
        "name": "fed",
        "hosts": ("localhost",),
        "port": 8000,
        "insecure": False,
        "agreed": AGREED,
        "schema": b"label: {column: y}\n",
        "now": NOW,
    }
    return House.create(folder, **{**said, **changes})  # type: ignore[arg-type]
