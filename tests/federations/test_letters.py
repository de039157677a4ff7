from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dp_risk.federation.agreement import Agreement
from dp_risk.federation.certificates import Authority, pem
from dp_risk.federation.files import MOST_BYTES
from dp_risk.federation.letters import FederationLetter, SiteLetter
from dp_risk.federation.roster import Roster
from dp_risk.privacy import keys
from dp_risk.privacy.release import canonical
from dp_risk.types import ConfigurationError, VerificationError

from .people import AGREED, NOW, key, member, node_key, site_letter

AUTHORITY = pem(Authority.create("fed", NOW).certificate).decode()
FEDERATION = FederationLetter(
    name="fed",
    address="fl.example.org:8000",
    insecure=False,
    authority=AUTHORITY,
    key=keys.public_hex(key("fed")),
    agreed=AGREED,
    roster=Roster().add(member("a")).add(member("b")),
)
LETTERS = {
    SiteLetter: (site_letter("a").encode(), "a"),
    FederationLetter: (FEDERATION.signed(key("fed")).encode(), "fed"),
}
KINDS = pytest.mark.parametrize("kind", list(LETTERS))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=9,
)


def resigned(kind, **changes):
    """A letter with other fields and a signature that holds; None takes a field away."""
    text, signer = LETTERS[kind]
    body = {name: value for name, value in json.loads(text).items() if name != "signature"}
    body |= changes
    body = {name: value for name, value in body.items() if value is not ...}
    signature = keys.sign(key(signer), kind.KIND, canonical(body))
    return json.dumps({**body, "signature": signature}).encode()


@KINDS
def test_a_letter_is_read_as_it_was_written(kind):
    text, signer = LETTERS[kind]
    letter = kind.read(text, "letter")
    assert letter.signed(key(signer)).encode() == text
    assert kind.read(resigned(kind), "letter") == letter


def test_a_site_letter_says_who_it_is():
    letter = SiteLetter.read(site_letter("a").encode(), "letter")
    assert (letter.site, letter.agreed, letter.node_key) == ("a", AGREED, node_key("a"))
    assert FederationLetter.read(LETTERS[FederationLetter][0], "letter") == FEDERATION


@KINDS
def test_nobody_signs_in_the_name_of_another(kind):
    text, _ = LETTERS[kind]
    with pytest.raises(ConfigurationError, match="another key"):
        kind.read(text, "letter").signed(key("stranger"))
    other = text.replace(json.loads(text)["key"].encode(), keys.public_hex(key("x")).encode(), 1)
    with pytest.raises(VerificationError, match="letter: its signature"):
        kind.read(other, "letter")


@KINDS
def test_any_changed_field_spoils_the_signature(kind):
    said = json.loads(LETTERS[kind][0])
    for name in said:
        for value in (None, "x", 7, {}, "00" * 32):
            if name in ("kind", "schema_version") or said[name] == value:
                continue
            with pytest.raises((VerificationError, ConfigurationError)):
                kind.read(json.dumps({**said, name: value}).encode(), "letter")
    for path in (("agreed", "delta"), ("agreed", "dataset")):
        changed = json.loads(LETTERS[kind][0])
        changed[path[0]][path[1]] = 0.5
        with pytest.raises(VerificationError):
            kind.read(json.dumps(changed).encode(), "letter")


@KINDS
def test_a_newer_letter_is_refused_before_anything_else_is_asked(kind):
    text = json.dumps({"kind": kind.KIND, "schema_version": 2, "surprise": 1}).encode()
    with pytest.raises(ConfigurationError, match="letter: written by a newer version"):
        kind.read(text, "letter")


@KINDS
def test_a_letter_of_another_kind_is_refused(kind):
    for other, (text, _) in LETTERS.items():
        if other is not kind:
            with pytest.raises(ConfigurationError, match=f"not a {kind.KIND}"):
                kind.read(text, "letter")


