from __future__ import annotations

import dataclasses
import multiprocessing
import signal
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dp_risk.privacy.accounting import Event
from dp_risk.privacy.ledger import Ledger
from dp_risk.privacy.release import arrays_digest
from dp_risk.privacy.schedule import Purpose
from dp_risk.types import ConfigurationError, DpRiskError, Refused, VerificationError
from tests.privacy.children import ACCOUNT, KEY, pay_and_die, pay_for_all, schedule

ARRAYS = {"w": np.array([1.0, -2.5]), "b": np.array([[3.0]])}
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path):
    opened = Ledger.open(path, ACCOUNT, key=KEY)
    yield opened
    opened.close_file()


@pytest.fixture
def reserved(ledger):
    ledger.reserve(run="r", plan_digest="p", schedule=schedule())
    return ledger


def pay(ledger, round=0, *, run="r", plan="p", purpose="training", request="q"):
    return ledger.pay(run=run, plan_digest=plan, purpose=purpose, round=round, request=request)


def mint(ledger, round=0, *, run="r", purpose="training", arrays=ARRAYS):
    return ledger.mint(run=run, purpose=purpose, round=round, arrays=arrays)


def total(ledger):
    return list(ledger.entries())[-1].body["filter"]["train"]


def kinds(ledger):
    return [entry.kind for entry in ledger.entries()]


def snapshot(ledger):
    return [entry.hash for entry in ledger.entries()]


def refused_without_a_trace(ledger, match):
    """Refuse, and leave the ledger as it was."""
    return _Untouched(ledger, match)


class _Untouched:
    def __init__(self, ledger, match):
        self.ledger, self.raises = ledger, pytest.raises(Refused, match=match)

    def __enter__(self):
        self.before = snapshot(self.ledger)
        return self.raises.__enter__()

    def __exit__(self, *error):
        swallowed = self.raises.__exit__(*error)
        assert snapshot(self.ledger) == self.before
        return swallowed


def test_the_charge_is_on_disk_before_there_is_an_answer(reserved, path):
    assert pay(reserved) is None
    with closing(sqlite3.connect(path)) as other:
        rows = other.execute("SELECT kind FROM entry ORDER BY sequence").fetchall()
        answers = other.execute("SELECT digest, payload FROM answer").fetchall()
    assert [kind for (kind,) in rows] == ["open", "reserve", "charge"]
    assert answers == [(None, None)]
    release = mint(reserved)
    assert kinds(reserved) == ["open", "reserve", "charge", "release"]
    assert release.ledger_head == reserved.state.head
    assert release.digest == arrays_digest(ARRAYS)
    assert reserved.verify().entries == 4


def test_nothing_is_minted_without_pay(reserved):
    with refused_without_a_trace(reserved, "paid"):
        mint(reserved)
    pay(reserved)
    for wrong in ({"round": 1}, {"purpose": "counts"}, {"run": "other"}):
        with refused_without_a_trace(reserved, "paid"):
            mint(reserved, **wrong)
    mint(reserved)
    with refused_without_a_trace(reserved, "paid"):
        mint(reserved, arrays={"w": np.zeros(2)})


def test_a_replay_gets_the_stored_release(reserved, path):
    pay(reserved)
    first = mint(reserved)
    pay(reserved, 1)
    before = snapshot(reserved)
    # Another process, as after every message of a deployment.
    again = Ledger.open(path, ACCOUNT, key=KEY)
    answer = pay(again)
    assert snapshot(again) == before
    again.close_file()
    assert answer is not None
    assert (answer.digest, answer.ledger_head) == (first.digest, first.ledger_head)
    assert {k: v.tolist() for k, v in answer.arrays.items()} == {
        k: v.tolist() for k, v in ARRAYS.items()
    }
    assert all(answer.arrays[k].shape == v.shape for k, v in ARRAYS.items())


