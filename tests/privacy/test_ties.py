"""A word that ties with a threshold is settled by a second one: too rare to meet by luck."""

from __future__ import annotations

import numpy as np
import pytest

from dp_risk.privacy import noise, sampling


class Script:
    """Randomness that says what it was told, word by word."""

    def __init__(self, *words: int) -> None:
        self.left = list(words)

    def words(self, size: int) -> np.ndarray:
        said, self.left = self.left[:size], self.left[size:]
        assert len(said) == size, "more words were drawn than the law needs"
        return np.array(said, dtype=np.uint64)


@pytest.mark.parametrize("v", [1, 2, 5])
def test_a_geometric_tie(v):
    high, low = int(noise._EXP[v - 1]), int(noise._EXP_LOW[v - 1])
    assert noise._geometric(Script(high, low), 1).tolist() == [v - 1]
    assert noise._geometric(Script(high, low - 1), 1).tolist() == [v]
    assert noise._geometric(Script(high - 1), 1)[0] >= v


def test_a_bernoulli_tie_is_settled_by_the_remainder():
    # Probability 2/3 x 1/2 of a third trial: 2**63 / 3 leaves a remainder of 2.
    half = np.array([1 << 9])
    bound = (1 << 63) // 3
    low = ((1 << 63) % 3 << 64) // 3
    below = Script(0, 0, bound, low - 1, 2**64 - 1)
    above = Script(0, 0, bound, low)
    assert noise._bernoulli_exp(half, 10, below).tolist() == [False]
    assert noise._bernoulli_exp(half, 10, above).tolist() == [True]


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.01])
def test_a_gap_tie(rate):
    _, full = sampling._gap_thresholds(rate)
    high, low = full[3] >> 64, full[3] % 2**64
    assert sampling._gaps(rate, 1, Script(high, low)).tolist() == [4]
    if low:
        assert sampling._gaps(rate, 1, Script(high, low - 1)).tolist() == [3]
