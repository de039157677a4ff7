"""Version 1 to version 2: nothing forgotten, all or nothing."""

from __future__ import annotations

import dataclasses
import multiprocessing
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from dp_risk.privacy.account import Account
from dp_risk.privacy.accounting import Event
from dp_risk.privacy.ledger import Ledger
from dp_risk.privacy.migration import backup_of, migrate
from dp_risk.privacy.schedule import Purpose
from dp_risk.types import ConfigurationError, Refused, VerificationError
from tests.privacy.children import KEY, migrate_and_die

GOLDEN = Path(__file__).parent / "golden"
SPAWN = multiprocessing.get_context("spawn")
ACCOUNT = Account(
    dataset="golden", unit="record", adjacency="add-remove", delta=1e-5, lifetime_epsilon=10.0,
    public=False, splits=("train", "holdout"), partition={"split key": "5a" * 32},
)  # fmt: skip
BOTH = dataclasses.replace(ACCOUNT, splits=("both",))
# What released code of version 1 said of the golden file.
SPENT, ORDER = 0.01637998744000118, 3


@pytest.fixture
def path(tmp_path):
    shutil.copy(GOLDEN / "ledger-1.sqlite", tmp_path / "ledger.sqlite")
    return tmp_path / "ledger.sqlite"


def rows(path, query):
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()


OLD = "SELECT sequence, time, kind, body, previous, hash FROM entry WHERE sequence < 16"
ANSWERS = "SELECT run, purpose, round, request, digest, payload FROM answer"


def test_version_1_is_refused_and_told_the_way(path):
    before = path.read_bytes()
    for account, key in ((None, None), (ACCOUNT, KEY)):
        with pytest.raises(ConfigurationError, match="dp-risk ledger migrate SITE"):
            Ledger.open(path, account, key=key)
    assert rows(path, OLD) == rows(GOLDEN / "ledger-1.sqlite", OLD)
    assert len(before) == path.stat().st_size


@pytest.mark.parametrize("account", [ACCOUNT, BOTH], ids=["apart", "both"])
def test_spend_open_run_and_answers_are_as_before(path, account):
    old, answers = rows(path, OLD), rows(path, ANSWERS)
    backup = migrate(path, account, key=KEY)
    assert rows(path, OLD) == old == rows(backup, OLD)
    assert rows(path, ANSWERS) == answers
    ledger = Ledger.open(path, account, key=KEY)
    pays = account.splits[0]
    assert ledger.filter.order == ORDER
    state = ledger.state
    assert state.open_run == "run-2"
    assert state.entries == 17
    assert state.balances[pays].spent_epsilon == ledger.filter.epsilon(SPENT)
    assert all(b.used == 0 for split, b in state.balances.items() if split != pays)
    verified = ledger.verify()
    assert (verified.unsigned, verified.entries, verified.sealed) == (16, 17, True)
    # Answered rounds stay answered, from store; the open run goes on, and gives back what is left.
    what = {"run": "run-2", "plan_digest": "run-2" * 8, "purpose": "training"}
    stored = ledger.pay(**what, round=0, request="r0")
    assert stored.ledger_head == old[15][5]
    assert stored.signed_by(ledger.public_key)
    assert stored.arrays["w"].tolist() == [0.0, 1.0, 2.0]
    assert ledger.pay(**what, round=1, request="r1") is None
    assert [line.split for line in ledger.charged("run-2")] == [pays] * 2
    ledger.close("run-2")
    count, step = (
        ledger.filter.cost(e)
        for e in (Event(noise_multiplier=20.0), Event(noise_multiplier=8.0, sampling_rate=0.25))
    )
    last = list(ledger.entries())[-1].body["filter"]
    assert last[pays] == pytest.approx(2 * count + 5 * step)
    assert sum(last.values()) == last[pays]
    line = Purpose(name="x", split=account.splits[-1], event=Event(noise_multiplier=9.0), rounds=1)
    with pytest.raises(Refused, match="used before"):
        ledger.reserve(run="run-1", plan_digest="p", schedule=(line,))
    ledger.reserve(run="run-3", plan_digest="p", schedule=(line,))
    ledger.verify()
    ledger.close_file()


