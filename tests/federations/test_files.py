from __future__ import annotations

import stat

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dp_risk.federation import checks, files
from dp_risk.types import ConfigurationError


def test_a_file_takes_the_place_of_an_older_one_with_its_mode(tmp_path):
    path = tmp_path / "x"
    for content, mode in (("one", 0o600), (b"two", 0o644)):
        files.write(path, content, mode=mode)
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert files.read(path) == b"two"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_file_that_cannot_be_written_leaves_the_older_one(tmp_path, monkeypatch):
    files.write(tmp_path / "x", "old")

    def full(_handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write(tmp_path / "x", "new")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"x": "old"}


def test_what_a_killed_writer_left_goes_and_nothing_else(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*_, **__):
        raise Killed

    for name in ("x", "x.0123456789abcdef", ".hidden", ".x.old"):
        (tmp_path / name).write_text("kept")
    with monkeypatch.context() as power:
        power.setattr(files.os, "replace", killed)
        power.setattr(files.Path, "unlink", killed)
        with pytest.raises(Killed):
            files.write(tmp_path / "x", "new")
    assert len(list(tmp_path.iterdir())) == 5
    files.tidy(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        ".hidden", ".x.old", "x", "x.0123456789abcdef",
    ]  # fmt: skip
    assert (tmp_path / "x").read_text() == "kept"


def test_large_and_missing_files_are_named(tmp_path):
    (tmp_path / "x").write_bytes(b"0" * (files.MOST_BYTES + 1))
    with pytest.raises(ConfigurationError, match="x: larger than 4 MiB"):
        files.read(tmp_path / "x")
    with pytest.raises(ConfigurationError, match="y: No such file"):
        files.read(tmp_path / "y")


@given(
    st.dictionaries(
        st.text("abc", min_size=1, max_size=5),
        st.text(max_size=200) | st.integers() | st.lists(st.text(max_size=9)),
    ),
    st.text("ab #:-\n", max_size=300),
)
def test_comments_change_no_value(values, comment):
    text = files.commented(comment, values, dict.fromkeys(values, comment))
    assert (yaml.safe_load(text) or {}) == values


def test_a_new_folder_is_there_whole_or_not_at_all(tmp_path):
    with files.new_folder(tmp_path / "deep" / "fed") as made:
        (made / "x").write_text("1")
        assert not (tmp_path / "deep" / "fed").exists()
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["fed"]
    with pytest.raises(FileNotFoundError), files.new_folder(tmp_path / "two") as made:
        (made / "nowhere" / "x").write_text("1")
    assert [p.name for p in tmp_path.iterdir()] == ["deep"]


def test_what_a_killed_predecessor_left_goes(tmp_path):
    (tmp_path / ".fed.unfinished").mkdir()
    (tmp_path / ".fed.unfinished" / "old.key").write_text("1")
    with files.new_folder(tmp_path / "fed") as made:
        (made / "x").write_text("1")
    assert [p.name for p in tmp_path.rglob("*")] == ["fed", "x"]


@pytest.mark.parametrize("kind", ["file", "full", "link"])
def test_nothing_is_written_over(tmp_path, kind):
    path = tmp_path / "fed"
    if kind == "file":
        path.write_text("")
    elif kind == "link":
        path.symlink_to(tmp_path / "nowhere")
    else:
        path.mkdir()
        (path / "x").write_text("")
    with pytest.raises(ConfigurationError, match="exists already"), files.new_folder(path):
        pass


@pytest.mark.parametrize("host", ["a.example.org", "10.0.0.1", "::1", "localhost", "a-b"])
def test_hosts_that_are_right(host):
    assert checks.host(host, "x") == host
    assert checks.address(checks.join(host, 80), "x") == checks.join(host, 80)


@pytest.mark.parametrize(
    "host",
    ["", ".", "a..b", "-a", "a-", "a b", "a/b", "a:b", "1.2.3", "300.1.1.1", "0.0.0.0", "::", "é",
     "a" * 64, "a\n", None, 5],
)  # fmt: skip
def test_hosts_that_are_wrong(host):
    with pytest.raises(ConfigurationError, match="x: "):
        checks.host(host, "x")


@given(st.text(max_size=40))
def test_an_address_is_one_or_refused(value):
    try:
        said = checks.address(value, "x")
    except ConfigurationError:
        return
    assert said == value
    assert value.rpartition(":")[2].isdigit()


@pytest.mark.parametrize("value", ["", ".a", "-a", "a/b", "a" * 101, "a\n", "é", None, 3, "a b"])
def test_names_that_are_wrong(value):
    with pytest.raises(ConfigurationError, match="x: not a name"):
        checks.name(value, "x")
