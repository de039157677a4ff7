from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from dp_risk.models.stepping import Stepper

numbers = st.floats(-1e6, 1e6)


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


def test_adam_is_that_of_torch() -> None:
    gradients = [1.0, -2.0, 0.5, 3.0]
    weight = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    theirs = torch.optim.Adam([weight], lr=0.1, betas=(0.9, 0.99))
    for gradient in gradients:
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        theirs.step()
    stepper = Stepper(learning_rate=0.1, momentum=0.9, averaging=0.0, adam=0.99)
    np.testing.assert_allclose(walk(stepper, gradients)[0], weight.item(), rtol=1e-12)
