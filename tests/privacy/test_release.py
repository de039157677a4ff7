from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_risk.privacy.release import arrays_digest, canonical, digest

ARRAYS = {"a": np.arange(6.0).reshape(2, 3), "b": np.array([1.0])}


@pytest.mark.parametrize(
    "other",
    [
        {"a": ARRAYS["a"], "c": ARRAYS["b"]},
        {"a": ARRAYS["a"]},
        {**ARRAYS, "c": np.empty(0)},
        {"a": ARRAYS["a"].reshape(3, 2), "b": ARRAYS["b"]},
        {"a": ARRAYS["a"].astype(">f8"), "b": ARRAYS["b"]},
        {"a": ARRAYS["a"].view(np.int64), "b": ARRAYS["b"]},
        {"a": np.nextafter(ARRAYS["a"], 9), "b": ARRAYS["b"]},
        {"a": -ARRAYS["a"], "b": ARRAYS["b"]},
        {"a": ARRAYS["b"], "b": ARRAYS["a"]},
    ],
)
def test_any_change_changes_the_digest(other):
    assert arrays_digest(other) != arrays_digest(ARRAYS)


def test_the_digest_ignores_order_and_memory_layout():
    other = {"b": ARRAYS["b"].copy(), "a": np.asfortranarray(ARRAYS["a"])}
    assert arrays_digest(other) == arrays_digest(ARRAYS)


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.booleans() | st.none()))
def test_canonical_forgets_the_order_of_keys_only(value):
    backwards = dict(reversed(list(value.items())))
    assert digest(backwards) == digest(value)
    assert digest({**value, "\x00more": 1}) != digest(value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_canonical_refuses_what_json_cannot_say(value):
    with pytest.raises(ValueError, match="JSON"):
        canonical({"x": value})
