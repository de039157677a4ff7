from __future__ import annotations

import json
import math
import os

import pytest

from dp_risk.privacy import accounting, remembered
from dp_risk.privacy.accounting import Event, calibrate, epsilon

ASKED = {"sampling_rate": 0.1, "count": 20}


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch):
    """The file that is kept, in a folder of its own; nothing is remembered in memory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    forget()
    yield tmp_path / "cache" / "dp-risk" / "calibrated.json"
    forget()


def forget():
    calibrate.cache_clear()
    accounting._epsilon.cache_clear()


def found() -> float:
    forget()
    return calibrate(1.0, 1e-5, **ASKED)


def cost(noise: float) -> float:
    return epsilon([Event(noise_multiplier=noise, **ASKED)], 1e-5)


def test_a_search_is_made_once_and_what_it_found_is_priced_again(file, monkeypatch):
    first = found()
    assert list(json.loads(file.read_text()).values()) == [first]
    monkeypatch.setattr(accounting, "smallest", None)
    priced, price = [], accounting.epsilon
    monkeypatch.setattr(
        accounting, "epsilon", lambda events, delta: priced.append(events) or price(events, delta)
    )
    assert found() == first
    assert [events[0].noise_multiplier for events in priced] == [first]


def test_everything_asked_is_part_of_the_key(file):
    other = Event(noise_multiplier=30.0)
    results = {
        calibrate(1.0, 1e-5, **ASKED),
        calibrate(1.1, 1e-5, **ASKED),
        calibrate(1.0, 1e-6, **ASKED),
        calibrate(1.0, 1e-5, sampling_rate=0.11, count=20),
        calibrate(1.0, 1e-5, sampling_rate=0.1, count=21),
        calibrate(1.0, 1e-5, **ASKED, others=(other,)),
        calibrate(1.0, 1e-5, **ASKED, others=(other, other)),
    }
    assert len(results) == len(json.loads(file.read_text())) == 7


@pytest.mark.parametrize(
    "factor", [0.999, 0.5, 1e-9, 0.0, -1.0, 1.01, 1e9, math.nan, math.inf], ids=str
)
def test_a_wrong_number_is_not_believed(file, factor):
    honest = found()
    entries = json.loads(file.read_text())
    file.write_text(json.dumps({key: value * factor for key, value in entries.items()}))
    assert found() == pytest.approx(honest, rel=3e-5)
    assert cost(found()) <= 1.0
    # And the file is right again.
    assert list(json.loads(file.read_text()).values()) == [found()]


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a": []}', b'{"x": "1"}' * 9],
    ids=lambda text: repr(text[:8]),
)
def test_a_damaged_file_is_as_good_as_none(file, text):
    honest = found()
    file.write_bytes(text)
    assert found() == honest
    assert list(json.loads(file.read_text()).values()) == [honest]


@pytest.mark.parametrize("kind", [True, "2.0", None, 3, [2.0]], ids=repr)
def test_what_is_no_float_is_passed_over(file, kind):
    honest = found()
    key = next(iter(json.loads(file.read_text())))
    file.write_text(json.dumps({key: kind}))
    assert found() == honest


def test_a_file_without_end_a_pipe_and_a_folder_are_passed_over(file):
    honest = found()
    file.write_bytes(b" " * (1 << 21))
    assert found() == honest
    file.unlink()
    os.mkfifo(file)
    assert remembered.recall("any") is None
    file.unlink()
    file.mkdir()
    assert found() == honest
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "taken"))
    assert found() == found()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("pathlib.Path.home", lambda: (_ for _ in ()).throw(RuntimeError))
    assert found() == found()


def test_only_the_latest_are_kept(file):
    for number in range(515):
        remembered.keep(str(number), float(number))
    remembered.keep("3", 7.0)
    entries = json.loads(file.read_text())
    assert len(entries) == 512
    assert [*entries][-2:] == ["514", "3"]
    assert remembered.recall("3") == 7.0
    assert remembered.recall("2") is None
    assert len([*file.parent.iterdir()]) == 1


def test_the_home_is_used_where_no_folder_is_said(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("pathlib.Path.home", lambda: tmp_path)
    assert remembered.folder() == tmp_path / ".cache" / "dp-risk"
