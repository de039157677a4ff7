from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_risk.privacy.noise_search import TOLERANCE, smallest


@given(st.floats(1e-3, 1e3), st.floats(0.2, 6.0), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_powers_are_solved_from_anywhere(scale, power, target, start):
    calls = []

    def cost(noise: float) -> float:
        calls.append(noise)
        return scale * noise**-power

    found = smallest(cost, target, start)
    assert found in calls
    assert cost(found) <= target
    least = (scale / target) ** (1 / power)
    assert found <= least * (1 + TOLERANCE) ** (1 + 1 / power)
    assert len(calls) < 60


@given(st.floats(0.01, 100.0), st.floats(0.01, 100.0))
def test_a_step_is_found_by_halving(limit, start):
    found = smallest(lambda noise: math.inf if noise < limit else 0.0, 1.0, start)
    assert limit <= found <= limit * (1 + 2 * TOLERANCE)


@given(st.floats(0.3, 30.0), st.floats(0.01, 100.0), st.floats(1.001, 3.0))
def test_a_cost_that_flattens_out_is_solved(floor, start, room):
    # As where other charges, or a conversion, cost most of the target.
    found = smallest(lambda noise: floor + 1 / noise, floor * room, start)
    least = 1 / (floor * room - floor)
    assert least <= found * (1 + 1e-12)
    assert floor + 1 / found <= floor * room
    assert floor + 1 / found >= floor * room * (1 - 2 * TOLERANCE)


def test_a_good_guess_takes_few_evaluations():
    calls = []
    smallest(lambda noise: calls.append(noise) or 3.7 * noise**-1.3, 2.0, 1.5)
    assert len(calls) <= 4


def test_what_costs_exactly_the_target_is_enough():
    assert smallest(lambda noise: 2.0, 2.0, 5.0) == pytest.approx(5.0)
