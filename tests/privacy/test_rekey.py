"""A site's key is rotated inside its ledger: signed by the old one and by the new one."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from dp_risk.privacy import keys, seal, statement
from dp_risk.privacy.entries import CONTEXT, check, entry_hash, follow, sign_consent, verify_head
from dp_risk.privacy.ledger import Ledger
from dp_risk.privacy.replay import Replay
from dp_risk.privacy.terms import Terms
from dp_risk.types import ConfigurationError, Refused, VerificationError
from tests.privacy.children import ACCOUNT, KEY, schedule
from tests.privacy.test_ledger import mint, pay

SECOND, THIRD = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (8, 9))
PUBLIC, PUBLIC_2, PUBLIC_3 = map(keys.public_hex, (KEY, SECOND, THIRD))
PARTITION = {"split key": "6b" * 32}
ROTATED = dataclasses.replace(ACCOUNT, partition=PARTITION)
WHO = {"by": "A. Person", "reason": "once a year"}
GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path):
    """A ledger with one closed run."""
    opened = Ledger.open(path, ACCOUNT, key=KEY)
    opened.reserve(run="r", plan_digest="p", schedule=schedule())
    pay(opened)
    mint(opened)
    opened.close("r")
    yield opened
    opened.close_file()


def rekey(ledger, new=SECOND, partition=PARTITION, **changes):
    return ledger.rekey(new, partition=partition, **{**WHO, **changes})


def test_everything_after_a_rotation_is_signed_by_the_new_key(ledger, path):
    before, head = ledger.state, ledger.last.hash
    amendment = rekey(ledger)
    assert (amendment.kind, amendment.by, amendment.reason) == ("rekey", *WHO.values())
    assert ledger.public_key == PUBLIC_2
    assert ledger.state.balances == before.balances
    assert ledger.last.previous == head
    # The head is signed by the key in force at once: that is what a server asks for.
    assert verify_head(PUBLIC_2, ledger.state.head, ledger.state.signature)
    ledger.reserve(run="s", plan_digest="p", schedule=schedule())
    pay(ledger, run="s")
    assert mint(ledger, run="s").signed_by(PUBLIC_2)
    ledger.close("s")
    ledger.close_file()
    again = Ledger.open(path, ROTATED, key=SECOND)
    verified = again.verify()
    assert (verified.key, verified.earlier, verified.sealed) == (PUBLIC_2, (PUBLIC,), True)
    assert again.account.partition == PARTITION
    again.close_file()


def test_a_second_rotation_follows_the_first(ledger, path):
    rekey(ledger)
    rekey(ledger, THIRD)
    assert ledger.verify().earlier == (PUBLIC, PUBLIC_2)
    assert follow(ledger.rekeys()) == (PUBLIC, PUBLIC_2, PUBLIC_3)
    for back in (KEY, SECOND, THIRD):
        with pytest.raises(ConfigurationError, match="in force before"):
            rekey(ledger, back)


def test_a_key_that_is_not_in_force_opens_nothing(ledger, path):
    rekey(ledger)
    for wrong in (KEY, THIRD):
        with pytest.raises(Refused, match=f"{PUBLIC_2[:16]} is in force, .*restore site.key") as no:
            Ledger.open(path, key=wrong)
        assert "\n" not in str(no.value)
    with pytest.raises(Refused, match="split key changed"):
        Ledger.open(path, ACCOUNT, key=SECOND)


def test_a_process_with_the_old_key_writes_nothing_more(ledger, path):
    late = Ledger.open(path, ACCOUNT, key=KEY)
    rekey(ledger)
    for act in (
        lambda: late.reserve(run="s", plan_digest="p", schedule=schedule()),
        lambda: late.retire(**WHO),
        lambda: rekey(late, THIRD),
    ):
        with pytest.raises(Refused, match="rotated meanwhile"):
            act()
    late.close_file()
    assert ledger.verify().entries == ledger.state.entries


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"by": " "}, ConfigurationError),
        ({"reason": "two\nlines"}, ConfigurationError),
        ({"partition": {}}, ConfigurationError),
        ({"partition": {**PARTITION, "more": "x"}}, ConfigurationError),
        ({"new": KEY}, ConfigurationError),
    ],
    ids=str,
)
def test_an_impossible_rotation_leaves_everything_as_it_was(ledger, path, changes, error):
    before = ledger.state
    with pytest.raises(error):
        rekey(ledger, **changes)
    assert ledger.state == before
    ledger.reserve(run="s", plan_digest="p", schedule=schedule())
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT value FROM meta").fetchall() == [("2",)]


def test_an_open_run_and_a_retired_ledger_refuse_a_rotation(ledger):
    ledger.reserve(run="s", plan_digest="p", schedule=schedule())
    before = ledger.state
    with pytest.raises(Refused, match="a run is open"):
        rekey(ledger)
    assert ledger.state == before
    ledger.retire(**WHO)
    with pytest.raises(Refused, match="retired"):
        rekey(ledger)


def test_only_a_rotated_ledger_has_the_version_that_older_programs_refuse(ledger, path):
    def version():
        with closing(sqlite3.connect(path)) as file:
            return file.execute("SELECT value FROM meta").fetchall()

    assert version() == [("2",)]
    rekey(ledger)
    assert version() == [("3",)]


def test_a_seal_from_before_a_rotation_still_holds(ledger, path):
    sealed = seal.place(path).read_bytes()
    rekey(ledger)
    assert seal.place(path).read_bytes() != sealed
    # Killed before it is sealed again.
    seal.place(path).write_bytes(sealed)
    again = Ledger.open(path, ROTATED, key=SECOND)
    assert not again.verify().sealed
    again.close_file()
    # The old key seals no ledger of the new one.
    said = json.loads(seal.place(path).read_bytes())
    last = ledger.last
    body = {"entries": last.sequence + 1, "head": last.hash, "sha256": said["sha256"]}
    forged = {**body, "signature": keys.sign(KEY, seal.CONTEXT, seal.canonical(body))}
    seal.place(path).write_bytes(seal.canonical(forged) + b"\n")
    with pytest.raises(Refused, match="seal does not hold"):
        Ledger.open(path, key=SECOND)


def test_a_statement_follows_a_rotation(ledger, tmp_path):
    rekey(ledger)
    file = tmp_path / "statement.json"
    text = statement.export(ledger)
    file.write_text(text)
    verified = statement.verify(file)
    assert (verified.key, verified.earlier) == (PUBLIC_2, (PUBLIC,))
    said = json.loads(text)
    assert said["account"]["partition"] == PARTITION
    del said["signature"]
    old = keys.sign(KEY, statement.CONTEXT, statement.canonical(said))
    file.write_text(json.dumps({**said, "signature": old}, indent=2) + "\n")
    with pytest.raises(VerificationError, match="does not hold"):
        statement.verify(file)


def forged(entry, *, signer=SECOND, consenting=KEY, previous=None, **changes):
    """Return a "rekey" entry with another body, signed by whom it says."""
    body = {**json.loads(entry.text), **changes}
    before = entry.previous if previous is None else previous
    if "consent" not in changes:
        body["consent"] = sign_consent(consenting, before, body)
    text = json.dumps(body)
    hashed = entry_hash(entry.previous, entry.sequence, entry.time, entry.kind, text)
    signature = keys.sign(signer, CONTEXT, hashed.encode())
    return dataclasses.replace(entry, text=text, hash=hashed, signature=signature)


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"consenting": SECOND}, "did not sign for another"),
        ({"consenting": THIRD, "was": PUBLIC_3}, "did not sign for another"),
        ({"previous": "0" * 64}, "did not sign for another"),
        ({"consent": "0" * 128}, "did not sign for another"),
        ({"consent": None}, "did not sign for another"),
        ({"key": PUBLIC}, "did not sign for another"),
        ({"key": PUBLIC_3}, "the new key did not sign"),
        ({"signer": KEY}, "the new key did not sign"),
    ],
    ids=str,
)
def test_a_rotation_that_one_of_both_keys_did_not_sign_does_not_hold(ledger, how, why):
    rekey(ledger)
    *chain, last = ledger.entries()
    check([*chain, forged(last)])
    with pytest.raises(VerificationError, match=f"entry {last.sequence} does not hold: .*{why}"):
        check([*chain, forged(last, **how)])
    if "was" not in how:
        with pytest.raises(VerificationError):
            follow([forged(last, **how)])


@pytest.mark.parametrize(
    "change",
    [
        {"partition": {}}, {"partition": None}, {"lifetime_epsilon": 9.0}, {"filter": {"train": 9}},
    ],
    ids=str,
)  # fmt: skip
def test_a_rotation_changes_nothing_else(ledger, change):
    rekey(ledger)
    *chain, last = ledger.entries()
    terms = Terms.read(chain[0].body)
    assert Replay(terms).run([*chain, last]).terms.key == PUBLIC_2
    with pytest.raises(VerificationError, match=f"entry {last.sequence} does not hold"):
        Replay(terms).run([*chain, forged(last, **change)])


def test_rotations_of_two_ledgers_make_no_chain(ledger, tmp_path):
    rekey(ledger)
    other = Ledger.open(tmp_path / "other.sqlite", ACCOUNT, key=THIRD)
    rekey(other, SECOND)
    with pytest.raises(VerificationError):
        follow([*ledger.rekeys(), *other.rekeys()])
    other.close_file()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_changed_character_of_a_rotation_holds(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("r") / "ledger.sqlite"
    ledger = Ledger.open(path, ACCOUNT, key=KEY)
    rekey(ledger)
    [entry] = ledger.rekeys()
    ledger.close_file()
    name = data.draw(st.sampled_from(["text", "previous", "hash", "signature", "time", "kind"]))
    text = getattr(entry, name)
    at = data.draw(st.integers(0, len(text) - 1))
    letter = data.draw(st.characters(min_codepoint=32, max_codepoint=126))
    changed = text[:at] + letter + text[at + 1 :]
    if changed != text:
        with pytest.raises(VerificationError):
            follow([dataclasses.replace(entry, **{name: changed})])


def test_the_golden_file_of_version_3_still_holds(tmp_path):
    for name in ("ledger-3.sqlite", "ledger-3.seal"):
        shutil.copy(GOLDEN / name, tmp_path / name)
    ledger = Ledger.open(tmp_path / "ledger-3.sqlite", key=SECOND)
    verified = ledger.verify()
    assert (verified.unsigned, verified.sealed, verified.earlier) == (16, True, (PUBLIC,))
    [rotated] = ledger.rekeys()
    assert (rotated.body["by"], rotated.body["was"]) == ("A. Person", PUBLIC)
    assert ledger.state.lifetime_epsilon == 12.0
    ledger.reserve(run="next", plan_digest="p", schedule=schedule())
    assert ledger.state.open_run == "next"
    ledger.close_file()
