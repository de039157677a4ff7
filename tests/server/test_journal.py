from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dp_risk.types import ConfigurationError
from server.combining import Question, Sum
from server.journal import FOLDER, OPEN, START, Entry, Journal, Start
from server.round_log import RoundLog
from server.summing import _entry, _sum
from tests.federation import plan


def same(one: Entry, other: Entry) -> None:
    assert {k: one.about[k] for k in other.about} == dict(other.about)
    assert set(one.arrays) == set(other.arrays)
    for name, array in other.arrays.items():
        assert one.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(one.arrays[name], array)


def test_answers_come_back_in_their_order_and_then_it_is_live(tmp_path: Path) -> None:
    entries = [Entry(about={"n": n}, arrays={"x": np.arange(n) / 3}) for n in range(3)]
    first = Journal(tmp_path)
    for entry in entries:
        assert not first.replaying
        first.answered(entry)
    again = Journal(tmp_path)
    for entry in entries:
        assert again.replaying
        same(again.next(), entry)
    assert not again.replaying


def test_an_open_question_comes_back_until_it_is_answered(tmp_path: Path) -> None:
    asked = Entry(about={"round": 4}, arrays={"w": np.float64([0.1, -0.0])})
    Journal(tmp_path).open(asked)
    again = Journal(tmp_path)
    opened = again.opened()
    assert opened is not None
    same(opened, asked)
    again.answered(Entry(about={}))
    assert again.opened() is None
    assert Journal(tmp_path).opened() is None or Journal(tmp_path).replaying


def test_a_start_comes_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert journal.start() is None
    start = Start(plan=plan(), statements=({"site": "a"},), enrolments=({"x": "y"},), sites=("a",))
    journal.begin(start)
    assert Journal(tmp_path).start() == start


def test_a_journal_of_nowhere_keeps_nothing(tmp_path: Path) -> None:
    journal = Journal(None)
    journal.begin(Start(plan=plan(), statements=()))
    journal.open(Entry(about={}))
    journal.answered(Entry(about={}))
    assert journal.start() is journal.opened() is None
    assert not journal.replaying
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [START, OPEN, "000000.safetensors"])
def test_what_is_damaged_or_newer_is_said_in_one_line(tmp_path: Path, name: str) -> None:
    journal = Journal(tmp_path)
    journal.begin(Start(plan=plan(), statements=()))
    journal.open(Entry(about={}))
    journal.answered(Entry(about={}))
    path = tmp_path / FOLDER / name
    content = path.read_bytes()

    def read() -> Any:
        again = Journal(tmp_path)
        return {START: again.start, OPEN: again.opened}.get(name, again.next)()

    read()
    for damaged in (content[:-3] if name == START else content[:20], b"", b"nothing of the kind"):
        path.write_bytes(damaged)
        with pytest.raises(ConfigurationError, match="the run's journal is damaged") as error:
            read()
        assert "\n" not in str(error.value)
    if name == START:
        newer = {**json.loads(content), "schema_version": 99}
        path.write_text(json.dumps(newer))
        with pytest.raises(ConfigurationError, match="newer version"):
            read()


def test_what_was_half_written_is_gone(tmp_path: Path) -> None:
    Journal(tmp_path)
    (tmp_path / FOLDER / "000000.tmp").write_bytes(b"half")
    again = Journal(tmp_path)
    assert not again.replaying
    assert not list((tmp_path / FOLDER).iterdir())


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
arrays = st.dictionaries(
    names, hnp.arrays(np.float64, hnp.array_shapes(max_dims=2, max_side=3)), max_size=3
)


@given(arrays, st.dictionaries(names, arrays, max_size=3), st.floats(0, 10))
def test_a_sum_is_kept_bit_for_bit(got: Any, each: Any, std: float) -> None:
    one = Sum(arrays=got, each=each, sites=tuple(each), std=std)
    entry = _entry(one, Question(purpose="training", shapes={}), {})
    again = _sum(Entry(about=json.loads(json.dumps(entry.about)), arrays=entry.arrays))
    assert (again.sites, again.std) == (one.sites, one.std)
    for found, kept in ((again.arrays, got), *((again.each[s], each[s]) for s in each)):
        assert set(found) == set(kept)
        for name, array in kept.items():
            np.testing.assert_array_equal(found[name], array)


def test_a_log_goes_on_below_its_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"
    log = RoundLog(path, resumed=False)
    log.write({"round": 1, "seconds": 2.0})
    log.write({"round": 2, "seconds": 4.0})
    with path.open("a") as handle:
        handle.write('{"round": 3, "sec')
    again = RoundLog(path, resumed=True)
    assert [again.holds(n) for n in range(4)] == [True, True, False, False]
    assert 4.0 <= again.seconds < 60
    again.write({"round": 3, "seconds": 6.0})
    assert [json.loads(line)["round"] for line in path.read_text().splitlines()] == [1, 2, 3]


def test_a_new_run_starts_a_new_log(tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"
    path.write_text('{"round": 1, "seconds": 9}\n')
    log = RoundLog(path, resumed=False)
    assert not log.holds(0)
    assert not path.exists()
