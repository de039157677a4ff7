from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dp_risk.privacy.units import (
    Batch,
    batches,
    capacity,
    fill,
    lengths,
    loss_gradients,
    only,
    smaller,
)
from tests.conformance.cases import blank

sizes_of_units = st.lists(st.integers(0, 5000), max_size=60).map(lambda s: np.array(s, np.int64))


@given(sizes_of_units, st.integers(1, 10**7))
def test_batches_hold_every_unit_once_and_padded_by_its_own_size(sizes, dimension):
    most = {length: capacity(length, dimension) for length in lengths(5000)}
    rooms = {length: [m, *smaller(m)] for length, m in most.items()}
    found = list(batches(sizes, rooms))
    chosen = np.concatenate([*(c for *_, c in found), np.empty(0, int)])
    assert sorted(chosen.tolist()) == list(range(len(sizes)))
    for length, size, chunk in found:
        assert 1 <= len(chunk) <= size
        assert size in rooms[length]
        own = np.maximum(sizes[chunk], 1)
        assert ((own <= length) & (length < 2 * own)).all()
        assert length in lengths(5000)


@given(st.integers(0, 14), st.integers(1, 2**28))
def test_a_capacity_fills_whole_kernels_and_fits_in_memory(bits, dimension):
    records = 2**bits
    units = capacity(records, dimension)
    assert units & (units - 1) == 0
    assert units == 1 or (units * records % 16 == 0 and units * dimension <= 2**25)
    assert units * records <= (4096 if records == 1 else max(1024, records))


def test_small_batches_are_no_emptier_than_they_need_be():
    assert [smaller(n) for n in (4096, 64, 16, 1)] == [[1024, 256], [16], [], []]
    for count, expected in (
        (92, [256]),
        (257, [256, 256]),
        (1024, [1024]),
        (3900, [4096]),
        (4200, [4096, 256]),
    ):
        found = list(batches(np.ones(count, np.int64), {1: [4096, 1024, 256]}))
        assert [size for _, size, _ in found] == expected


def test_capacities_and_lengths_by_hand():
    assert [capacity(1, d) for d in (1, 600, 20_000, 10**6, 10**7)] == [4096, 512, 16, 16, 1]
    assert [capacity(r, 100) for r in (2, 64, 1024, 2048)] == [512, 16, 1, 1]
    assert [lengths(n) for n in (1, 2, 3, 9)] == [[1], [1, 2], [1, 2, 4], [1, 2, 4, 8, 16]]


def batch(codes, values, labels, mask=None):
    return Batch(
        inputs=(torch.tensor(codes), torch.tensor(values, dtype=torch.float64)),
        labels=torch.tensor(labels),
        mask=None if mask is None else torch.tensor(mask),
    )


def zeros(*lead, slots=1, values=1):
    return blank(*lead, slots=slots, values=values)


def test_bad_units_stay_blank_and_the_others_are_at_their_places():
    records = batch(
        [[1, 2], [9, 2], [1, -1], [3, 0], [1, 1]],
        [[0.5], [0.5], [0.5], [math.nan], [1e100]],
        [1.0, 1.0, 0.0, 0.0, 0.0],
    )
    into = zeros(8, slots=2)
    kept = fill(into, records, at=slice(2, 7), codes=9)
    assert kept.tolist() == [True, False, False, False, True]
    assert into.inputs[0].tolist() == [[0, 0]] * 2 + [[1, 2]] + [[0, 0]] * 3 + [[1, 1], [0, 0]]
    assert into.inputs[1].flatten().tolist() == [0, 0, 0.5, 0, 0, 0, 1e100, 0]
    assert into.labels.tolist() == [0, 0, 1, 0, 0, 0, 0, 0]
    alone = only(into, torch.arange(8) == 6)
    assert alone.inputs[0].tolist() == [[0, 0]] * 6 + [[1, 1], [0, 0]]
    assert alone.inputs[1].flatten().tolist() == [0, 0, 0, 0, 0, 0, 1e100, 0]


