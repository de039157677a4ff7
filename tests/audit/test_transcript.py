from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dp_risk.audit.transcript import flatten, leaks, transcript

RUNS = 4


def run(seed, **extra):
    """One honest run: public values, noisy numbers, a noisy array, a noisy histogram as bytes."""
    rng = np.random.default_rng(seed)
    update = {
        "round": 1,
        "loss": float(rng.normal()),
        "weights": rng.normal(size=(5, 4)),
        "histogram": rng.bytes(16),
        "bins": [{"edge": 0.0}, {"edge": 0.5}],
        "nan": float("nan"),
    }
    return [{"kind": "plan", "units": 100}, {**update, **extra}]


def sides(change):
    """Runs on D, and runs on D and a unit, whose second message `change` alters."""
    without = [run(seed) for seed in range(RUNS)]
    with_unit = [run(100 + seed) for seed in range(RUNS)]
    for one in without:
        change(one, 0)
    for one in with_unit:
        change(one, 1)
    return without, with_unit


def exact_coordinate(one, unit):
    one[1]["weights"][2, 1] = 0.25 + unit


def exact_block(one, unit):
    one[1]["weights"][:2] = unit


def sign_of_zero(one, unit):
    one[1]["weights"][0, 0] = -0.0 if unit else 0.0


def extra_message(one, unit):
    one.extend([{"kind": "done"}] * unit)


def sometimes(one, unit):
    # Sent in half of the runs on each side, but exact.
    if one[1]["loss"] > 0:
        one[1]["note"] = unit


LEAKS = {
    "a count": (lambda one, unit: one[1].update({"num-examples": 100 + unit}), "1/num-examples"),
    "a nested count": (
        lambda one, unit: one[1].update(classes={"fraud": [3 + unit]}),
        "1/classes/fraud/0",
    ),
    "a length of text": (
        lambda one, unit: one[1].update(log=f"{one[1]['loss']:.3e}"[-4:] + "x" * unit),
        "1/log#bytes",
    ),
    "a length of a list": (
        lambda one, unit: one[1].update(rows=[one[1]["loss"]] * (3 + unit)),
        "1/rows#length",
    ),
    "a shape": (
        lambda one, unit: one[1].update(grads=np.full(7 + unit, one[1]["loss"])),
        "1/grads#shape",
    ),
    "a coordinate": (exact_coordinate, "1/weights[9]"),
    "some coordinates": (exact_block, "1/weights[0] and 7 more"),
    "the sign of zero": (sign_of_zero, "1/weights[0]"),
    "a type": (lambda one, unit: one[1].update(best=1.0 if unit else 1), "1/best"),
    "a dtype": (
        lambda one, unit: one[1].update(v=np.full(2, one[1]["loss"], "f8" if unit else "f4")),
        "1/v#dtype",
    ),
    "an extra key": (
        lambda one, unit: one[1].update({"warning": one[1]["loss"]} if unit else {}),
        "1/warning (present or not)",
    ),
    "the order of keys": (
        lambda one, unit: one[1].update({k: one[1].pop(k) for k in ["loss"] * unit}),
        "1/#keys",
    ),
    "a further message": (extra_message, "messages"),
    "an optional field": (sometimes, "1/note"),
}


@pytest.mark.parametrize(("change", "name"), LEAKS.values(), ids=LEAKS.keys())
def test_leaks_are_named(change, name):
    without, with_unit = sides(change)
    assert name in leaks(without, with_unit)
    found = transcript(without, with_unit)
    assert not found.passed
    assert "fields over 4 + 4 runs" in found.figure


def test_honest_runs_leak_nothing():
    without, with_unit = sides(lambda one, unit: None)
    assert leaks(without, with_unit) == []
    found = transcript(without, with_unit)
    assert found.passed
    assert found.figure.startswith("0 of ")


def test_a_noisy_shift_is_no_leak():
    without, with_unit = sides(lambda one, unit: one[1].update(loss=one[1]["loss"] + 5 * unit))
    assert transcript(without, with_unit).passed


def test_arrays_of_noisy_length_are_compared_as_far_as_they_go():
    def change(one, unit):
        length = 3 + int(abs(one[1]["loss"]) * 1e6) % 5
        one[1]["v"] = np.r_[float(unit), np.full(length, one[1]["loss"])]

    assert leaks(*sides(change)) == ["1/v[0]"]


def test_one_run_a_side_shows_nothing():
    with pytest.raises(ValueError, match="at least two runs"):
        leaks([run(1)], [run(2), run(3)])


def test_silence_fails():
    assert not transcript([[], []], [[], []]).passed


def test_flatten_names_everything():
    fields = flatten({"a": {"b/c": [1, "é"]}, "w": np.zeros((2, 3), "f4"), "e": {}})
    assert {name: value for name, value in fields.items() if name != "w"} == {
        "#keys": ("a", "w", "e"),
        "a#keys": ("b/c",),
        "a/b~1c#length": 2,
        "a/b~1c/0": 1,
        "a/b~1c/1": "é",
        "a/b~1c/1#bytes": 2,
        "w#dtype": "<f4",
        "w#shape": (2, 3),
        "e#keys": (),
    }
    assert fields["w"].shape == (2, 3)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
_MESSAGES = st.lists(
    st.dictionaries(
        st.text(max_size=3),
        _JSON | st.binary(max_size=4) | hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes()),
        max_size=3,
    ),
    max_size=2,
)


@given(_MESSAGES)
def test_equal_runs_leak_nothing(messages):
    assert leaks([messages] * 2, [messages] * 2) == []


@given(_MESSAGES, _MESSAGES)
def test_any_two_transcripts_are_compared(one, two):
    names = leaks([one, one], [two, two])
    assert names == leaks([one] * 3, [two] * 2)
    if len(one) != len(two):
        assert "messages" in names


@given(_JSON, _JSON)
def test_different_json_is_always_told_apart(one, two):
    same = json.dumps(one) == json.dumps(two)
    assert (leaks([[{"x": one}]] * 2, [[{"x": two}]] * 2) == []) == same
