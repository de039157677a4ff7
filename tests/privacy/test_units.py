from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dp_risk.privacy.units import Batch, chunks, mean_losses, sound

sizes_of_units = st.lists(st.integers(0, 50), max_size=60).map(lambda s: np.array(s, np.int64))


@given(sizes_of_units, st.integers(1, 10), st.integers(1, 100))
def test_chunks_are_bounded_and_hold_every_unit_once(sizes, units, records):
    found = list(chunks(sizes, units=units, records=records))
    assert sorted(np.concatenate([*found, np.empty(0, int)]).tolist()) == list(range(len(sizes)))
    for chunk in found:
        assert 1 <= len(chunk) <= units
        # Padding included; a unit that is too large by itself is alone.
        assert len(chunk) * sizes[chunk].max() <= records or len(chunk) == 1


def test_chunks_are_no_smaller_than_need_be():
    sizes = np.array([1, 10_000, 1, 1, 2, 1])
    assert [c.tolist() for c in chunks(sizes, units=100, records=8)] == [[0, 2, 3, 5], [4], [1]]
    assert [len(c) for c in chunks(np.ones(10, int), units=4, records=8)] == [4, 4, 2]
    assert [len(c) for c in chunks(np.zeros(10, int), units=20, records=1)] == [10]


def batch(codes, values, labels, mask=None):
    return Batch(
        inputs=(torch.tensor(codes), torch.tensor(values, dtype=torch.float64)),
        labels=torch.tensor(labels),
        mask=None if mask is None else torch.tensor(mask),
    )


def test_only_bad_units_go():
    records = batch(
        [[1, 2], [9, 2], [1, -1], [3, 0], [1, 1]],
        [[0.5], [0.5], [0.5], [math.nan], [1e308]],
        [1.0, 1.0, 0.0, 0.0, 0.0],
    )
    found = sound(records, units=5, codes=9)
    assert found.inputs[0].tolist() == [[1, 2], [1, 1]]
    assert found.inputs[1].tolist() == [[0.5], [1e308]]
    assert found.labels.tolist() == [1.0, 0.0]
    assert found.labels.dtype == torch.float64


def test_padding_may_hold_anything_and_is_blanked():
    nan = math.nan
    accounts = batch(
        [[[1], [-7]], [[1], [99]], [[2], [3]], [[-1], [-1]]],
        [[[0.5], [nan]], [[0.5], [0.5]], [[0.5], [math.inf]], [[nan], [nan]]],
        [[1.0, nan], [1.0, 0.0], [1.0, 0.0], [nan, nan]],
        [[True, False], [True, True], [True, True], [False, False]],
    )
    found = sound(accounts, units=4, codes=9)
    # The second has a bad code that is there, the third a bad value; the last has no record.
    assert found.inputs[0].tolist() == [[[1], [0]], [[0], [0]]]
    assert found.inputs[1].tolist() == [[[0.5], [0]], [[0], [0]]]
    assert found.labels.tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert found.mask is not None
    assert mean_losses(torch.zeros(2, 2), found).tolist() == pytest.approx([math.log(2), 0])


def test_slots_or_values_may_be_none():
    found = sound(batch([[], []], [[], []], [1.0, 0.0]), units=2, codes=1)
    assert len(found.labels) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        # A unit that comes twice would be clipped twice.
        batch([[1]] * 3, [[0.5]] * 3, [1.0] * 3),
        batch([[1]] * 2, [[0.5]] * 3, [1.0] * 2),
        batch([[1]] * 2, [[0.5]] * 2, [1.0] * 2, [[True]] * 2),
        batch([[[1]]] * 2, [[[0.5]]] * 2, [[1.0, 1.0]] * 2),
    ],
)
def test_another_number_of_units_is_no_batch(wrong):
    with pytest.raises(ValueError, match=r"batch|mask"):
        sound(wrong, units=2, codes=9)


def test_a_units_loss_is_the_mean_over_its_records():
    logits = torch.tensor([[0.3, -2.0, 9.0], [1.0, 9.0, 9.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    labels = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    found = mean_losses(logits, Batch(inputs=(), labels=labels, mask=mask))
    expected = [(math.log1p(math.exp(-0.3)) + math.log1p(math.exp(-2.0))) / 2, math.log1p(math.e)]
    assert found.tolist() == pytest.approx(expected)
    alone = mean_losses(logits[:, 0], Batch(inputs=(), labels=labels[:, 0]))
    masked = Batch(inputs=(), labels=labels[:, 0], mask=torch.ones(2, dtype=torch.bool))
    assert alone.tolist() == mean_losses(logits[:, 0], masked).tolist()
    with pytest.raises(ValueError, match="size"):
        mean_losses(logits, Batch(inputs=(), labels=labels[:, 0]))
