from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from server.aggregation import Stepper, total

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


def walk(stepper: Stepper, gradients: list[float], start: float = 1.0) -> tuple[float, float]:
    at = stepper.start({"w": np.array([start])})
    for gradient in gradients:
        at = stepper.step(at, {"w": np.array([gradient])})
    return float(at.weights["w"][0]), float(stepper.result(at)["w"][0])


def test_plain_steps_go_against_the_gradient() -> None:
    stepper = Stepper(learning_rate=0.5, momentum=0.0, averaging=0.0)
    assert walk(stepper, [1.0, -2.0]) == (1.5, 1.5)


def test_momentum_is_a_geometric_sum_of_past_gradients() -> None:
    stepper = Stepper(learning_rate=1.0, momentum=0.5, averaging=0.0)
    last, _ = walk(stepper, [1.0, 0.0, 0.0], start=0.0)
    assert last == -(1 + 0.5 + 0.25)


@given(st.lists(numbers, min_size=1, max_size=6), st.floats(0.1, 0.95))
def test_the_average_weighs_without_the_bias_of_the_start(
    gradients: list[float], keep: float
) -> None:
    stepper = Stepper(learning_rate=0.1, momentum=0.0, averaging=keep)
    path = [walk(stepper, gradients[: i + 1])[0] for i in range(len(gradients))]
    shares = keep ** np.arange(len(path) - 1, -1, -1.0)
    expected = np.average(path, weights=shares)
    np.testing.assert_allclose(walk(stepper, gradients)[1], expected, rtol=1e-9, atol=1e-6)


def test_without_a_step_the_result_is_the_start() -> None:
    stepper = Stepper(learning_rate=1.0, momentum=0.9, averaging=0.9)
    assert walk(stepper, []) == (1.0, 1.0)