def test_padding_may_hold_anything_and_is_blanked():
    nan = math.nan
    accounts = batch(
        [[[1], [-7]], [[1], [99]], [[2], [3]], [[-1], [-1]]],
        [[[0.5], [nan]], [[0.5], [0.5]], [[0.5], [math.inf]], [[nan], [nan]]],
        [[1.0, nan], [1.0, 0.0], [1.0, 0.0], [nan, nan]],
        [[True, False], [True, True], [True, True], [False, False]],
    )
    into = zeros(5, 4)
    kept = fill(into, accounts, at=slice(0, 4), codes=9)
    # The second has a bad code that is there, the third a bad value; the last has no record.
    assert kept.tolist() == [True, False, False, True]
    assert into.inputs[0].flatten(1).tolist() == [[1, 0, 0, 0]] + [[0] * 4] * 4
    assert into.inputs[1].flatten(1).tolist() == [[0.5, 0, 0, 0]] + [[0] * 4] * 4
    assert into.labels.tolist() == [[1.0, 0.0, 0.0, 0.0]] + [[0.0] * 4] * 4
    assert into.mask.tolist() == [[True, False, False, False]] + [[False] * 4] * 4
    found = loss_gradients(torch.zeros(5, 4), into)
    assert found.flatten().tolist() == [-0.5] + [0.0] * 19
    assert not only(into, torch.arange(5) == 3).mask.any()


def test_slots_or_values_may_be_none():
    found = batch([[], []], [[], []], [1.0, 0.0])
    found = Batch(inputs=(found.inputs[0].long(), found.inputs[1]), labels=found.labels)
    assert fill(zeros(2, slots=0, values=0), found, at=slice(0, 2), codes=1).tolist() == [True] * 2


@pytest.mark.parametrize(
    ("wrong", "into"),
    [
        # A unit that comes twice would be clipped twice.
        (batch([[1]] * 3, [[0.5]] * 3, [1.0] * 3), zeros(4)),
        (batch([[1]] * 2, [[0.5]] * 3, [1.0] * 2), zeros(4)),
        (batch([[1]] * 2, [[0.5]] * 2, [1.0] * 2, [[True]] * 2), zeros(4)),
        (batch([[1]] * 2, [[0.5]] * 2, [1.0] * 2, [[True]] * 2), zeros(4, 2)),
        (batch([[[1]]] * 2, [[[0.5]]] * 2, [[1.0, 1.0]] * 2), zeros(4)),
        (batch([[[1]] * 3] * 2, [[[0.5]] * 3] * 2, [[1.0] * 3] * 2, [[True] * 3] * 2), zeros(4, 2)),
        (batch([[1.0]] * 2, [[0.5]] * 2, [1.0] * 2), zeros(4)),
        (batch([[1]] * 2, [[0.5]] * 2, [1j] * 2), zeros(4)),
        (Batch(inputs=(), labels=torch.zeros(2)), zeros(4)),
    ],
)
def test_what_is_no_such_batch_is_not_copied(wrong, into):
    with pytest.raises((ValueError, TypeError)):
        fill(into, wrong, at=slice(0, 2), codes=9)
    assert not any(t.any() for t in (*into.inputs, into.labels))


def test_a_units_loss_is_the_mean_over_its_records():
    logits = torch.tensor([[0.3, -2.0, math.nan], [1.0, 9.0, 9.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    labels = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    found = loss_gradients(logits, Batch(inputs=(), labels=labels, mask=mask))
    logistic = torch.nn.functional.binary_cross_entropy_with_logits
    moved = logits.clone().requires_grad_()
    (logistic(moved[0, :2], labels[0, :2]) + logistic(moved[1, :1], labels[1, :1])).backward()
    np.testing.assert_allclose(found.numpy(), moved.grad.numpy(), rtol=1e-15)
    alone = loss_gradients(logits[:, 0], Batch(inputs=(), labels=labels[:, 0]))
    assert alone.tolist() == (found[:, 0] * torch.tensor([2.0, 1.0])).tolist()
    with pytest.raises(ValueError, match="one logit a record"):
        loss_gradients(logits, Batch(inputs=(), labels=labels[:, 0]))