def test_another_request_for_an_answered_round_is_refused(reserved):
    pay(reserved)
    mint(reserved)
    with refused_without_a_trace(reserved, "cannot be answered again"):
        pay(reserved, request="other")


def test_a_paid_round_without_an_answer_stays_unanswered(reserved, path):
    pay(reserved)
    for request in ("q", "other"):
        with refused_without_a_trace(reserved, "cannot be answered again"):
            pay(reserved, request=request)
    pay(reserved, 1)
    mint(reserved, 1)
    reserved.close("r")
    with refused_without_a_trace(reserved, "cannot be answered again"):
        pay(reserved)


def test_rounds_come_in_order(reserved):
    pay(reserved, 1)
    with refused_without_a_trace(reserved, "out of order"):
        pay(reserved, 0)
    pay(reserved, 2)
    # Purposes are counted apart.
    assert pay(reserved, 0, purpose="counts") is None


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"round": 3}, "not in the reserved schedule"),
        ({"round": -1}, "not in the reserved schedule"),
        ({"purpose": "tuning"}, "not in the reserved schedule"),
        ({"round": 1, "purpose": "counts"}, "not in the reserved schedule"),
        ({"plan": "other"}, "another plan"),
        ({"run": "other"}, "not open"),
    ],
    ids=str,
)
def test_only_what_was_reserved_can_be_paid(reserved, wrong, match):
    with refused_without_a_trace(reserved, match):
        pay(reserved, **wrong)


def test_nothing_is_paid_before_or_after_a_run(ledger):
    with refused_without_a_trace(ledger, "not open"):
        pay(ledger)
    ledger.reserve(run="r", plan_digest="p", schedule=schedule())
    pay(ledger)
    mint(ledger)
    ledger.close("r")
    with refused_without_a_trace(ledger, "not open"):
        pay(ledger, 1)
    with refused_without_a_trace(ledger, "answers are gone"):
        pay(ledger)


def test_the_lifetime_holds_and_says_what_is_left(ledger):
    too_dear = schedule(rounds=3, noise=0.5)
    with refused_without_a_trace(ledger, r"epsilon 4 of 4 is left.*total to \d"):
        ledger.reserve(run="r", plan_digest="p", schedule=too_dear)
    assert ledger.quote(too_dear) > ACCOUNT.lifetime_epsilon
    # It takes no id and leaves room for what fits.
    ledger.reserve(run="r", plan_digest="p", schedule=schedule())
    assert ledger.quote(schedule()) <= ACCOUNT.lifetime_epsilon


def test_a_reservation_fills_the_lifetime_to_the_brim_and_no_further(ledger):
    order, capacity = ledger.filter.order, ledger.filter.capacity

    def line(divergence):
        noise = (order / (2 * divergence)) ** 0.5
        return (
            Purpose(name="training", split="train", event=Event(noise_multiplier=noise), rounds=1),
        )

    with refused_without_a_trace(ledger, "lifetime budget"):
        ledger.reserve(run="a", plan_digest="p", schedule=line(capacity * 1.001))
    ledger.reserve(run="b", plan_digest="p", schedule=line(capacity * 0.999))
    pay(ledger, run="b")
    ledger.close("b")
    assert ledger.state.used == pytest.approx(0.999)
    with refused_without_a_trace(ledger, "lifetime budget"):
        ledger.reserve(run="c", plan_digest="p", schedule=line(capacity * 0.002))


def test_runs_add_up_until_the_budget_is_gone(ledger):
    lines = schedule(2, noise=4.0)
    runs = 0
    while ledger.quote(lines) <= ACCOUNT.lifetime_epsilon:
        name = f"run-{runs}"
        ledger.reserve(run=name, plan_digest="p", schedule=lines)
        pay(ledger, 0, run=name)
        pay(ledger, 1, run=name)
        ledger.close(name)
        runs += 1
    assert runs > 1
    with refused_without_a_trace(ledger, "lifetime budget"):
        ledger.reserve(run="one-more", plan_digest="p", schedule=lines)
    one = 2 * ledger.filter.cost(lines[1].event)
    count = ledger.filter.cost(lines[0].event)
    assert total(ledger) == pytest.approx(runs * one)
    assert runs * one + count <= ledger.filter.capacity < (runs + 1) * one + count
    assert ledger.state.spent_epsilon <= ACCOUNT.lifetime_epsilon


