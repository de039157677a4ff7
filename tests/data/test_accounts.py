from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dp_risk.data.accounts import by_account
from dp_risk.data.coding import Coded

KEY = b"k" * 32


def coded(ids, contents):
    contents = np.asarray(contents)
    return Coded(
        codes=np.stack([contents, contents * 0 + 1], 1).astype(np.int32).reshape(-1, 2),
        values=np.zeros((len(contents), 1), dtype=np.float32),
        labels=np.zeros(len(contents), dtype=np.float32),
        ids=np.array([f"{i:04d}" for i in ids], dtype="S32"),
    )


def accounts(rows, offsets):
    return {
        rows.ids[start]: rows.codes[start:stop, 0].tolist()
        for start, stop in itertools.pairwise(offsets)
    }


some_rows = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), max_size=40)


@given(some_rows)
def test_every_row_is_kept_with_its_account(data):
    ids, contents = [i for i, _ in data], [c for _, c in data]
    rows, offsets = by_account(coded(ids, contents), KEY)
    assert offsets[0] == 0
    assert offsets[-1] == len(data) == len(rows)
    assert offsets.dtype == np.int64
    found = accounts(rows, offsets)
    assert len(found) == len(offsets) - 1 == len(set(ids))
    for account in set(ids):
        expected = sorted(c for i, c in data if i == account)
        assert sorted(found[b"%04d" % account]) == expected


@given(some_rows, st.randoms(use_true_random=False), st.integers(0, 5))
@settings(deadline=None)
def test_an_accounts_order_depends_on_its_own_rows_and_the_key(data, random, gone):
    first = accounts(*by_account(coded(*zip(*data, strict=True)) if data else coded([], []), KEY))
    rest = [row for row in data if row[0] != gone]
    random.shuffle(rest)
    again = accounts(*by_account(coded(*zip(*rest, strict=True)) if rest else coded([], []), KEY))
    first.pop(b"%04d" % gone, None)
    assert again == first


def test_another_key_is_another_order():
    data = coded([1] * 50, range(50))
    assert accounts(*by_account(data, KEY)) != accounts(*by_account(data, b"l" * 32))


@pytest.mark.statistical
def test_the_first_rows_are_a_random_choice_also_among_copies():
    # 4,000 accounts of 9 copies of one row and 1 other: the other one is among the first two with
    # probability .2. Two-sided binomial at 1e-8; copies that stay together would give 0.1.
    n, size = 4000, 10
    ids = np.repeat(np.arange(n), size)
    contents = np.where(np.arange(n * size) % size == 3, 1_000_000 + ids, ids)
    rows, offsets = by_account(coded(ids, contents), KEY)
    first = rows.codes[:, 0].reshape(n, size)[:, :2]
    low, high = stats.binom.ppf([5e-9, 1 - 5e-9], n, 0.2)
    assert low <= (first >= 1_000_000).any(1).sum() <= high
    assert (np.diff(offsets) == size).all()
