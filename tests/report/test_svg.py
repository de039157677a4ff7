from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_risk.report.page.forms import rounded_down, rounded_up
from dp_risk.report.plots import svg
from dp_risk.report.words import factor

pixels = st.floats(0, 300, allow_nan=False)


@given(st.lists(pixels, max_size=15))
def test_labels_never_overlap(wanted: list[float]) -> None:
    placed = svg.spread(wanted, 16.0, 10.0, 290.0)
    assert all(10.0 - 1e-6 <= at <= 290.0 + 1e-6 for at in placed)
    gaps = [b - a for a, b in itertools.pairwise(sorted(placed))]
    assert all(gap >= 16.0 - 1e-6 for gap in gaps)


@given(st.lists(pixels, max_size=15))
def test_labels_keep_their_order(wanted: list[float]) -> None:
    placed = svg.spread(wanted, 16.0, 10.0, 290.0)
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    assert all(placed[a] <= placed[b] + 1e-9 for a, b in itertools.pairwise(order))


def test_labels_with_room_stay() -> None:
    assert svg.spread([50.0, 100.0], 16.0, 0.0, 300.0) == [50.0, 100.0]


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_lie_inside(low: float, width: float) -> None:
    high = low + width
    marks = svg.ticks(low, high)
    assert len(marks) <= 9
    assert all(low - 1e-6 * width <= mark <= high + 1e-6 * width for mark in marks if width > 1e-3)


@pytest.mark.parametrize(
    ("x", "step", "label"), [(0.95, 0.01, "0.95"), (2.5, 2.5, "2.5"), (0, 1, "0"), (40, 20, "40")]
)
def test_tick_labels(x: float, step: float, label: str) -> None:
    assert svg.tick_label(x, step) == label


@given(st.floats(0, 1000))
def test_printed_budgets_are_never_flattering(x: float) -> None:
    assert float(rounded_up(x)) >= x - 1e-6
    assert float(rounded_up(x)) <= x + 0.01 + 1e-6
    assert float(rounded_down(x)) <= x + 1e-6


@given(st.text(max_size=40), st.floats(40, 300))
def test_a_label_is_cut_to_its_room(label: str, room: float) -> None:
    cut = svg.shorten(label, room)
    assert svg.width(cut) <= room
    words = cut.strip("\u2068\u2069")
    assert words == label.strip("\u2068\u2069") or words.endswith("…")


def test_wide_scripts_are_wide_and_marks_are_not() -> None:
    assert svg.width("年龄") > svg.width("ii")
    assert svg.width("e\u0301") == svg.width("e")
    assert svg.shorten("👩\u200d👩\u200d👧", 2.9 * svg.FONT) == "👩…"  # no joiner is left behind


def test_what_runs_from_right_to_left_is_isolated() -> None:
    assert svg.shorten("مستوى", 300) == "\u2068مستوى\u2069"
    assert svg.shorten("level", 300) == "level"


def test_factor() -> None:
    assert factor(1.0) == "e^1.00 (2.72)"
    assert factor(8.0) == "e^8.00 (2,981)"