def test_no_noise_is_answered_on_public_data_only(ledger, tmp_path):
    bare = (Purpose(name="training", split="train", event=Event(noise_multiplier=0.0), rounds=1),)
    counts = schedule()[:1]
    with refused_without_a_trace(ledger, "lifetime budget"):
        ledger.reserve(run="r", plan_digest="p", schedule=bare)
    with refused_without_a_trace(ledger, "lifetime budget"):
        ledger.reserve(run="r", plan_digest="p", schedule=counts + bare)
    public = Ledger.open(tmp_path / "public", dataclasses.replace(ACCOUNT, public=True), key=KEY)
    public.reserve(run="r", plan_digest="p", schedule=bare)
    assert pay(public) is None
    assert total(public) == 0
    public.close_file()


def test_closing_returns_the_rounds_that_never_ran(reserved):
    counts, training = (reserved.filter.cost(line.event) for line in schedule())
    assert total(reserved) == pytest.approx(counts + 3 * training)
    pay(reserved, 0)  # paid and never answered: spent
    pay(reserved, 1)
    mint(reserved, 1)
    reserved.close("r")
    assert total(reserved) == pytest.approx(2 * training)
    assert reserved.charged("r") == (dataclasses.replace(schedule()[1], rounds=2),)
    assert reserved.state.open_run is None
    before = snapshot(reserved)
    reserved.close("r")
    reserved.close("unknown")
    assert snapshot(reserved) == before


def test_the_next_run_closes_the_one_before(reserved):
    pay(reserved, 0)
    quote = reserved.quote(schedule(1))
    reserved.reserve(run="s", plan_digest="p", schedule=schedule(1))
    counts, training = (reserved.filter.cost(line.event) for line in schedule())
    assert kinds(reserved) == ["open", "reserve", "charge", "close", "reserve"]
    assert total(reserved) == pytest.approx(counts + 2 * training)
    assert reserved.filter.epsilon(total(reserved)) == pytest.approx(quote)
    with refused_without_a_trace(reserved, "used before"):
        reserved.reserve(run="r", plan_digest="p", schedule=schedule())


def test_reserving_again_is_idempotent_for_the_same_plan_only(reserved):
    before = snapshot(reserved)
    reserved.reserve(run="r", plan_digest="p", schedule=schedule())
    assert snapshot(reserved) == before
    with refused_without_a_trace(reserved, "another plan"):
        reserved.reserve(run="r", plan_digest="other", schedule=schedule())


