"""The lines of a service: one an event, whatever is in it."""

from __future__ import annotations

import datetime
import io
import json
import logging

from hypothesis import given
from hypothesis import strategies as st

from clients.telling import LOG, tell
from dp_risk.cli.lines import Formatter, Lines

FACTS = st.dictionaries(st.sampled_from("abc"), st.text() | st.floats() | st.none())


def told(event, *, as_json, facts):
    """The line of a server."""
    stream = io.StringIO()
    Lines(as_json=as_json, stream=stream)(event, level="warning", **facts)
    return stream.getvalue()


def logged(event, *, as_json, facts):
    """The line of a site."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Formatter(as_json=as_json))
    LOG.addHandler(handler)
    try:
        tell(logging.WARNING, event, **facts)
    finally:
        LOG.removeHandler(handler)
    return stream.getvalue()


@given(event=st.text(min_size=1), facts=FACTS)
def test_an_event_is_one_line_of_one_shape_on_both_sides(event, facts):
    for as_json in (False, True):
        texts = [say(event, as_json=as_json, facts=facts) for say in (told, logged)]
        for text in texts:
            assert text.endswith("\n")
            assert len(text.splitlines()) == 1
        if not as_json:
            assert len({text.split(" ", 1)[1] for text in texts}) == 1
    for text in texts:
        said = json.loads(text)
        assert list(said) == ["time", "level", "event", *facts]
        assert (said["level"], said["event"]) == ("warning", event)


def test_a_plain_line_can_be_read():
    facts = {"run": "a1", "epsilon": 0.123456, "spent": None, "reason": "too few"}
    text = told("it happened", as_json=False, facts=facts)
    at, rest = text.split(" ", 1)
    assert datetime.datetime.fromisoformat(at).utcoffset() == datetime.timedelta(0)
    assert rest == 'it happened run=a1 epsilon=0.1235 reason="too few"\n'
    assert json.loads(told("it happened", as_json=True, facts=facts))["spent"] is None


@given(text=st.text())
def test_no_fact_can_look_like_another_one(text):
    said = told("it", as_json=False, facts={"a": text, "b": 1}).split(" ", 2)[2]
    value = said.removeprefix("a=").removesuffix(" b=1\n")
    assert (json.loads(value) if value[:1] == '"' else value) == text


def test_what_others_log_is_an_event_without_facts():
    record = logging.LogRecord("x", logging.ERROR, "", 1, "no %s\nat all", ("rows",), None)
    assert Formatter(as_json=False).format(record).endswith(r" no rows\nat all")
    said = json.loads(Formatter(as_json=True).format(record))
    assert (said["level"], said["event"]) == ("error", "no rows\nat all")


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
