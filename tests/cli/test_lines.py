"""The lines of a service: one an event, whatever is in it."""

from __future__ import annotations

import io
import json

from hypothesis import given
from hypothesis import strategies as st

from dp_risk.cli.lines import Lines


def said(*, as_json, facts):
    stream = io.StringIO()
    Lines(as_json=as_json, stream=stream)("it happened", **facts)
    return stream.getvalue()


@given(facts=st.dictionaries(st.sampled_from("abc"), st.text() | st.floats() | st.none()))
def test_an_event_is_one_line_in_both_forms(facts):
    for as_json in (False, True):
        text = said(as_json=as_json, facts=facts)
        assert text.endswith("\n")
        assert len(text.splitlines()) == 1
    assert json.loads(text)["event"] == "it happened"


def test_a_plain_line_can_be_read():
    text = said(as_json=False, facts={"run": "a1", "epsilon": 0.123456, "reason": "too few"})
    assert text.split(" ", 1)[1] == 'it happened run=a1 epsilon=0.1235 reason="too few"\n'


def test_the_very_same_line_is_said_once_a_minute():
    stream, now = io.StringIO(), [0.0]
    lines = Lines(as_json=False, stream=stream, clock=lambda: now[0])
    for second in (0, 1, 59, 60, 61):
        now[0] = float(second)
        lines.rarely("refused", peer="a")
    lines.rarely("refused", peer="b")
    assert [line.split()[-1] for line in stream.getvalue().splitlines()] == [
        "peer=a", "peer=a", "peer=b",
    ]  # fmt: skip


def test_what_was_said_does_not_fill_the_memory():
    lines = Lines(as_json=False, stream=io.StringIO())
    for number in range(10_050):
        lines.rarely("refused", peer=number)
    assert len(lines._said) <= 10_000
