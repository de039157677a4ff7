from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dp_risk.privacy.alias import Alias, whole_masses
from dp_risk.privacy.randomness import Randomness

WEIGHTS = st.lists(st.integers(0, 2**200), min_size=2, max_size=70).filter(any)


def masses_of(table: Alias) -> list[int]:
    """Read the law off a table: what every column gives to its own outcome and to the other."""
    columns = len(table._other)
    found = [0] * columns
    for j in range(columns):
        own = (int(table._high[j]) << 64) + int(table._low[j])
        found[j] += own
        found[int(table._other[j])] += 2**128 // columns - own
    return found


@given(WEIGHTS)
def test_a_table_holds_its_masses_exactly(weights):
    masses = whole_masses(weights)
    found = masses_of(Alias(masses))
    assert found[: len(masses)] == masses
    assert not any(found[len(masses) :])


@given(WEIGHTS)
def test_masses_are_proportional_to_the_last_bit(weights):
    masses, total = whole_masses(weights), sum(weights)
    assert sum(masses) == 2**128
    off = [mass * total - (weight << 128) for mass, weight in zip(masses, weights, strict=True)]
    assert sum(abs(error) for error in off) // 2 <= len(weights) * total
    assert sum(error > 0 for error in off) <= 1


@pytest.mark.parametrize(
    "masses", [[], [1 << 128], [1, 1], [-1, (1 << 128) + 1], [0] * 65536 + [1 << 128]]
)
def test_what_is_no_law_is_refused(masses):
    with pytest.raises(ValueError, match="masses"):
        Alias(masses)


@pytest.mark.statistical
def test_draws_follow_the_masses():
    # Chi-square at level 1e-7; an outcome without mass never comes.
    masses = whole_masses([5, 0, 1, 30, 2, 2, 60])
    source, n = Randomness.seeded(31), 300_000
    observed = np.bincount(Alias(masses).draw(source.words(n), source), minlength=7)
    expected = np.array([mass / 2**128 for mass in masses]) * n
    assert observed[1] == 0
    there = expected > 0
    assert stats.chisquare(observed[there], expected[there]).pvalue > 1e-7
