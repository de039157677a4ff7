from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dp_risk.federation.roster import Member, Roster
from dp_risk.types import ConfigurationError

from .people import key, member, node_key

BOTH = Roster().add(member("a")).add(member("b"))


def test_a_roster_is_read_as_it_was_written(tmp_path):
    for roster in (Roster(), BOTH):
        roster.save(tmp_path / "roster.yaml")
        assert Roster.load(tmp_path / "roster.yaml") == roster
    assert [path.name for path in tmp_path.iterdir()] == ["roster.yaml"]


def test_sites_come_and_go_and_every_change_counts():
    assert BOTH.number == 2
    assert sorted(BOTH.keys) == sorted(BOTH.node_keys) == ["a", "b"]
    left = BOTH.revoke("a")
    assert (list(left.members), left.number) == (["b"], 3)
    again = left.add(member("a"))
    assert again.number == 4
    assert again.digest == BOTH.digest
    assert again.fingerprint == BOTH.fingerprint
    with pytest.raises(ConfigurationError, match="c: not in the roster"):
        BOTH.revoke("c")


@pytest.mark.parametrize(
    ("newcomer", "words"),
    [
        (member("a"), "a: a site of this name"),
        (member("a", key=member("x").key, node_key=node_key("x")), "a: a site of this name"),
        (member("c", key=member("a").key), "c: its key is that of a"),
        (member("c", node_key=node_key("b")), "c: its node_key is that of b"),
    ],
)
def test_a_name_or_key_is_there_once(newcomer, words):
    with pytest.raises(ConfigurationError, match=words):
        BOTH.add(newcomer)


def test_the_digest_is_of_all_names_and_keys_and_of_no_date():
    other_day = dataclasses.replace(BOTH.members["a"], since="2030-01-01T00:00:00+00:00")
    assert Roster(members={**BOTH.members, "a": other_day}).digest == BOTH.digest
    for changed in (member("a", key=member("x").key), member("a", node_key=node_key("x"))):
        assert Roster(members={**BOTH.members, "a": changed}).digest != BOTH.digest
    renamed = Roster(
        members={"a": BOTH.members["a"], "c": dataclasses.replace(member("b"), site="c")}
    )
    assert renamed.digest != BOTH.digest


@pytest.mark.parametrize(
    "changes",
    [
        {"site": ".."},
        {"site": "a b"},
        {"site": "é"},
        {"site": ""},
        {"key": "AB" * 32},
        {"key": "ab"},
        {"node_key": ""},
        {"node_key": node_key("a").replace("\n", "\r\n")},
        {"since": "yesterday"},
        {"since": "2026-03-01T12:00:00"},
    ],
)
def test_a_member_has_a_name_two_keys_and_a_date(changes):
    with pytest.raises(ConfigurationError):
        member(**{"site": "a", **changes})


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["number", "sites", "a", "key", "since"]), inner)
        ),
        max_leaves=9,
    )
)
def test_anything_else_is_refused(value):
    said, roster = "roster", None
    try:
        roster = Roster.from_dict(value, "roster")
    except ConfigurationError as error:
        said = str(error)
    assert said.startswith("roster")
    assert roster is None or roster.to_dict() == value


@pytest.mark.parametrize("text", ["{", "- a", "1: 2", "\x00", "a: &x [*x]", "!!python/name:os.x"])
def test_a_damaged_file_is_one_line(tmp_path, text):
    (tmp_path / "roster.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=r"roster\.yaml") as error:
        Roster.load(tmp_path / "roster.yaml")
    assert "\n" not in str(error.value)


def test_a_member_is_made_of_what_was_said():
    made = Member(site="a", key=member("a").key, node_key=node_key("a"), since=member("a").since)
    assert made == member("a")
    assert key("a") is key("a")
