"""The queue of runs on disk: what is there after whatever death."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_risk.types import ConfigurationError
from server.queue import FAILED, FINISHED, QUEUED, RUNNING, STOPPED, Queue, Verdict
from tests.federation import SCHEMA

FEDERATION = {
    "sites": 3, "min_sites": None, "spare_rounds": None, "rounds": 5, "steps_per_round": 1,
    "learning_rate": None, "momentum": 0.9, "averaging": 0.9, "timeout": 5.0, "adam": None,
}  # fmt: skip
PRIVACY = {
    "epsilon": 1.0, "delta": 1e-5, "unit": "record", "max_records_per_account": 1,
    "max_sites_per_unit": 1, "allocation": {"counts": 0.05, "evaluation": 0.2}, "trust": "local",
    "max_colluding": 1, "clip_norm": 1.0, "sampling_rate": None, "randomness": "system",
}  # fmt: skip
JOB = {
    "dataset": "tiny", "schema": SCHEMA, "model": "additive", "model_options": {},
    "privacy": PRIVACY, "federation": FEDERATION, "seed": 0, "capacity": 0.01,
}  # fmt: skip


def queue(folder: Path) -> Queue:
    made = Queue(folder / "runs", folder / "heads.json")
    made.tidy()
    return made


def submit(made: Queue, run: str, /, **changes: object):
    return made.submit(run, {**JOB, **changes}, "a: 1\n", "ann", check=lambda _: None)


def test_a_run_waits_with_all_that_it_needs(tmp_path):
    made = queue(tmp_path)
    entry = submit(made, "r1")
    assert (entry.state, entry.operator, entry.over) == (QUEUED, "ann", False)
    job = queue(tmp_path).job("r1")
    assert (job.run, job.start, job.resumable) == ("r1", None, True)
    assert job.folder == (tmp_path / "runs" / "r1" / "run").resolve()
    assert job.memory == (tmp_path / "heads.json").resolve()
    assert (job.folder / "config.yaml").read_text() == "a: 1\n"
    assert queue(tmp_path).entries() == [entry]


def test_the_same_again_changes_nothing_and_another_is_refused(tmp_path):
    made = queue(tmp_path)
    submit(made, "r1")
    made.change("r1", state=RUNNING)
    assert submit(made, "r1").state == RUNNING
    with pytest.raises(ConfigurationError, match="another run already"):
        submit(made, "r1", seed=1)


@pytest.mark.parametrize("name", ["run", "folder", "memory", "start", "resumable"])
def test_what_the_server_sets_is_not_taken_from_an_operator(tmp_path, name):
    with pytest.raises(ConfigurationError, match=f"{name} is set by the server"):
        submit(queue(tmp_path), "r1", **{name: "/etc/passwd"})
    assert list((tmp_path / "runs").iterdir()) == []


@given(run=st.text(max_size=70))
def test_an_id_never_leaves_the_folder(tmp_path_factory, run):
    folder = tmp_path_factory.mktemp("queue")
    made = queue(folder)
    try:
        submit(made, run)
    except ConfigurationError:
        assert list((folder / "runs").iterdir()) == []
    else:
        assert [path.name for path in (folder / "runs").iterdir()] == [run]


@pytest.mark.parametrize(
    "run", ["", ".", "..", "../x", "a/b", "-a", "A", "a" * 65, "a\n", ".a.tmp"]
)
def test_an_impossible_id_is_refused(tmp_path, run):
    made = queue(tmp_path)
    with pytest.raises(ConfigurationError, match="not an id"):
        submit(made, run)
    with pytest.raises(ConfigurationError, match="no run of this id"):
        made.entry(run)


def test_a_check_that_fails_leaves_nothing(tmp_path):
    def no(_):
        raise ConfigurationError("no")

    made = queue(tmp_path)
    with pytest.raises(ConfigurationError, match="no"):
        made.submit("r1", JOB, "", "ann", check=no)
    assert made.entries() == []


def test_the_run_that_was_begun_goes_first_then_the_oldest(tmp_path):
    made = queue(tmp_path)
    for run in ("b", "a", "c"):
        submit(made, run)
    assert made.next().run == "b"
    made.change("c", state=RUNNING)
    assert made.next().run == "c"
    made.change("c", state=FINISHED)
    made.change("b", state=FAILED)
    assert made.next().run == "a"
    made.change("a", state=STOPPED)
    assert made.next() is None


def test_a_run_that_waits_is_stopped_at_once_and_one_that_is_done_later(tmp_path):
    made = queue(tmp_path)
    for run in ("a", "b", "c"):
        submit(made, run)
    made.change("b", state=RUNNING)
    made.change("c", state=FINISHED)
    assert made.stop("a").state == STOPPED
    assert (made.stop("b").state, made.entry("b").stop) == (RUNNING, True)
    assert (made.stop("c").state, made.entry("c").stop) == (FINISHED, False)


def test_a_verdict_and_progress_are_kept(tmp_path):
    made = queue(tmp_path)
    submit(made, "a")
    assert (made.verdict("a"), made.progress("a")) == (None, {})
    made.note("a", {"round": 1, "rounds": 2, "epsilon_spent": None})
    verdict = Verdict(state=FAILED, reason="too few", exit_code=4)
    made.judge("a", verdict)
    assert queue(tmp_path).verdict("a") == verdict
    assert queue(tmp_path).progress("a")["rounds"] == 2
    assert not made.change("a", **asdict(verdict)).stop


def test_half_a_submission_is_forgotten_and_damage_is_said(tmp_path):
    (tmp_path / "runs" / ".a.tmp" / "run").mkdir(parents=True)
    made = queue(tmp_path)
    assert made.entries() == []
    submit(made, "a")
    (tmp_path / "runs" / "a" / "state.json").write_text("{")
    with pytest.raises(ConfigurationError, match=r"state\.json: damaged"):
        made.entries()


def test_rounds_are_given_from_an_offset_whole_lines_only(tmp_path):
    made = queue(tmp_path)
    submit(made, "a")
    log = made.run_folder("a") / "rounds.jsonl"
    assert made.rounds("a", 0) == ([], 0)
    log.write_text('{"round": 1}\n{"round": 2}\n{"rou')
    lines, offset = made.rounds("a", 0)
    assert [line["round"] for line in lines] == [1, 2]
    assert made.rounds("a", offset) == ([], offset)
    with log.open("a") as file:
        file.write('nd": 3}\n')
    assert made.rounds("a", offset)[0] == [{"round": 3}]
    # A resumed run writes its log anew.
    log.write_text('{"round": 1}\n')
    assert made.rounds("a", offset)[0] == [{"round": 1}]


@given(cut=st.integers(0, 60))
def test_a_log_that_is_read_in_two_parts_is_the_log(tmp_path_factory, cut):
    made = queue(tmp_path_factory.mktemp("queue"))
    submit(made, "a")
    text = "".join(json.dumps({"round": number}) + "\n" for number in range(5))
    log = made.run_folder("a") / "rounds.jsonl"
    log.write_text(text[:cut])
    first, offset = made.rounds("a", 0)
    log.write_text(text)
    second, _ = made.rounds("a", offset)
    assert [line["round"] for line in first + second] == list(range(5))


def test_a_run_that_met_a_full_disk_can_be_asked_for_again(tmp_path, monkeypatch):
    made = queue(tmp_path)

    def full(*_):
        raise OSError("No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("server.queue.write", full)
        with pytest.raises(OSError, match="No space"):
            submit(made, "r1")
    assert submit(made, "r1").state == QUEUED
