from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_risk.privacy import keys
from dp_risk.secure_sum.enrolment import Enrolment, enrolled
from dp_risk.secure_sum.session import Session
from dp_risk.secure_sum.terms import REFUSAL
from dp_risk.types import Refused
from tests.secure_sum.sites import names, signing_key, statement, terms_of

SITES = names(4)
TERMS = terms_of(SITES)
SECRETS = {site: bytes([number + 1] * 32) for number, site in enumerate(SITES)}
STATEMENTS = {site: statement(TERMS, site, SECRETS[site]) for site in SITES}


def join(statements, terms=TERMS, site=SITES[0]):
    return Session(terms=terms, site=site, secret=SECRETS[site], statements=list(statements))


def refused(statements, **where):
    """Check that a site refuses with the one answer."""
    with pytest.raises(Refused) as error:
        join(statements, **where)
    assert str(error.value) == REFUSAL


def with_other(**changes):
    """Return all statements, one of them changed."""
    return [*list(STATEMENTS.values())[:3], dataclasses.replace(STATEMENTS[SITES[3]], **changes)]


def test_all_sites_see_the_same_keys():
    found = [enrolled(STATEMENTS.values(), TERMS) for _ in SITES]
    assert found[0] == {site: STATEMENTS[site].public_key for site in SITES}
    assert len(set(found[0].values())) == 4
    for site in SITES:
        join(STATEMENTS.values(), site=site)


def test_a_statement_comes_back_from_the_wire():
    for one in STATEMENTS.values():
        assert Enrolment.from_dict(one.to_dict()) == one


@given(st.sampled_from(SITES[1:]), st.integers(0, 255))
def test_any_bit_flipped_in_a_relayed_key_is_refused(site, bit):
    key = bytearray.fromhex(STATEMENTS[site].public_key)
    key[bit // 8] ^= 1 << bit % 8
    refused({**STATEMENTS, site: dataclasses.replace(
        STATEMENTS[site], public_key=key.hex())}.values())  # fmt: skip


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Enrolment)])
def test_any_text_changed_in_a_statement_is_refused(field):
    was = getattr(STATEMENTS[SITES[3]], field)
    turned = was[:-1] + ("0" if was[-1] != "0" else "1")
    for other in (turned, was.upper() if was.upper() != was else was + "x", "", was + "0"):
        refused(with_other(**{field: other}))


def test_a_key_from_outside_the_roster_is_refused():
    stranger = keys.Key.from_private_bytes(b"\x09" * 32)
    # A name of the roster with another key, and a key of its own under a name that is not there.
    forged = statement(TERMS, SITES[3], SECRETS[SITES[3]], key=stranger)
    refused([*list(STATEMENTS.values())[:3], forged])
    unknown = statement(TERMS, "site-99", b"\x09" * 32)
    refused([*STATEMENTS.values(), unknown])


@pytest.mark.parametrize(
    "change",
    [
        {"plan_digest": "0" * 64},
        {"run": "another"},
        {"roster": terms_of(names(5)).roster},
    ],
    ids=["plan", "run", "roster"],
)
def test_honest_statements_for_anything_else_are_refused(change):
    other = terms_of(**{"sites": SITES, **change})
    foreign = statement(other, SITES[3], SECRETS[SITES[3]])
    assert foreign.holds(other)
    assert not foreign.holds(TERMS)
    refused([*list(STATEMENTS.values())[:3], foreign])
    # And all of them, when it is this site that was told something else.
    refused(STATEMENTS.values(), terms=other)


def test_fewer_than_min_sites_twice_the_same_or_without_oneself_is_refused():
    refused(list(STATEMENTS.values())[:2])
    join(list(STATEMENTS.values())[:3])
    refused([*STATEMENTS.values(), STATEMENTS[SITES[1]]])
    refused(list(STATEMENTS.values())[1:])


def test_ones_own_name_with_another_key_is_refused():
    replayed = statement(TERMS, SITES[0], b"\x77" * 32)
    refused({**STATEMENTS, SITES[0]: replayed}.values())


@pytest.mark.parametrize("public", ["00" * 32, "01" + "00" * 31, "abc", "zz" * 32, ""])
def test_a_colluding_site_cannot_force_a_secret(public):
    unsigned = dataclasses.replace(STATEMENTS[SITES[3]], public_key=public)
    sign = keys.sign(signing_key(SITES[3]), "dp-risk secure sum enrolment", unsigned._said())
    signed = dataclasses.replace(unsigned, signature=sign)
    assert signed.holds(TERMS)
    refused([*list(STATEMENTS.values())[:3], signed])


@pytest.mark.parametrize(
    "data",
    [
        None, [], "x", {}, {"run": "r"},
        {**STATEMENTS[SITES[0]].to_dict(), "more": "x"},
        {**STATEMENTS[SITES[0]].to_dict(), "site": 3},
        {**STATEMENTS[SITES[0]].to_dict(), "signature": "0" * 301},
    ],
)  # fmt: skip
def test_what_is_no_statement_is_refused(data):
    with pytest.raises(Refused) as error:
        Enrolment.from_dict(data)
    assert str(error.value) == REFUSAL


def test_a_signature_for_anything_else_is_no_enrolment():
    one = STATEMENTS[SITES[3]]
    for context in ("dp-risk release", "dp-risk ledger"):
        other = keys.sign(signing_key(SITES[3]), context, one._said())
        refused(with_other(signature=other))