COLUMNS = ("time", "kind", "body", "previous", "hash", "signature")


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_tampered_byte_in_any_entry_is_found(data):
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger.open(Path(folder) / "ledger", ACCOUNT, key=KEY)
        ledger._chain.connection.execute("PRAGMA synchronous=OFF")
        ledger.reserve(run="r", plan_digest="p", schedule=schedule())
        pay(ledger)
        mint(ledger)
        ledger.close("r")
        entries = ledger.verify().entries
        # It would refuse some changes itself.
        ledger._chain.connection.execute("DROP INDEX entry_run")
        sequence = data.draw(st.integers(0, entries - 1), label="entry")
        column = data.draw(st.sampled_from(COLUMNS), label="column")
        query = f"SELECT {column} FROM entry WHERE sequence = ?"
        text = ledger._chain.connection.execute(query, (sequence,)).fetchone()[0]
        at = data.draw(st.integers(0, len(text) - 1), label="byte")
        new = data.draw(st.sampled_from('0a9 }"').filter(lambda c: c != text[at]), label="new")
        changed = text[:at] + new + text[at + 1 :]
        ledger._chain.connection.execute(
            f"UPDATE entry SET {column} = ? WHERE sequence = ?", (changed, sequence)
        )
        with pytest.raises(VerificationError, match=r"entry \d+ does not hold"):
            ledger.verify()
        ledger.close_file()


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM entry WHERE sequence = 2",
        "DELETE FROM entry WHERE sequence = 0",
        "UPDATE entry SET sequence = 9 WHERE sequence = 4",
        "UPDATE entry SET signature = NULL WHERE sequence = 3",
        "INSERT INTO entry SELECT -1, time, kind, body, previous, hash, signature FROM entry "
        "WHERE sequence = 0",
        "UPDATE answer SET payload = NULL WHERE round = 0",
        "UPDATE answer SET payload = x'00' WHERE round = 0",
        "UPDATE answer SET payload = payload || x'00' WHERE round = 0",
        "UPDATE answer SET released = 2 WHERE round = 0",
        "DELETE FROM answer",
        "DELETE FROM answer WHERE round = 0",
        "UPDATE answer SET round = 2 WHERE round = 1",
        "UPDATE answer SET request = 'other' WHERE round = 0",
        "UPDATE answer SET digest = NULL WHERE round = 0",
        "UPDATE answer SET digest = 'aa' WHERE round = 0",
        "UPDATE answer SET digest = 'aa' WHERE round = 1",
        "INSERT INTO answer VALUES ('r', 'counts', 0, 'q', NULL, NULL, NULL)",
        "DELETE FROM entry WHERE sequence = 4",
    ],
)
def test_a_ledger_edited_by_hand_is_found(reserved, path, statement):
    pay(reserved)
    mint(reserved)
    pay(reserved, 1)
    assert reserved.verify().entries == 5
    with closing(sqlite3.connect(path)) as other:
        assert other.execute(statement).rowcount > 0
        other.commit()
    with pytest.raises(DpRiskError, match=r"do(es)? not hold|entry 0 is damaged"):
        Ledger.open(path).verify()


def test_chains_start_from_their_own_salt(tmp_path):
    heads = set()
    for name in "ab":
        opened = Ledger.open(tmp_path / name, ACCOUNT, key=KEY)
        heads |= {entry.previous for entry in opened.entries()}
        opened.close_file()
    assert len(heads) == 2
    assert all(len(head) == 64 for head in heads)


@pytest.mark.parametrize(
    "change",
    [
        {"delta": 1e-6},
        {"unit": "account"},
        {"adjacency": "replace-one"},
        {"dataset": "others"},
        {"splits": ("both",)},
        {"public": True},
    ],
    ids=str,
)
def test_an_account_never_changes(reserved, path, change):
    before = snapshot(reserved)
    (field,) = change
    with pytest.raises(Refused, match=field):
        Ledger.open(path, dataclasses.replace(ACCOUNT, **change))
    assert snapshot(reserved) == before


def test_who_is_a_unit_never_changes(tmp_path):
    path = tmp_path / "ledger.sqlite"
    parts = {"split key": "aa", "column of ids": "bb"}
    account = dataclasses.replace(ACCOUNT, partition=parts)
    Ledger.open(path, account, key=KEY).close_file()
    Ledger.open(path, account).close_file()
    # What only read a policy does not say.
    Ledger.open(path, dataclasses.replace(ACCOUNT, partition={})).close_file()
    for change, part in (
        ({**parts, "split key": "cc"}, "split key"),
        ({"split key": "aa"}, "column of ids"),
        ({**parts, "more": "dd"}, "more"),
    ):
        with pytest.raises(Refused, match=f"the {part} changed since") as error:
            Ledger.open(path, dataclasses.replace(ACCOUNT, partition=change), key=KEY)
        assert not set(change.values()) & set(str(error.value).split())
    with pytest.raises(ConfigurationError, match="who is a unit"):
        Ledger.open(tmp_path / "new", dataclasses.replace(ACCOUNT, partition={}), key=KEY)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["", "a\0b", "a b", "a'b", "\ud800", "a\n", "x" * 101, "a/b"])
