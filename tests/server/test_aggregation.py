from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from server.aggregation import total

numbers = st.floats(-1e6, 1e6)
vectors = arrays(np.float64, 3, elements=numbers)


@given(st.lists(vectors, min_size=1, max_size=5))
def test_the_total_is_the_sum_and_leaves_its_inputs_alone(parts: list[np.ndarray]) -> None:
    copies = [part.copy() for part in parts]
    summed = total([{"w": part} for part in parts])
    np.testing.assert_allclose(summed["w"], np.sum(parts, axis=0), atol=1e-6)
    for part, copy in zip(parts, copies, strict=True):
        assert np.array_equal(part, copy)


def test_the_total_refuses_what_does_not_fit() -> None:
    one = {"w": np.zeros(3)}
    for wrong in ({"v": np.zeros(3)}, {"w": np.zeros(1)}, {}, {**one, "v": np.zeros(1)}):
        with pytest.raises(ValueError, match="sites released different"):
            total([one, wrong])
    with pytest.raises(ValueError, match="nothing"):
        total([])


def test_the_total_does_not_depend_on_the_order_of_names() -> None:
    a, b = np.array([1.0]), np.array([2.0])
    summed = total([{"a": a, "b": b}, {"b": b, "a": a}])
    assert summed["a"] == 2.0
    assert summed["b"] == 4.0
