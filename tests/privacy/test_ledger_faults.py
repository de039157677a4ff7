"""Full disks, read-only and damaged files, and clocks: one line each, and nothing released."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from dp_risk.privacy import chain as chain_module
from dp_risk.privacy import seal
from dp_risk.privacy.ledger import Ledger
from dp_risk.types import ConfigurationError, DpRiskError, Refused, VerificationError
from tests.privacy.children import ACCOUNT, KEY, pay_within, write_as_nobody
from tests.privacy.test_ledger import mint, pay, schedule, snapshot

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def reserved(path):
    ledger = Ledger.open(path, ACCOUNT, key=KEY)
    ledger.reserve(run="r", plan_digest="p", schedule=schedule(400, 60.0))
    yield ledger
    ledger.close_file()


def in_a_child(target, *values):
    results = SPAWN.Queue()
    child = SPAWN.Process(target=target, args=(*values, results))
    child.start()
    found = results.get(timeout=60)
    child.join(60)
    return found


def test_a_full_disk_stops_before_anything_is_released(reserved, path):
    [pages] = reserved._chain.connection.execute("PRAGMA page_count").fetchone()
    reserved._chain.connection.execute(f"PRAGMA max_page_count={pages + 10}")
    released = 0

    def go_on():
        nonlocal released
        for number in itertools.count():
            pay(reserved, number)
            mint(reserved, number, arrays={"w": np.zeros(100)})
            released += 1

    with pytest.raises(ConfigurationError, match=r"ledger.sqlite.* full") as error:
        go_on()
    assert "\n" not in str(error.value)
    assert released < 400
    kinds = [entry.kind for entry in reserved.entries()]
    assert kinds.count("release") == released
    assert released <= kinds.count("charge") <= released + 1
    reserved.verify()
    # Room again: it goes on.
    reserved._chain.connection.execute("PRAGMA max_page_count=100000")
    assert pay(reserved, released + 1) is None


def test_a_file_that_may_not_grow_stops_before_anything_is_released(path):
    Ledger.open(path, ACCOUNT, key=KEY).close_file()
    released, name, said = in_a_child(pay_within, path, 200_000)
    assert name == "ConfigurationError"
    assert str(path) in said
    assert "\n" not in said
    assert 0 < len(released) < 400
    ledger = Ledger.open(path, ACCOUNT, key=KEY)
    kinds = [entry.kind for entry in ledger.entries()]
    assert kinds.count("release") >= len(released)
    assert kinds.count("charge") >= kinds.count("release")
    ledger.verify()
    ledger.close_file()


def test_a_read_only_ledger_is_read_and_never_paid_from():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "ledger.sqlite"
        ledger = Ledger.open(path, ACCOUNT, key=KEY)
        ledger.reserve(run="r", plan_digest="p", schedule=schedule())
        ledger.close_file()
        path.chmod(0o444)
        folder.chmod(0o555)
        try:
            writing, read, refused = in_a_child(write_as_nobody, path)
        finally:
            folder.chmod(0o755)
    assert writing[0] == "ConfigurationError"
    assert str(path) in writing[1]
    assert "\n" not in writing[1]
    assert read == ("read", "2")
    assert refused[0] == "Refused"
    assert "key" in refused[1]


def closed(path):
    ledger = Ledger.open(path, ACCOUNT, key=KEY)
    ledger.reserve(run="r", plan_digest="p", schedule=schedule())
    pay(ledger)
    mint(ledger)
    ledger.close("r")
    ledger.close_file()
    return path.read_bytes()


def outcome(path):
    """Verify a ledger; return the error, which is one line of ours, or None."""
    error = None
    try:
        reader = Ledger.open(path)
        reader.verify()
        reader.close_file()
    except DpRiskError as raised:
        error = raised
    assert error is None or (str(error) and "\n" not in str(error))
    return error


def written(path):
    """Write in every way; return the error, which is one line of ours, or None."""
    error = ledger = None
    try:
        ledger = Ledger.open(path, ACCOUNT, key=KEY)
        ledger.reserve(run="s", plan_digest="p", schedule=schedule())
        pay(ledger, run="s")
        mint(ledger, run="s")
        ledger.close("s")
        list(ledger.entries())
    except DpRiskError as raised:
        error = raised
    finally:
        if ledger is not None:
            ledger.close_file()
    assert error is None or (str(error) and "\n" not in str(error))
    return error


@pytest.mark.parametrize("size", [0, 1, 50, 100, 4096, 8192, -4096, -1])
def test_a_truncated_file_is_one_line(path, size):
    whole = closed(path)
    path.write_bytes(whole[:size])
    assert isinstance(outcome(path), ConfigurationError | VerificationError)
    if 0 <= size <= 8192:
        assert isinstance(written(path), ConfigurationError)


def test_a_lost_ledger_is_not_made_anew_beside_its_seal(path):
    closed(path)
    path.unlink()
    with pytest.raises(Refused, match="fresh budget"):
        Ledger.open(path, ACCOUNT, key=KEY)
    assert not path.exists()


@pytest.mark.parametrize("kept", ["ledger.seal", "ledger.sqlite-wal", "plan.json", "v1.bak"])
def test_a_ledger_lost_before_its_first_close_is_not_made_anew(path, kept):
    ledger = Ledger.open(path, ACCOUNT, key=KEY)
    ledger.reserve(run="r", plan_digest="p", schedule=schedule())
    pay(ledger)
    for name in ("ab.plan.json", "ledger.sqlite.v1.bak"):
        (path.parent / name).write_text("")
    # A kill, and then whoever tidies up.
    for found in list(path.parent.iterdir()):
        if not found.name.endswith(kept):
            found.unlink()
    assert len(list(path.parent.iterdir())) == 1
    with pytest.raises(Refused, match=f"{kept} is there.*fresh budget") as error:
        Ledger.open(path, ACCOUNT, key=KEY)
    assert "\n" not in str(error.value)
    assert not path.exists()
    ledger.close_file()


def test_a_ledger_is_sealed_before_anything_is_charged(path):
    ledger = Ledger.open(path, ACCOUNT, key=KEY)
    assert ledger.verify().sealed
    ledger.close_file()
    # Killed between the two, it is sealed when it is opened again; reading writes nothing.
    seal.place(path).unlink()
    Ledger.open(path, ACCOUNT).close_file()
    assert not seal.place(path).exists()
    Ledger.open(path, ACCOUNT, key=KEY).close_file()
    assert Ledger.open(path).verify().sealed


@pytest.mark.parametrize("other", ["shorter", "another", "damaged"])
def test_an_older_copy_under_a_newer_seal_is_not_paid_from(path, tmp_path, other):
    old = closed(path)
    place = seal.place(path)
    ledger = Ledger.open(path, ACCOUNT, key=KEY)
    for run in "st":
        ledger.reserve(run=run, plan_digest="p", schedule=schedule())
        ledger.close(run)
    ledger.close_file()
    newest = place.read_bytes()
    if other == "damaged":
        place.write_bytes(newest.replace(b'"entries":', b'"entries": '))
    else:
        path.write_bytes(old)
    if other == "another":
        place.unlink()
        closing = Ledger.open(path, ACCOUNT, key=KEY)
        for run in "uvw":
            closing.reserve(run=run, plan_digest="p", schedule=schedule())
            closing.close(run)
        closing.close_file()
        place.write_bytes(newest)
    for key in (KEY, None):
        with pytest.raises(Refused, match=r"does not hold.*restore") as error:
            Ledger.open(path, ACCOUNT, key=key)
        assert "\n" not in str(error.value)
    with pytest.raises(VerificationError):
        Ledger.open(path).verify()


def test_a_ledger_that_cannot_be_made_is_one_line(tmp_path):
    with pytest.raises(ConfigurationError, match=r"absent.*cannot be made"):
        Ledger.open(tmp_path / "absent" / "ledger.sqlite", ACCOUNT, key=KEY)


@pytest.mark.parametrize("seed", range(4))
def test_any_byte_of_a_closed_ledger_counts(path, seed):
    whole = closed(path)
    draw = random.Random(seed)
    offsets = [draw.randrange(len(whole)) for _ in range(46)]
    for at in (0, 18, 27, *offsets):
        changed = bytearray(whole)
        changed[at] ^= 1 << draw.randrange(8)
        path.write_bytes(bytes(changed))
        assert outcome(path) is not None, at
        assert path.read_bytes() == changed
    path.write_bytes(whole)
    assert outcome(path) is None


def test_any_byte_of_a_seal_counts(path):
    closed(path)
    place = seal.place(path)
    whole = place.read_bytes()
    for at in range(0, len(whole), 3):
        changed = bytearray(whole)
        changed[at] ^= 1
        place.write_bytes(bytes(changed))
        assert isinstance(outcome(path), VerificationError), at
    place.unlink()
    assert outcome(path) is None


@pytest.mark.parametrize("seed", range(3))
def test_writing_to_a_damaged_file_is_one_line_too(path, seed):
    whole = closed(path)
    draw = random.Random(seed)
    for _ in range(15):
        changed = bytearray(whole)
        for _ in range(8):
            changed[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(bytes(changed))
        written(path)
        for end in ("wal", "shm"):
            Path(f"{path}-{end}").unlink(missing_ok=True)


@pytest.mark.parametrize("damage", ["cut", "byte", "header", "gone"])
def test_a_torn_log_leaves_an_older_chain_that_heads_tell(reserved, path, tmp_path, damage):
    for number in range(6):
        pay(reserved, number)
        mint(reserved, number)
    true = snapshot(reserved)
    copy = tmp_path / "copy" / path.name
    copy.parent.mkdir()
    shutil.copy(path, copy)
    log = Path(f"{copy}-wal")
    whole = bytearray(Path(f"{path}-wal").read_bytes())
    if damage == "cut":
        whole = whole[: len(whole) * 3 // 4]
    elif damage != "gone":
        whole[0 if damage == "header" else len(whole) // 2] ^= 1
    if damage != "gone":
        log.write_bytes(bytes(whole))
    ledger = Ledger.open(copy, ACCOUNT, key=KEY)
    found = snapshot(ledger)
    ledger.verify()
    ledger.close_file()
    assert len(found) < len(true)
    # A prefix of the true chain: whoever remembers its head sees it.
    assert found == true[: len(found)]
    assert Ledger.open(copy).hash_at(len(true) - 1) is None


@pytest.mark.parametrize("to", ["1970-01-01T00:00:00.000+00:00", "2001-09-09T01:46:40.000+00:00"])
def test_a_clock_that_goes_back_changes_nothing(reserved, monkeypatch, caplog, to):
    caplog.set_level("WARNING")
    pay(reserved)
    assert reserved.verify().backwards == ()
    with monkeypatch.context() as patch:
        patch.setattr(chain_module, "_now", lambda: to)
        release = mint(reserved)
        assert [r.message for r in caplog.records] == [
            "entry 3: the clock went back; nothing depends on time"
        ]
        assert pay(reserved, 1) is None
    caplog.clear()
    mint(reserved, 1)
    assert not caplog.records
    assert reserved.verify().backwards == (3,)
    assert reserved.head_at(run="r", purpose="training", round=0) == release.ledger_head


def test_a_locked_ledger_is_one_line(reserved, path):
    other = Ledger.open(path, ACCOUNT, key=KEY)
    other._chain.connection.execute("PRAGMA busy_timeout=10")
    before = snapshot(reserved)
    locked = pytest.raises(ConfigurationError, match=r"ledger.sqlite.*locked")
    with reserved._chain.transaction(), locked:
        pay(other)
    assert snapshot(reserved) == before
    assert pay(other) is None
    other.close_file()


def test_a_disk_too_full_for_a_seal_still_closes(reserved, path, monkeypatch, caplog):
    caplog.set_level("WARNING")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    reserved.close("r")
    assert reserved.state.open_run is None
    assert "not sealed" in caplog.text
    assert not reserved.verify().sealed


def test_a_ledger_in_use_elsewhere_is_closed_without_a_seal(reserved, path):
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT * FROM entry").fetchone()
        reserved.close("r")
    assert reserved.state.open_run is None
    assert not reserved.verify().sealed
    with pytest.raises(Refused, match="not open"):
        pay(reserved)
