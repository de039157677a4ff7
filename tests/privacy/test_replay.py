"""A ledger that its own key signed, and that does not add up."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dp_risk.privacy import keys, statement
from dp_risk.privacy.accounting import Event, Filter
from dp_risk.privacy.entries import CONTEXT, Entry, check, entry_hash
from dp_risk.privacy.ledger import Ledger
from dp_risk.privacy.migration import migrate
from dp_risk.privacy.replay import Replay
from dp_risk.privacy.terms import Terms
from dp_risk.types import VerificationError
from tests.privacy.children import ACCOUNT, KEY, schedule
from tests.privacy.test_ledger import mint, pay
from tests.privacy.test_ledger_migration import ACCOUNT as OLD_ACCOUNT
from tests.privacy.test_ledger_migration import GOLDEN

WHO = {"by": "A. Person", "reason": "a second study"}
# What `honest` writes, by number.
OPEN, RESERVE, FIRST, ANSWER, SECOND, CLOSE, RAISE, NEXT, END, RETIRE = range(10)


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """Entries of every kind."""
    ledger = Ledger.open(tmp_path_factory.mktemp("l") / "ledger", ACCOUNT, key=KEY)
    ledger.reserve(run="r", plan_digest="p", schedule=schedule())
    pay(ledger)
    mint(ledger)
    pay(ledger, 1)
    ledger.close("r")
    ledger.raise_budget(5.0, **WHO)
    ledger.reserve(run="s", plan_digest="p", schedule=schedule(1))
    ledger.retire(**WHO)
    entries = [dataclasses.replace(entry) for entry in ledger.entries()]
    ledger.close_file()
    return entries


def signed(said):
    """Make a chain of kinds and bodies, linked and signed as its site would."""
    made, previous = [], "5a" * 32
    for sequence, (time, kind, body) in enumerate(said):
        text = json.dumps(body)
        hashed = entry_hash(previous, sequence, time, kind, text)
        entry = Entry(
            sequence=sequence, time=time, kind=kind, text=text, previous=previous, hash=hashed,
            signature=keys.sign(KEY, CONTEXT, hashed.encode()),
        )  # fmt: skip
        made.append(entry)
        previous = hashed
    return made


def spoken(entries):
    return [(entry.time, entry.kind, json.loads(entry.text)) for entry in entries]


def replayed(said):
    entries = signed(said)
    check(entries)
    return Replay(Terms.read(entries[0].body)).run(entries)


def test_an_honest_chain_adds_up(honest):
    replay = replayed(spoken(honest))
    assert (replay.lifetime_epsilon, replay.retired) == (5.0, True)


def setting(number, *path, to):
    def change(said):
        target = said[number][2]
        for step in path[:-1]:
            target = target[step]
        assert target[path[-1]] != to
        target[path[-1]] = to

    return change


def inserting(number, source):
    def change(said):
        said.insert(number, json.loads(json.dumps(said[source])))

    return change


def deleting(number):
    return lambda said: said.pop(number)


def swapping(a, b):
    def change(said):
        said[a], said[b] = said[b], said[a]

    return change


def free_reservation(said):
    """Reserve for nothing, and carry that through to the end, as a planted program would."""
    before = said[RESERVE][2]["filter_before"]
    for number in range(RESERVE, len(said)):
        said[number][2]["filter"] = before
        if "filter_before" in said[number][2]:
            said[number][2]["filter_before"] = before


def another_kind(said):
    said[ANSWER] = (said[ANSWER][0], "gift", said[ANSWER][2])


def one_line_twice(said):
    said[RESERVE][2]["schedule"].append(said[RESERVE][2]["schedule"][0])


def first_last(said):
    del said[ANSWER]
    swapping(FIRST, FIRST + 1)(said)


BARE = Event(noise_multiplier=0.0).to_dict()
LESS = Event(noise_multiplier=1.0).to_dict()
LIES = {
    "a total at the opening": (OPEN, setting(OPEN, "filter", "train", to=1.0)),
    "an order below 2": (OPEN, setting(OPEN, "order", to=1)),
    "a reservation that costs nothing": (RESERVE, free_reservation),
    "a total that is too small": (RESERVE, setting(RESERVE, "filter", "train", to=1e-4)),
    "a start from other totals": (NEXT, setting(NEXT, "filter_before", "train", to=0.0)),
    "more rounds than were counted": (RESERVE, setting(RESERVE, "schedule", 1, "rounds", to=4)),
    "less noise than was counted": (RESERVE, setting(RESERVE, "schedule", 1, "event", to=LESS)),
    "no noise": (RESERVE, setting(RESERVE, "schedule", 1, "event", to=BARE)),
    "an unknown event": (RESERVE, setting(RESERVE, "schedule", 1, "event", to={"kind": "x"})),
    "an unknown split": (RESERVE, setting(RESERVE, "schedule", 1, "split", to="elsewhere")),
    "the other account": (RESERVE, setting(RESERVE, "schedule", 1, "split", to="holdout")),
    "a purpose twice": (RESERVE, one_line_twice),
    "a run id twice": (NEXT, setting(NEXT, "run", to="r")),
    "a run inside another": (CLOSE, deleting(CLOSE)),
    "a charge of another run": (FIRST, setting(FIRST, "run", to="s")),
    "a charge for nothing reserved": (FIRST, setting(FIRST, "purpose", to="tuning")),
    "a charge beyond the rounds": (SECOND, setting(SECOND, "round", to=3)),
    "a charge that is no number": (SECOND, setting(SECOND, "round", to="1")),
    "a charge for less noise": (FIRST, setting(FIRST, "event", to=LESS)),
    "a charge to the other account": (FIRST, setting(FIRST, "split", to="holdout")),
    "a charge that moves the total": (FIRST, setting(FIRST, "filter", "holdout", to=0.1)),
    "a charge twice": (SECOND, inserting(SECOND, FIRST)),
    "charges out of order": (FIRST + 1, first_last),
    "a charge after the close": (CLOSE + 1, inserting(CLOSE + 1, SECOND)),
    "a release before its charge": (FIRST, swapping(FIRST, ANSWER)),
    "a release twice": (SECOND, inserting(SECOND, ANSWER)),
    "a release of another round": (ANSWER, setting(ANSWER, "round", to=2)),
    "a close that forgets a round": (CLOSE, setting(CLOSE, "paid", to={"training": 1})),
    "a close that gives too much back": (CLOSE, setting(CLOSE, "filter", "train", to=0.0)),
    "a close of another run": (CLOSE, setting(CLOSE, "run", to="s")),
    "a close twice": (CLOSE + 1, inserting(CLOSE + 1, CLOSE)),
    "a raise downwards": (RAISE, setting(RAISE, "lifetime_epsilon", to=3.0)),
    "a raise from elsewhere": (RAISE, setting(RAISE, "was", to=3.0)),
    "a raise twice": (RAISE + 1, inserting(RAISE + 1, RAISE)),
    "a retirement with a run open": (RETIRE - 1, deleting(END)),
    "a retirement at another budget": (RETIRE, setting(RETIRE, "lifetime_epsilon", to=6.0)),
    "a close after the retirement": (RETIRE + 1, inserting(RETIRE + 1, END)),
    "a release after the retirement": (RETIRE + 1, inserting(RETIRE + 1, ANSWER)),
    "a total that is missing": (FIRST, setting(FIRST, "filter", to=None)),
    "an entry of no known kind": (ANSWER, another_kind),
}


@pytest.mark.parametrize(("entry", "lie"), LIES.values(), ids=LIES)
def test_a_signed_chain_that_does_not_add_up_names_its_entry(honest, entry, lie):
    said = spoken(honest)
    lie(said)
    with pytest.raises(VerificationError, match=f"^ledger entry {entry} does not hold: ") as error:
        replayed(said)
    assert "\n" not in str(error.value)


@given(
    entry=st.integers(0, RETIRE),
    split=st.sampled_from(["train", "holdout"]),
    by=st.floats(1e-6, 10.0) | st.floats(-10.0, -1e-6),
)
@settings(max_examples=60, deadline=None)
def test_no_total_can_be_anything_else(honest, entry, split, by):
    said = spoken(honest)
    said[entry][2]["filter"][split] += by
    with pytest.raises(VerificationError, match=f"ledger entry {entry} does not hold"):
        replayed(said)


def test_totals_never_exceed_the_budget_then_in_force(honest):
    said = spoken(honest)
    # A raise that comes too late does not count: the same reservation, before and after it.
    dear = Event(noise_multiplier=0.9)
    lines = [{"name": "x", "split": "holdout", "event": dear.to_dict(), "rounds": 1}]
    terms = Terms.read(honest[0].body)
    cost = dear_cost(terms, dear)
    body = {"run": "x", "plan": "p", "schedule": lines}
    totals = said[CLOSE][2]["filter"]
    body |= {"filter_before": totals, "filter": {**totals, "holdout": cost}}
    reserve = ("2026-01-01", "reserve", body)
    late, early = said[: CLOSE + 1], said[: RAISE + 1]
    early[RAISE][2]["lifetime_epsilon"] = 50.0
    assert replayed([*early, reserve]).lifetime_epsilon == 50.0
    with pytest.raises(VerificationError, match=r"entry 6 .*budget of holdout is exceeded"):
        replayed([*late, reserve])


def dear_cost(terms, event):
    account = terms.account
    filter = Filter(
        lifetime_epsilon=account.lifetime_epsilon, delta=account.delta, order=terms.order
    )
    return filter.cost(event)


def test_a_planted_program_is_found_by_ledger_and_statement(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "_after", lambda self, before, schedule: dict(before))
        patch.setattr(Ledger, "audit", lambda self: None)
        ledger = Ledger.open(tmp_path / "ledger.sqlite", ACCOUNT, key=KEY)
        for number in range(3):
            ledger.reserve(run=f"r{number}", plan_digest="p", schedule=schedule())
            pay(ledger, run=f"r{number}")
            mint(ledger, run=f"r{number}")
        path = tmp_path / "statement.json"
        path.write_text(statement.export(ledger))
    for look in (ledger.verify, lambda: statement.verify(path), lambda: statement.export(ledger)):
        with pytest.raises(VerificationError, match="ledger entry 1 does not hold: its totals"):
            look()
    ledger.close_file()


@pytest.mark.parametrize(
    "change",
    [{"order": 4}, {"lifetime_epsilon": 9.0}, {"delta": 1e-3}, {"dataset": "x"}, {"splits": []}],
    ids=str,
)
def test_a_statement_says_what_its_chain_says(tmp_path, honest, change):
    def saying(**account):
        entries = signed(spoken(honest))
        terms = Terms.read(entries[0].body)
        body = {
            "schema_version": 1,
            "kind": "ledger statement",
            "account": {
                **dataclasses.asdict(terms.account), "order": terms.order,
                "lifetime_epsilon": 5.0, **account,
            },
            "head": entries[-1].hash,
            "retired": True,
            "public_key": terms.key,
            "entries": [dataclasses.asdict(entry) for entry in entries],
        }  # fmt: skip
        said = keys.sign(KEY, statement.CONTEXT, statement.canonical(body))
        path = tmp_path / "statement.json"
        path.write_text(json.dumps({**body, "signature": said}, indent=2) + "\n")
        return statement.verify(path)

    assert saying().entries == len(honest)
    # A policy stricter than the chain may have been in force.
    assert saying(lifetime_epsilon=2.0).entries == len(honest)
    with pytest.raises(VerificationError, match="statement does not hold"):
        saying(**change)


def test_version_1_is_followed_as_far_as_it_says(tmp_path):
    path = tmp_path / "ledger.sqlite"
    shutil.copy(GOLDEN / "ledger-1.sqlite", path)
    migrate(path, OLD_ACCOUNT, key=KEY)
    ledger = Ledger.open(path)
    entries = list(ledger.entries())
    terms = Terms.read(entries[16].body)
    Replay(terms).run(entries)
    for number, (old, new) in {
        0: ('"order": 3', '"order": 4'),
        1: ('"rounds": 3', '"rounds": 300'),
        4: ('"noise_multiplier": 8.0', '"noise_multiplier": 9.0'),
        9: ('"round": 2', '"round": 1'),
        10: ('"training": 3', '"training": 2'),
        12: ('"filter": 0.01', '"filter": 0.02'),
        16: ('"filter": {"train": 0.01', '"filter": {"train": 0.00'),
    }.items():
        text = entries[number].text.replace(old, new)
        assert text != entries[number].text
        spoilt = [*entries]
        spoilt[number] = dataclasses.replace(entries[number], text=text)
        with pytest.raises(VerificationError, match=f"ledger entry {number} does not hold"):
            Replay(terms).run(spoilt)
    ledger.close_file()
