"""A word that ties with a threshold is settled by more of them: too rare to meet by luck."""

from __future__ import annotations

from decimal import Decimal, localcontext

import numpy as np
import pytest

from dp_risk.privacy import noise, sampling
from dp_risk.privacy.alias import Alias


class Script:
    """Randomness that says what it was told, word by word."""

    def __init__(self, *words: int) -> None:
        self.left = list(words)

    def words(self, size: int) -> np.ndarray:
        said, self.left = self.left[:size], self.left[size:]
        assert len(said) == size, "more words were drawn than the law needs"
        return np.array(said, dtype=np.uint64)


def test_a_tie_in_a_table_is_settled_by_a_second_word():
    # 1/4 + 5 * 2**-128 of a column of 1/2, so that 2**62 ties and 5 decides.
    table = Alias([(1 << 126) + 5, (1 << 128) - (1 << 126) - 5])
    for first, second, drawn in (((1 << 62) - 1, [], 0), (1 << 62, [4], 0), (1 << 62, [5], 1)):
        script = Script(*second)
        assert table.draw(np.array([first], dtype=np.uint64), script).tolist() == [drawn]
        assert not script.left


@pytest.mark.parametrize(("cell", "place"), [(0, 1), (3, 1), (70, 5), (700, 15)])
@pytest.mark.parametrize("bits", [10, 20, 24])
def test_a_draw_that_is_nearly_kept_compares_to_the_last_bit(bits, cell, place):
    # 45 to 63 bits of the uniform are in the first word; the threshold says what follows.
    fine = bits - 6
    with localcontext() as context:
        context.prec = 100
        exponent = Decimal((cell * 2 ** (fine + 1) + place) * place) / 2 ** (2 * bits + 1)
        bound = int((-exponent).exp() * 2 ** (63 - fine + 128))
    for change, kept in ((-1, True), (0, False)):
        u = bound + change
        word = (u >> 128 << fine) + place
        script = Script(u >> 64 & 2**64 - 1, u % 2**64)
        found = noise._kept(np.array([cell]), np.array([word], dtype=np.uint64), bits, script)
        assert found.tolist() == [kept]
        assert not script.left


def test_only_one_zero_is_kept():
    for sign, kept in ((0, True), (1 << 63, False)):
        word = np.array([sign], dtype=np.uint64)
        assert noise._kept(np.array([0]), word, 20, Script()).tolist() == [kept]


@pytest.mark.parametrize("rate", [0.3, 0.5, 0.126, 1 - 2**-53])
def test_a_unit_that_ties_with_the_rate(rate):
    threshold = int(rate * 2**16)
    rest = int((rate * 2**16 - threshold) * 2**64)
    for low in (rest - 1, rest):
        if low >= 0:
            found = sampling._compared(1, rate, Script(threshold, low))
            assert found.tolist() == ([0] if low < rest else [])
    assert sampling._compared(1, rate, Script(threshold - 1)).tolist() == [0]
