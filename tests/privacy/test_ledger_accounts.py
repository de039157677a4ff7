"""Two accounts in one chain, budgets that move, and who may write."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from dp_risk.privacy import keys, seal, statement
from dp_risk.privacy.accounting import Event
from dp_risk.privacy.entries import CONTEXT, entry_hash
from dp_risk.privacy.ledger import Ledger
from dp_risk.privacy.schedule import Purpose
from dp_risk.types import ConfigurationError, Refused, VerificationError
from tests.privacy.children import ACCOUNT, KEY
from tests.privacy.test_ledger import mint, pay, refused_without_a_trace, schedule

WHO = {"by": "A. Person", "reason": "a second study"}


def line(split, noise=3.0, rounds=1, name=None):
    event = Event(noise_multiplier=noise)
    return Purpose(name=name or f"of-{split}", split=split, event=event, rounds=rounds)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path):
    opened = Ledger.open(path, ACCOUNT, key=KEY)
    yield opened
    opened.close_file()


def under(path, **changes):
    return Ledger.open(path, dataclasses.replace(ACCOUNT, **changes), key=KEY)


def test_each_split_has_the_whole_budget_to_itself(ledger):
    full = ledger.filter.capacity
    noise = math.sqrt(ledger.filter.order / (2 * full * 0.6))
    lines = (line("train", noise), line("holdout", noise))
    assert ledger.quote(lines) <= ACCOUNT.lifetime_epsilon
    ledger.reserve(run="r", plan_digest="p", schedule=lines)
    pay(ledger, purpose="of-holdout")
    ledger.close("r")
    balances = ledger.state.balances
    assert balances["train"].used == 0
    assert balances["train"].left_epsilon == ACCOUNT.lifetime_epsilon
    assert balances["holdout"].used == pytest.approx(0.6)
    assert ledger.state.used == balances["holdout"].used
    assert ledger.state.spent_epsilon == balances["holdout"].spent_epsilon
    # One account that is full refuses the whole schedule.
    with refused_without_a_trace(ledger, "lifetime budget of holdout"):
        ledger.reserve(run="s", plan_digest="p", schedule=lines)
    ledger.reserve(run="s", plan_digest="p", schedule=lines[:1])


def test_one_account_pays_for_both_in_sequence(path):
    ledger = under(path, splits=("both",))
    noise = math.sqrt(ledger.filter.order / (2 * ledger.filter.capacity * 0.6))
    two = (line("both", noise, name="a"), line("both", noise, name="b"))
    with refused_without_a_trace(ledger, "lifetime budget of both"):
        ledger.reserve(run="r", plan_digest="p", schedule=two)
    for split in ("train", "holdout"):
        with refused_without_a_trace(ledger, f"no account of the split {split}"):
            ledger.reserve(run="r", plan_digest="p", schedule=(line(split),))
    with pytest.raises(Refused, match="no account"):
        ledger.quote((line("train"),))
    ledger.close_file()


def test_a_purpose_stands_once_in_a_schedule(ledger):
    with refused_without_a_trace(ledger, "twice"):
        ledger.reserve(
            run="r", plan_digest="p", schedule=(line("train", name="a"), line("holdout", name="a"))
        )


@pytest.mark.parametrize("splits", [(), ("train",), ("holdout", "train"), ("train", "both")])
def test_no_other_splits_can_be_had(splits):
    with pytest.raises(ConfigurationError, match="splits"):
        dataclasses.replace(ACCOUNT, splits=splits)


@given(
    rounds=st.lists(
        st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(0, 3), st.integers(0, 3)),
        min_size=1, max_size=4,
    )
)  # fmt: skip
@settings(max_examples=15, deadline=None)
def test_what_an_account_shows_is_what_its_own_rounds_cost(tmp_path_factory, rounds):
    ledger = Ledger.open(tmp_path_factory.mktemp("l") / "ledger", ACCOUNT, key=KEY)
    ledger._chain.connection.execute("PRAGMA synchronous=OFF")
    spent = {"train": 0.0, "holdout": 0.0}
    for number, (train, holdout, *paid) in enumerate(rounds):
        lines = (line("train", 30.0, train), line("holdout", 40.0, holdout))
        ledger.reserve(run=f"{number}", plan_digest="p", schedule=lines)
        for one, asked in zip(lines, paid, strict=True):
            for at in range(min(asked, one.rounds)):
                pay(ledger, at, run=f"{number}", purpose=one.name)
                spent[one.split] += ledger.filter.cost(one.event)
    ledger.close(f"{len(rounds) - 1}")
    last = list(ledger.entries())[-1].body["filter"]
    assert last == pytest.approx(spent)
    balances = ledger.state.balances
    for split, total in spent.items():
        assert balances[split].spent_epsilon == pytest.approx(ledger.filter.epsilon(total))
    ledger.verify()
    ledger.close_file()


def test_without_the_key_a_ledger_is_only_read(ledger, path, tmp_path):
    ledger.reserve(run="r", plan_digest="p", schedule=schedule())
    reader = Ledger.open(path, ACCOUNT)
    assert reader.state == ledger.state
    for write in (
        lambda: reader.reserve(run="s", plan_digest="p", schedule=schedule()),
        lambda: pay(reader),
        lambda: mint(reader),
        lambda: reader.close("r"),
        lambda: reader.raise_budget(9.0, **WHO),
        lambda: reader.retire(**WHO),
    ):
        with refused_without_a_trace(ledger, "key"):
            write()
    with pytest.raises(ConfigurationError, match="no ledger here"):
        Ledger.open(tmp_path / "absent", ACCOUNT)
    assert not (tmp_path / "absent").exists()


def test_reading_leaves_nothing_behind(ledger, path):
    ledger.close_file()
    before = path.read_bytes()
    reader = Ledger.open(path)
    reader.verify()
    reader.close_file()
    assert path.read_bytes() == before
    assert {p.name for p in path.parent.iterdir()} == {path.name, seal.place(path).name}


def test_another_key_cannot_go_on(ledger, path):
    with pytest.raises(Refused, match="another site key"):
        Ledger.open(path, ACCOUNT, key=Ed25519PrivateKey.generate())


def test_the_head_is_signed_and_so_is_a_release(ledger):
    ledger.reserve(run="r", plan_digest="p", schedule=schedule())
    pay(ledger)
    release = mint(ledger)
    state = ledger.state
    assert release.ledger_head == state.head
    public = keys.public_hex(KEY)
    assert ledger.public_key == public
    assert keys.verify(public, CONTEXT, state.head.encode(), state.signature)
    assert release.signed_by(public)
    for field in ("run", "purpose", "digest", "ledger_head", "signature"):
        assert not dataclasses.replace(release, **{field: "00" * 32}).signed_by(public)
    assert not dataclasses.replace(release, round=1).signed_by(public)
    # The head's own signature is for another use.
    assert not dataclasses.replace(release, signature=state.signature).signed_by(public)
    stored = pay(ledger)
    assert stored.signature == release.signature
    assert ledger.head_at(run="r", purpose="training", round=0) == release.ledger_head
    assert ledger.head_at(run="r", purpose="training", round=1) is None
    hashes = [entry.hash for entry in ledger.entries()]
    assert [ledger.hash_at(n) for n in range(len(hashes) + 1)] == [*hashes, None]
    assert ledger.hash_at(-1) is None


def test_the_smaller_budget_of_policy_and_chain_is_in_force(ledger, path):
    ledger.reserve(run="r", plan_digest="p", schedule=schedule())
    with pytest.raises(Refused, match=r"lifetime_epsilon 5, the ledger 4.*dp-risk ledger raise"):
        under(path, lifetime_epsilon=5.0)
    lower = under(path, lifetime_epsilon=3.0)
    assert lower.state.lifetime_epsilon == lower.account.lifetime_epsilon == 3.0
    assert lower.filter.order == ledger.filter.order
    assert lower.filter.capacity < ledger.filter.capacity
    assert pay(lower) is None
    # Below what the open run reserved nothing more is paid, and above it, it goes on.
    tiny = under(path, lifetime_epsilon=0.01)
    with refused_without_a_trace(ledger, "below what the run reserved"):
        pay(tiny, 1)
    with refused_without_a_trace(ledger, "lifetime budget"):
        tiny.reserve(run="s", plan_digest="p", schedule=schedule(1))
    state = tiny.state
    assert (state.left_epsilon, state.used) == (0.0, 1.0)
    assert pay(ledger, 1) is None


def test_a_raise_is_signed_and_makes_room(ledger, path):
    dear = (line("train", 0.8),)
    with refused_without_a_trace(ledger, "lifetime budget"):
        ledger.reserve(run="r", plan_digest="p", schedule=dear)
    order = ledger.filter.order
    made = ledger.raise_budget(8.0, **WHO)
    assert (made.kind, made.lifetime_epsilon, made.by, made.reason) == ("raise", 8.0, *WHO.values())
    assert ledger.amendments() == (made,)
    # Open under the old policy, a ledger keeps to it.
    assert ledger.account.lifetime_epsilon == 4.0
    wide = under(path, lifetime_epsilon=8.0)
    assert wide.filter.order == order
    wide.reserve(run="r", plan_digest="p", schedule=dear)
    wide.verify()
    for wrong in (8.0, 7.0, math.inf, math.nan):
        before = ledger.state
        with pytest.raises(ConfigurationError, match="already"):
            ledger.raise_budget(wrong, **WHO)
        assert ledger.state == before
    for wrong in ({**WHO, "by": " "}, {**WHO, "reason": ""}, {**WHO, "reason": "two\nlines"}):
        before = ledger.state
        with pytest.raises(ConfigurationError, match="one line"):
            ledger.raise_budget(9.0, **wrong)
        assert ledger.state == before


def test_a_retired_ledger_releases_nothing(ledger, path):
    ledger.reserve(run="r", plan_digest="p", schedule=schedule())
    pay(ledger)
    mint(ledger)
    # Paid, and still being computed when the owner ends it all.
    pay(ledger, 1)
    made = ledger.retire(**WHO)
    assert [entry.kind for entry in ledger.entries()][-2:] == ["close", "retire"]
    again = Ledger.open(path, ACCOUNT, key=KEY)
    assert again.state.retired
    assert again.state.open_run is None
    assert again.amendments() == (made,)
    for write in (
        lambda: again.reserve(run="s", plan_digest="p", schedule=schedule(1)),
        lambda: pay(again),
        lambda: pay(again, 2),
        lambda: mint(again, 1),
        lambda: again.raise_budget(9.0, **WHO),
        lambda: again.retire(**WHO),
    ):
        with refused_without_a_trace(ledger, "retired"):
            write()
    assert again.verify().sealed


def test_a_closed_ledger_is_sealed_until_it_goes_on(ledger, path):
    ledger.reserve(run="r", plan_digest="p", schedule=schedule())
    assert not ledger.verify().sealed
    ledger.close("r")
    assert ledger.verify().sealed
    ledger.close_file()
    assert Ledger.open(path).verify().sealed
    more = Ledger.open(path, ACCOUNT, key=KEY)
    more.reserve(run="s", plan_digest="p", schedule=schedule())
    assert not more.verify().sealed
    more.close_file()


def test_a_copy_from_before_its_seal_is_found(ledger, path):
    ledger.reserve(run="r", plan_digest="p", schedule=schedule())
    ledger.close("r")
    old = path.read_bytes()
    ledger.reserve(run="s", plan_digest="p", schedule=schedule())
    ledger.close("s")
    ledger.close_file()
    path.write_bytes(old)
    with pytest.raises(VerificationError, match="3 entries, and 5 when it was sealed"):
        Ledger.open(path).verify()
    seal.place(path).unlink()
    # Without the seal only the server's memory of heads tells: entry 4 is not there.
    opened = Ledger.open(path)
    assert not opened.verify().sealed
    assert opened.hash_at(4) is None


def test_a_statement_holds_the_chain_and_no_answer(ledger, tmp_path):
    ledger.reserve(run="r", plan_digest="p", schedule=schedule())
    pay(ledger)
    mint(ledger)
    text = statement.export(ledger)
    assert "payload" not in text
    assert KEY.private_bytes_raw().hex() not in text
    path = tmp_path / "statement.json"
    path.write_text(text)
    verified = statement.verify(path)
    assert (verified.entries, verified.head) == (4, ledger.state.head)
    assert verified.key == keys.public_hex(KEY)
    # Signed by the wrong key, with one entry less, or spelled otherwise.
    signed = json.loads(text)
    for change in (
        {"entries": signed["entries"][:-1]},
        {"entries": []},
        {"public_key": "00" * 32},
        {"head": "00" * 32},
        {"retired": True},
        {"more": 1},
    ):
        path.write_text(json.dumps({**signed, **change}, indent=2) + "\n")
        with pytest.raises(VerificationError):
            statement.verify(path)
    path.write_text(json.dumps(signed))
    with pytest.raises(VerificationError):
        statement.verify(path)


@given(at=st.integers(0, 10**9), bit=st.integers(0, 7))
@settings(max_examples=60, deadline=None)
def test_any_byte_of_a_statement_counts(tmp_path_factory, at, bit):
    folder = tmp_path_factory.getbasetemp() / "statement"
    path = folder / "statement.json"
    if not folder.exists():
        folder.mkdir()
        ledger = Ledger.open(folder / "ledger.sqlite", ACCOUNT, key=KEY)
        (folder / "whole").write_text(statement.export(ledger))
        ledger.close_file()
    whole = bytearray((folder / "whole").read_bytes())
    whole[at % len(whole)] ^= 1 << bit
    path.write_bytes(bytes(whole))
    with pytest.raises(VerificationError):
        statement.verify(path)


@pytest.mark.parametrize("rehashed", [False, True])
def test_nothing_is_paid_on_top_of_an_edited_entry(ledger, rehashed):
    ledger.reserve(run="r", plan_digest="p", schedule=schedule())
    last = list(ledger.entries())[-1]
    text = last.text.replace('"rounds": 3', '"rounds": 9')
    edited = dataclasses.replace(last, text=text)
    hashed = entry_hash(last.previous, last.sequence, last.time, last.kind, text)
    ledger._chain.connection.execute(
        "UPDATE entry SET body = ?, hash = ? WHERE sequence = ?",
        (text, hashed if rehashed else last.hash, last.sequence),
    )
    assert text != last.text
    assert not edited.holds
    for write in (lambda: pay(ledger), lambda: ledger.close("r"), lambda: ledger.retire(**WHO)):
        with pytest.raises(ConfigurationError, match=r"entry 1 does not hold.*ledger verify"):
            write()
    assert len(list(ledger.entries())) == 2
