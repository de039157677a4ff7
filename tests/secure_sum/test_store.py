from __future__ import annotations

import stat

import pytest

from dp_risk.secure_sum.store import RunKeys
from dp_risk.secure_sum.terms import REFUSAL
from dp_risk.types import ConfigurationError, Refused
from tests.secure_sum.sites import RUN, names, statement, terms_of

TERMS = terms_of(names(4))
STATEMENTS = [
    statement(TERMS, site, bytes([number + 1] * 32)) for number, site in enumerate(names(4))
]


def test_a_secret_is_made_once_a_run_for_its_owner_alone(tmp_path):
    store = RunKeys(tmp_path / "runs")
    secret = store.secret(RUN)
    assert len(secret) == 32
    assert RunKeys(tmp_path / "runs").secret(RUN) == secret
    assert store.secret("other") != secret
    assert RunKeys(tmp_path / "elsewhere").secret(RUN) != secret
    for path in (tmp_path / "runs").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_who_enrolled_is_fixed_by_the_first(tmp_path):
    store = RunKeys(tmp_path)
    assert store.kept(RUN) == ()
    store.keep(RUN, STATEMENTS)
    store.keep(RUN, STATEMENTS[::-1])
    for other in (STATEMENTS[:3], [*STATEMENTS[:3], statement(TERMS, "site-03", b"\x09" * 32)]):
        with pytest.raises(Refused, match=REFUSAL):
            store.keep(RUN, other)
    assert RunKeys(tmp_path).kept(RUN) == tuple(STATEMENTS)


def test_a_closed_run_is_forgotten_and_no_other(tmp_path):
    store = RunKeys(tmp_path)
    first, other = store.secret(RUN), store.secret("other")
    store.keep(RUN, STATEMENTS)
    store.forget(RUN)
    store.forget(RUN)
    assert [path.name for path in tmp_path.iterdir()] == ["other.secret"]
    assert store.kept(RUN) == ()
    assert store.secret(RUN) != first
    assert store.secret("other") == other


@pytest.mark.parametrize("text", ["", "00" * 31, "00" * 33, "secretsecret", "é"])
def test_a_damaged_secret_is_said_and_not_repeated(tmp_path, text):
    (tmp_path / f"{RUN}.secret").write_text(text)
    with pytest.raises(ConfigurationError, match=r"run-1\.secret") as error:
        RunKeys(tmp_path).secret(RUN)
    assert not text or text not in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "3"])
def test_damaged_enrolments_are_said(tmp_path, text):
    (tmp_path / f"{RUN}.enrolled").write_text(text)
    with pytest.raises(ConfigurationError, match=r"run-1\.enrolled"):
        RunKeys(tmp_path).kept(RUN)


@pytest.mark.parametrize("run", ["", "../x", "a/b", "x" * 101, "a\0b"])
def test_a_run_id_is_no_path(tmp_path, run):
    for call in (RunKeys(tmp_path).secret, RunKeys(tmp_path).kept, RunKeys(tmp_path).forget):
        with pytest.raises(ConfigurationError, match="run id"):
            call(run)


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        RunKeys(tmp_path / "file").secret(RUN)


def test_when_a_run_opens_all_others_are_forgotten(tmp_path):
    store = RunKeys(tmp_path / "runs")
    store.forget_others(RUN)
    for run in (RUN, "other", "run-1.old"):
        store.secret(run)
        store.keep(run, STATEMENTS)
    store.forget_others(RUN)
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {
        f"{RUN}.secret", f"{RUN}.enrolled",
    }  # fmt: skip