def test_names_are_what_sqlite_reads_as_they_are(ledger, name):
    with refused_without_a_trace(ledger, "1 to 100 letters"):
        ledger.reserve(run=name, plan_digest="p", schedule=schedule())
    counts, training = schedule()
    for change in ({"name": name}, {"split": name}):
        lines = (counts, dataclasses.replace(training, **change))
        with refused_without_a_trace(ledger, "1 to 100 letters"):
            ledger.reserve(run="r", plan_digest="p", schedule=lines)


def test_a_newer_ledger_is_refused(ledger, path):
    ledger._chain.connection.execute("UPDATE meta SET value = '4' WHERE key = 'schema_version'")
    for account in (None, ACCOUNT):
        with pytest.raises(ConfigurationError, match="newer"):
            Ledger.open(path, account)


def test_what_is_no_ledger_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="no ledger"):
        Ledger.open(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()
    (tmp_path / "text").write_text("this is not a database " * 100)
    with pytest.raises(ConfigurationError, match="cannot be used"):
        Ledger.open(tmp_path / "text", ACCOUNT, key=KEY)
    small = dataclasses.replace(ACCOUNT, lifetime_epsilon=1e-4)
    with pytest.raises(ConfigurationError, match="too small"):
        Ledger.open(tmp_path / "small", small, key=KEY)


def test_writes_are_synchronous(ledger):
    # 2 is FULL: the write-ahead log is synced at every commit.
    assert ledger._chain.connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_two_processes_take_turns_on_one_ledger(path):
    rounds = 8
    gate, results = SPAWN.Event(), SPAWN.Queue()
    children = [
        SPAWN.Process(target=pay_for_all, args=(path, rounds, gate, results)) for _ in range(2)
    ]
    for child in children:
        child.start()
    gate.set()
    answers = [results.get(timeout=60) for _ in children]
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert [kind for kind, _, _ in answers] == ["paid", "paid"], answers
    assert not any(torch for _, _, torch in answers)
    ledger = Ledger.open(path, ACCOUNT, key=KEY)
    won = sorted(number for _, numbers, _ in answers for number in numbers)
    # Nothing is paid twice; what one is late for the other has paid.
    assert len(set(won)) == len(won)
    assert won[-1] == rounds - 1
    assert kinds(ledger) == ["open", "reserve"] + ["charge"] * len(won)
    assert ledger.verify().entries == 2 + len(won)
    ledger.close_file()


def test_a_kill_between_pay_and_mint_leaves_the_charge(path):
    child = SPAWN.Process(target=pay_and_die, args=(path,))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    ledger = Ledger.open(path, ACCOUNT, key=KEY)
    assert kinds(ledger) == ["open", "reserve", "charge"]
    assert ledger.verify().entries == 3
    with pytest.raises(Refused, match="cannot be answered again"):
        pay(ledger)
    assert pay(ledger, 1) is None
    ledger.close("r")
    assert total(ledger) == pytest.approx(2 * ledger.filter.cost(schedule()[1].event))
    ledger.close_file()


def test_a_failed_write_leaves_nothing(reserved, monkeypatch):
    # The charge and its answer's place are one transaction.
    reserved._chain.connection.execute(
        "CREATE TRIGGER full BEFORE INSERT ON answer BEGIN SELECT RAISE(ABORT, 'disk full'); END"
    )
    before = snapshot(reserved)
    with pytest.raises(ConfigurationError, match=r"ledger.sqlite: .*disk full"):
        pay(reserved)
    assert snapshot(reserved) == before


class Spending(RuleBasedStateMachine):
    """Any order of reserve, pay, mint, close and reopen, against a plain model of what is paid."""

    @initialize()
    def begin(self):
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "ledger"
        self.ledger = None
        self.reopen()
        self.paid = []
        self.runs = {}
        self.answered = set()
        self.open_run = None

    @rule()
    def reopen(self):
        if self.ledger is not None:
            self.ledger.close_file()
        self.ledger = Ledger.open(self.path, ACCOUNT, key=KEY)
        self.ledger._chain.connection.execute("PRAGMA synchronous=OFF")

    @rule(run=st.integers(0, 9), noise=st.sampled_from([0.9, 3.0, 8.0]), rounds=st.integers(1, 3))
    def reserve(self, run, noise, rounds):
        name, lines = f"run-{run}", schedule(rounds, noise)
        plan = f"{noise}/{rounds}"
        settled = sum(self.paid)
        asked = settled + sum(line.rounds * self.ledger.filter.cost(line.event) for line in lines)
        try:
            self.ledger.reserve(run=name, plan_digest=plan, schedule=lines)
        except Refused as refusal:
            if "lifetime" in str(refusal):
                assert asked > self.ledger.filter.capacity * (1 - 1e-12)
            else:
                assert name in self.runs
            return
        if name in self.runs:
            assert name == self.open_run
            assert self.runs[name] == (plan, lines)
        else:
            assert asked <= self.ledger.filter.capacity * (1 + 1e-12)
            self.runs[name], self.open_run = (plan, lines), name

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), line=st.integers(0, 1), number=st.integers(0, 3))
    def pay(self, data, line, number):
        name = data.draw(st.sampled_from(sorted(self.runs)))
        plan, lines = self.runs[name]
        purpose = lines[line].name
        try:
            stored = pay(self.ledger, number, run=name, plan=plan, purpose=purpose)
        except Refused:
            return
        if stored is None:
            assert name == self.open_run
            assert number < lines[line].rounds
            self.paid.append(self.ledger.filter.cost(lines[line].event))
        else:
            assert (name, purpose, number) in self.answered

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), purpose=st.sampled_from(["counts", "training"]), number=st.integers(0, 3))
    def mint(self, data, purpose, number):
        name = data.draw(st.sampled_from(sorted(self.runs)))
        charges = [
            e for e in self.ledger.entries() if e.kind == "charge" and e.body["run"] == name
            and e.body["purpose"] == purpose and e.body["round"] == number
        ]  # fmt: skip
        try:
            mint(self.ledger, number, run=name, purpose=purpose)
        except Refused:
            assert not charges or (name, purpose, number) in self.answered
            return
        assert len(charges) == 1
        assert (name, purpose, number) not in self.answered
        self.answered.add((name, purpose, number))

    @rule(run=st.integers(0, 9))
    def close(self, run):
        self.ledger.close(f"run-{run}")
        if self.open_run == f"run-{run}":
            self.open_run = None
            assert total(self.ledger) == pytest.approx(sum(self.paid))

    @invariant()
    def the_filter_covers_what_is_paid(self):
        if getattr(self, "ledger", None) is None:
            return
        spent, capacity = total(self.ledger), self.ledger.filter.capacity
        assert sum(self.paid) * (1 - 1e-12) <= spent <= capacity * (1 + 1e-12)
        assert self.ledger.state.spent_epsilon <= ACCOUNT.lifetime_epsilon * (1 + 1e-12)
        assert self.ledger.state.open_run == self.open_run
        charges = [entry for entry in self.ledger.entries() if entry.kind == "charge"]
        assert len(charges) == len(self.paid)

    def teardown(self):
        if getattr(self, "ledger", None) is not None:
            self.ledger.verify()
            self.ledger.close_file()
            self.folder.cleanup()


TestSpending = Spending.TestCase
TestSpending.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)


def test_the_plan_of_a_run_is_known_while_the_run_is_open(reserved):
    assert reserved.enrolled("r") == "p"
    assert reserved.enrolled("other") is None
    reserved.close("r")
    assert reserved.enrolled("r") is None
