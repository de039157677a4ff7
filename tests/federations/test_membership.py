from __future__ import annotations

import pytest

from dp_risk.federation.membership import Membership
from dp_risk.types import ConfigurationError, VerificationError

from .people import AGREED, house, member


def test_a_site_knows_what_the_letter_said(tmp_path):
    made = house(tmp_path / "fed")
    made.publish(made.roster.add(member("a")))
    site = tmp_path / "site"
    site.mkdir()
    with pytest.raises(ConfigurationError, match="joined no federation"):
        Membership.load(site)
    (site / "federation.json").write_bytes((made.folder / "federation.json").read_bytes())
    known = Membership.load(site)
    assert (known.name, known.address, known.url) == (made.name, made.address, made.url)
    assert known.authority == made.authority.read_bytes()
    assert (known.key, known.agreed, known.roster) == (made.public_key, AGREED, made.roster)
    assert known.node_key == site / "node.key"
    text = (site / "federation.json").read_text().replace(":8000", ":8001")
    (site / "federation.json").write_text(text)
    with pytest.raises(VerificationError):
        Membership.load(site)


def test_an_insecure_federation_has_no_authority(tmp_path):
    made = house(tmp_path / "fed", insecure=True)
    known = Membership.load(made.folder)
    assert (known.insecure, known.authority) == (True, None)
    assert known.url.startswith("http://")
