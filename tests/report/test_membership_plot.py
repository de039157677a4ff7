from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_risk.report.plots.membership import membership

rates = st.lists(st.floats(0, 1), min_size=0, max_size=30).map(sorted)


def facts(false, true, label="attack", others=1000):
    return {"label": label, "false_positive": false, "true_positive": true, "others": others}


def curve(picture):
    [found] = re.findall(r'<path d="M([^"]*)" class="curve c0"', picture)
    return [tuple(map(float, pair.split(","))) for pair in found.split("L")]


@pytest.mark.parametrize("width", [320.0, 760.0])
@given(st.data())
def test_any_curve_is_drawn_inside_the_picture(width, data):
    attacks = []
    for number in range(data.draw(st.integers(1, 3))):
        false = data.draw(rates)
        true = sorted(
            data.draw(st.lists(st.floats(0, 1), min_size=len(false), max_size=len(false)))
        )
        attacks.append(facts(false, true, f"<{number}>", data.draw(st.integers(0, 10**6))))
    drawn = ElementTree.fromstring(membership(attacks, width=width, cls="wide"))
    side = float(drawn.get("width"))
    assert side <= width
    for element in drawn.iter():
        for name in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy"):
            if element.get(name):
                assert 0 <= float(element.get(name)) <= side
        for number in re.findall(r"[\d.]+", element.get("d") or ""):
            assert 0 <= float(number) <= side


@pytest.mark.parametrize("width", [320.0, 760.0])
def test_axes_are_logarithmic_and_chance_is_the_diagonal(width):
    picture = membership([facts([0.01, 0.1, 1.0], [0.01, 0.1, 1.0])], width=width, cls="")
    (a, b), (c, d), (e, f) = curve(picture)
    assert c - a == pytest.approx(e - c, abs=0.11)
    assert b - d == pytest.approx(d - f, abs=0.11)
    assert (e - c) / (width if width < 440 else 440) == pytest.approx(
        (d - f) / min(width, 440), rel=0.1
    )
    better = curve(membership([facts([0.01, 1.0], [0.1, 1.0])], width=width, cls=""))
    assert better[0] == (a, d)


def test_points_of_rate_zero_are_left_out():
    with_zero = membership([facts([0.0, 0.0, 0.1, 1.0], [0.0, 0.2, 0.3, 1.0])], width=500, cls="")
    assert curve(with_zero) == curve(membership([facts([0.1, 1.0], [0.3, 1.0])], width=500, cls=""))
    assert 'class="curve' not in membership([facts([0.0], [0.5])], width=500, cls="")


def test_controls_are_dashed_and_have_another_shape():
    attacks = [facts([0.1, 1.0], [0.2, 1.0], name) for name in ("attack", "no noise", "null")]
    picture = membership(attacks, width=500, cls="")
    assert picture.count("dashed") == 2
    assert picture.count("<circle") == 1
    assert picture.count("<polygon") == 2
    for name in ("attack", "no noise", "null"):
        assert f"<title>{name}</title>" in picture