@KINDS
def test_unknown_missing_and_double_fields_are_named_or_refused(kind):
    with pytest.raises(ConfigurationError, match="unknown field 'more'"):
        kind.read(resigned(kind, more=1), "letter")
    for name in json.loads(LETTERS[kind][0]):
        if name not in ("kind", "schema_version", "signature"):
            with pytest.raises(ConfigurationError, match=f"{name} is missing"):
                kind.read(resigned(kind, **{name: ...}), "letter")
    double = LETTERS[kind][0].replace(b"{", b'{"kind": "x",', 1)
    with pytest.raises(ConfigurationError, match="not readable as JSON"):
        kind.read(double, "letter")


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        (SiteLetter, {"site": "../a"}, "site"),
        (SiteLetter, {"site": "a\nb"}, "site"),
        (SiteLetter, {"node_key": node_key("a") + "\n"}, "node_key"),
        (SiteLetter, {"node_key": AUTHORITY}, "node_key"),
        (SiteLetter, {"agreed": {**AGREED.to_dict(), "delta": 1}}, "delta"),
        (SiteLetter, {"agreed": {**AGREED.to_dict(), "unit": "person"}}, "unit"),
        (SiteLetter, {"agreed": {**AGREED.to_dict(), "schema": "AB" * 32}}, "schema"),
        (FederationLetter, {"address": "fl.example.org"}, "address"),
        (FederationLetter, {"address": "fl.example.org:70000"}, "port"),
        (FederationLetter, {"address": "user@x:80"}, "address"),
        (FederationLetter, {"address": "::1:80"}, "address"),
        (FederationLetter, {"insecure": True}, "authority"),
        (FederationLetter, {"authority": None}, "authority"),
        (FederationLetter, {"authority": AUTHORITY * 2}, "authority"),
        (FederationLetter, {"authority": "x"}, "authority"),
        (FederationLetter, {"authority": "\ud800"}, "authority"),
        (FederationLetter, {"insecure": 1}, "insecure"),
        (FederationLetter, {"roster": {"number": -1, "sites": {}}}, "number"),
        (FederationLetter, {"roster": {"number": 1, "sites": []}}, "sites"),
        (FederationLetter, {"roster": {"number": 1, "sites": {"": {}}}}, "missing"),
    ],
)
def test_a_field_that_is_wrong_is_named_though_it_is_signed(kind, changes, words):
    with pytest.raises(ConfigurationError, match=f"letter: .*{words}") as error:
        kind.read(resigned(kind, **changes), "letter")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("address", ["[::1]:443", "10.0.0.1:8000", "localhost:1"])
def test_addresses_that_are_right(address):
    said = FederationLetter.read(resigned(FederationLetter, address=address), "letter")
    assert said.address == address


@KINDS
@settings(max_examples=150, deadline=None)
@given(garbage=st.binary(max_size=300))
def test_garbage_is_one_clear_error(kind, garbage):
    with pytest.raises(ConfigurationError, match="letter"):
        kind.read(garbage, "letter")


@KINDS
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_signed_letter_with_any_field_is_whole_or_refused(kind, data):
    names = [n for n in json.loads(LETTERS[kind][0]) if n not in ("kind", "signature", "key")]
    name, value = data.draw(st.sampled_from(names)), data.draw(JSON)
    try:
        changed = resigned(kind, **{name: value})
    except ValueError:
        # No JSON holds infinity.
        return
    said, letter = "letter: ", None
    try:
        letter = kind.read(changed, "letter")
    except ConfigurationError as error:
        said = str(error)
    assert said.startswith("letter: ")
    assert "\n" not in said
    if letter is not None:
        assert kind.read(letter.signed(key(LETTERS[kind][1])).encode(), "x") == letter


@KINDS
@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_flipped_bit_never_passes_as_another_letter(kind, at, bit):
    text = bytearray(LETTERS[kind][0])
    text[at % len(text)] ^= 1 << bit
    try:
        letter = kind.read(bytes(text), "letter")
    except (ConfigurationError, VerificationError):
        return
    # White space, or the same character spelt in another way.
    assert letter == kind.read(LETTERS[kind][0], "letter")


@KINDS
@pytest.mark.parametrize(
    "text",
    [
        b" " * (MOST_BYTES + 1),
        b"[" * 100_000,
        b'{"kind": NaN}',
        b"1" * 10_000,
        b"\xff\xfe",
        b'{"a": 1e999}',
        b"",
    ],
    ids=["large", "deep", "nan", "digits", "bytes", "infinite", "empty"],
)
def test_traps_of_json_are_one_clear_error(kind, text):
    with pytest.raises(ConfigurationError, match="letter"):
        kind.read(text, "letter")


def test_an_infinite_number_behind_the_right_kind_does_not_verify():
    text = LETTERS[SiteLetter][0].replace(b"1e-05", b"1e999")
    assert b"1e999" in text
    with pytest.raises(VerificationError):
        SiteLetter.read(text, "letter")


def test_what_two_disagree_about_is_named():
    other = Agreement(dataset="other", schema="cd" * 32, unit="account", delta=1e-6)
    assert AGREED.differences(AGREED) == []
    assert AGREED.differences(other) == [
        "dataset other instead of mine",
        "schema cdcdcdcdcdcd instead of abababababab",
        "unit account instead of record",
        "delta 1e-06 instead of 1e-05",
    ]
    assert AGREED.differences(dataclasses.replace(AGREED, delta=2e-5)) == [
        "delta 2e-05 instead of 1e-05"
    ]