def test_the_budget_stays_that_of_the_old_ledger(path):
    migrate(path, dataclasses.replace(ACCOUNT, lifetime_epsilon=50.0), key=KEY)
    assert Ledger.open(path).account.lifetime_epsilon == 10.0
    with pytest.raises(Refused, match="raise"):
        Ledger.open(path, dataclasses.replace(ACCOUNT, lifetime_epsilon=50.0))


@pytest.mark.parametrize(
    "change",
    [{"delta": 1e-6}, {"dataset": "other"}, {"unit": "account"}, {"public": True}],
    ids=str,
)
def test_another_account_is_not_migrated(path, change):
    with pytest.raises(Refused, match=next(iter(change))):
        migrate(path, dataclasses.replace(ACCOUNT, **change), key=KEY)
    assert rows(path, "SELECT value FROM meta WHERE key = 'schema_version'") == [("1",)]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entry SET body = replace(body, '8.0', '9.0') WHERE sequence = 11",
        "UPDATE entry SET time = 'x' WHERE sequence = 0",
        "DELETE FROM entry WHERE sequence = 15",
        "UPDATE meta SET value = '4' WHERE key = 'order'",
        "UPDATE meta SET value = replace(value, '10.0', '99.0') WHERE key = 'account'",
        "DELETE FROM answer WHERE round = 2",
        "UPDATE answer SET payload = x'00' WHERE run = 'run-2'",
    ],
)
def test_what_does_not_hold_is_not_migrated(path, statement):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()
    with pytest.raises(VerificationError):
        migrate(path, ACCOUNT, key=KEY)
    assert rows(path, "SELECT value FROM meta WHERE key = 'schema_version'") == [("1",)]


def test_a_backup_is_never_overwritten(path):
    backup_of(path).write_bytes(b"mine")
    with pytest.raises(ConfigurationError):
        migrate(path, ACCOUNT, key=KEY)
    assert backup_of(path).read_bytes() == b"mine"
    backup_of(path).unlink()
    migrate(path, ACCOUNT, key=KEY)
    with pytest.raises(Refused, match="nothing to migrate"):
        migrate(path, ACCOUNT, key=KEY)
    assert rows(backup_of(path), "SELECT COUNT(*) FROM entry") == [(16,)]


@pytest.mark.parametrize("statement", [1, 2, 5, 12, 13, 14, 16])
def test_a_kill_in_the_middle_leaves_the_old_file(path, statement):
    child = SPAWN.Process(target=migrate_and_die, args=(path, ACCOUNT, statement))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    old = rows(GOLDEN / "ledger-1.sqlite", OLD)
    assert rows(path, OLD) == old
    assert rows(path, "SELECT value FROM meta WHERE key = 'schema_version'") in ([("1",)], [("2",)])
    if rows(path, "SELECT COUNT(*) FROM entry") == [(16,)]:
        assert rows(path, "SELECT value FROM meta WHERE key = 'schema_version'") == [("1",)]
        migrate(path, ACCOUNT, key=KEY)
    assert Ledger.open(path).verify().entries == 17


def test_the_golden_file_of_version_2_still_holds(tmp_path):
    for name in ("ledger-2.sqlite", "ledger-2.seal"):
        shutil.copy(GOLDEN / name, tmp_path / name)
    ledger = Ledger.open(tmp_path / "ledger-2.sqlite", ACCOUNT, key=KEY)
    verified = ledger.verify()
    assert (verified.unsigned, verified.sealed) == (16, True)
    assert [entry.kind for entry in ledger.entries()][16:] == [
        "migrate", "close", "reserve", *["charge", "release"] * 2, "close", "raise",
    ]  # fmt: skip
    assert [(a.by, a.lifetime_epsilon) for a in ledger.amendments()] == [("A. Person", 12.0)]
    state = ledger.state
    assert (state.lifetime_epsilon, state.open_run) == (10.0, None)
    found = {split: balance.spent_epsilon for split, balance in state.balances.items()}
    assert found == pytest.approx({"train": 4.82161663750298, "holdout": 4.817133314636313})
    ledger.close_file()
