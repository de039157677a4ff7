from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_risk.data.split import holdout_mask
from dp_risk.types import ConfigurationError

KEY = bytes(range(32))


def ids(names):
    return np.array([name.encode() for name in names], dtype="S32")


@given(st.lists(st.text("0123456789abcdef", max_size=32)), st.floats(0, 1), st.randoms())
def test_a_unit_stays_on_its_side(names, fraction, random):
    sides = dict(zip(names, holdout_mask(ids(names), KEY, fraction), strict=True))
    shuffled = random.sample(names, len(names))
    assert holdout_mask(ids(shuffled), KEY, fraction).tolist() == [sides[n] for n in shuffled]


def test_fractions_are_nested_and_close_to_what_was_asked():
    units = ids([f"{i:032x}" for i in range(20000)])
    small, large = holdout_mask(units, KEY, 0.2), holdout_mask(units, KEY, 0.5)
    assert not (small & ~large).any()
    # Six standard deviations of a binomial with 20,000 trials.
    assert abs(small.mean() - 0.2) < 6 * np.sqrt(0.2 * 0.8 / 20000)
    assert holdout_mask(units, KEY, 1.0).all()
    assert not holdout_mask(units, KEY, 0.0).any()


def test_another_key_is_another_split():
    units = ids([f"{i:032x}" for i in range(1000)])
    assert (holdout_mask(units, KEY, 0.5) != holdout_mask(units, KEY[::-1], 0.5)).any()


@pytest.mark.parametrize(("key", "fraction"), [(b"short", 0.5), (KEY * 3, 0.5), (KEY, 1.5)])
def test_bad_arguments(key, fraction):
    with pytest.raises(ConfigurationError):
        holdout_mask(ids(["a"]), key, fraction)
