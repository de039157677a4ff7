"""A letter of a site whose key was rotated, and the roster that follows it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from dp_risk.federation.letters import SiteLetter
from dp_risk.federation.roster import Member, Roster
from dp_risk.privacy import keys
from dp_risk.privacy.ledger import Ledger
from dp_risk.privacy.release import canonical
from dp_risk.types import ConfigurationError, VerificationError
from tests.privacy.children import ACCOUNT

from .people import AGREED, NOW, key, node_key

WHO = {"by": "A. Person", "reason": "once a year"}
PUBLIC = [keys.public_hex(key(name)) for name in ("a", "a2", "a3")]


@pytest.fixture
def letter(tmp_path: Path) -> SiteLetter:
    """The letter of site a, whose key was rotated twice."""
    ledger = Ledger.open(tmp_path / "ledger.sqlite", ACCOUNT, key=key("a"))
    for name in ("a2", "a3"):
        ledger.rekey(key(name), partition=ACCOUNT.partition, **WHO)
    rekeys = ledger.rekeys()
    ledger.close_file()
    return SiteLetter(site="a", key=PUBLIC[2], node_key=node_key("a"), agreed=AGREED, rekeys=rekeys)


def member(number: int, name: str = "a") -> Member:
    return Member(site=name, key=PUBLIC[number], node_key=node_key("a"), since=NOW.isoformat())


def test_a_letter_proves_the_keys_before(letter: SiteLetter) -> None:
    text = letter.signed(key("a3")).encode()
    read = SiteLetter.read(text, "letter")
    assert read == letter
    assert read.earlier == tuple(PUBLIC[:2])
    assert dataclasses.replace(letter, rekeys=()).earlier == ()


def test_rotations_that_do_not_lead_to_the_key_do_not_hold(letter: SiteLetter) -> None:
    for wrong in (letter.rekeys[:1], letter.rekeys[::-1], letter.rekeys[1:] * 2):
        with pytest.raises(VerificationError):
            dataclasses.replace(letter, rekeys=wrong)
    body = json.loads(letter.signed(key("a3")))
    del body["signature"]
    for change, error in (
        ({"hash": "0" * 64}, VerificationError),
        ({"kind": "raise"}, VerificationError),
        ({"sequence": "1"}, ConfigurationError),
        ({"text": None}, ConfigurationError),
        ({"more": 1}, ConfigurationError),
    ):
        rekeys = [{**body["rekeys"][0], **change}, *body["rekeys"][1:]]
        said = {**body, "rekeys": rekeys}
        signature = keys.sign(key("a3"), SiteLetter.KIND, canonical(said))
        with pytest.raises(error, match=r"^letter: "):
            SiteLetter.read(json.dumps({**said, "signature": signature}).encode(), "letter")


def test_a_roster_takes_a_key_that_an_older_one_signed_for(letter: SiteLetter) -> None:
    for known in (0, 1, 2):
        roster = Roster().add(member(known))
        after = roster.replace(member(2), letter.earlier)
        assert after.keys == {"a": PUBLIC[2]}
        assert after.number == roster.number + 1


def test_a_roster_takes_no_key_that_nobody_signed_for(letter: SiteLetter) -> None:
    with pytest.raises(ConfigurationError, match=r"a: .* did not sign for this one"):
        Roster().add(member(0)).replace(member(2), ())
    # Nor an older letter, after a rotation.
    with pytest.raises(ConfigurationError, match="did not sign"):
        Roster().add(member(2)).replace(member(0), ())
    with pytest.raises(ConfigurationError):
        Roster().replace(member(2), letter.earlier)
