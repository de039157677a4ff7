from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dp_risk.privacy import readings
from dp_risk.privacy.gaussian import (
    GaussianCount,
    GaussianHistogram,
    GaussianQuantiles,
    GaussianSum,
    quantiles,
)
from dp_risk.privacy.noise import Grid
from dp_risk.privacy.randomness import Randomness

ROUNDING = 1e-9
floats = st.floats(allow_nan=True, allow_infinity=True)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | floats | st.text(max_size=3) | st.binary()
    | st.complex_numbers(),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner),
    max_leaves=8,
)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def without_noise():
    """Let the sum through as it was before the grid."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Grid, "release", lambda self, total, randomness: total)
        yield


def of(mechanism, private):
    [array] = mechanism(private, Randomness.seeded(1)).values()
    return array


def histogram(cells=4):
    return GaussianHistogram(cells=cells, noise_multiplier=1.0)


rows_of_units = st.lists(
    st.tuples(st.integers(-3, 6), st.integers(-2, 5).map(float) | floats), max_size=40
)


@given(rows_of_units, st.integers(-3, 6))
@settings(max_examples=150, deadline=None)
def test_a_unit_with_all_its_rows_moves_a_histogram_by_at_most_one(data, unit):
    quantile_cells = GaussianQuantiles(low=-1.0, high=4.0, cells=3, noise_multiplier=1.0)
    for mechanism in (histogram(), quantile_cells):
        whole = of(mechanism, ([u for u, _ in data], np.array([c for _, c in data], float)))
        rest = [(u, c) for u, c in data if u != unit]
        without = of(mechanism, ([u for u, _ in rest], np.array([c for _, c in rest], float)))
        moved = whole - without
        assert np.linalg.norm(moved) <= 1
        assert (moved >= 0).all()
        assert moved.sum() <= 1


def test_a_units_weight_is_shared_over_all_its_rows():
    # Rows that fall nowhere take their share as well.
    units, cells = [7, 7, 7, 7, 2, 2, 5], [0, 0, 1, 99, 3, 3, 2]
    np.testing.assert_allclose(of(histogram(), (units, cells)), [0.5, 0.25, 1, 1], atol=ROUNDING)
    # Ids far beyond what a float tells apart are two units.
    for ids in ([2**60, 2**60 + 1], np.array([2**60, 2**60 + 1])):
        assert of(histogram(), (ids, [1, 1])).tolist() == [0, 2, 0, 0]


def test_a_heavy_account_weighs_what_any_other_does():
    units = np.repeat([0, 1], [10_000, 1])
    total = of(histogram(), (units, np.append(np.arange(10_000) % 2, 3)))
    np.testing.assert_allclose(total, [0.5, 0.5, 0, 1], rtol=1e-5)
    assert total[:2].sum() <= 1


def test_many_single_rows_are_counted_exactly():
    cells = np.random.default_rng(1).integers(0, 4, 100_000)
    total = of(histogram(), (np.arange(100_000), cells))
    assert total.tolist() == np.bincount(cells).tolist()


@given(st.lists(st.lists(floats, min_size=3, max_size=3), max_size=12), st.integers(0, 12))
@settings(max_examples=150, deadline=None)
def test_a_unit_moves_a_sum_by_at_most_the_clip_norm(data, position):
    mechanism = GaussianSum(clip_norm=0.7, dimension=3, noise_multiplier=1.0)
    rest = data[:position] + data[position + 1 :]
    moved = of(mechanism, np.array(data).reshape(-1, 3)) - of(
        mechanism, np.array(rest).reshape(-1, 3)
    )
    assert np.linalg.norm(moved) <= 0.7
    if position < len(data):
        norm = math.hypot(*data[position]) if np.isfinite(data[position]).all() else 0.0
        assert np.linalg.norm(moved) == pytest.approx(min(norm, 0.7), rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("scale", [5e-324, 1e-200, 1.0, 1e200, 1e308])
def test_clipping_keeps_the_direction_at_every_scale(scale):
    mechanism = GaussianSum(clip_norm=2.0, dimension=2, noise_multiplier=1.0)
    row = np.array([[scale, -scale]])
    expected = min(scale, math.sqrt(2))
    np.testing.assert_allclose(of(mechanism, row), [expected, -expected], rtol=1e-5)


def test_small_vectors_are_summed_as_they_are():
    data = np.random.default_rng(2).normal(size=(50, 3)) * 0.01
    mechanism = GaussianSum(clip_norm=1.0, dimension=3, noise_multiplier=1.0)
    for kind in (data, data.tolist(), data.astype(object), data.astype(np.float32)):
        np.testing.assert_allclose(of(mechanism, kind), data.sum(0), atol=1e-6)
    whole = np.eye(3, dtype=np.int8)
    assert of(mechanism, whole) == pytest.approx([1, 1, 1], rel=1e-5)
    assert of(mechanism, whole.astype(bool)) == pytest.approx([1, 1, 1], rel=1e-5)


@given(anything, anything)
@settings(max_examples=200, deadline=None)
def test_nothing_that_is_private_raises_or_moves_more_than_its_units(first, second):
    most = len(first) if isinstance(first, list | tuple) else 1
    assert of(histogram(), (first, second)).sum() <= most
    assert of(histogram(), first).sum() <= most
    total = of(GaussianSum(clip_norm=1.0, dimension=2, noise_multiplier=1.0), first)
    assert np.linalg.norm(total) <= most
    count = of(GaussianCount(noise_multiplier=1.0), first)
    assert np.isfinite(count).all()


@given(st.lists(anything, max_size=5), anything, st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_what_an_entry_means_does_not_depend_on_the_others(entries, more, position):
    mixed = [*entries[:position], more, *entries[position:]]
    kept = [i for i in range(len(mixed)) if i != min(position, len(entries))]
    np.testing.assert_array_equal(readings.numbers(mixed)[kept], readings.numbers(entries))
    np.testing.assert_array_equal(readings.rows(mixed, 2)[kept], readings.rows(entries, 2))
    before, after = readings.groups(entries), readings.groups(mixed)[kept]
    same = before[:, None] == before
    np.testing.assert_array_equal(after[:, None] == after, same)


@pytest.mark.parametrize(
    ("units", "expected"),
    [(0, 0), (5, 5), (np.int64(7), 7), (-1, 0), (10**400, 2**53), ("7", 0), (7.0, 0), (True, 0)],
)
def test_a_count_of_anything(units, expected):
    assert of(GaussianCount(noise_multiplier=1.0), units).tolist() == [expected]


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30),
    st.lists(st.floats(0, 1), max_size=10).map(sorted),
)
@example([2.2250738585e-313, 0.5], [2.2250738585e-313])
@settings(max_examples=150, deadline=None)
def test_quantiles_are_monotone_and_in_range(cells, levels):
    found = quantiles(np.array(cells), -2.0, 5.0, levels)
    assert len(found) == len(levels)
    assert ((found >= -2) & (found <= 5)).all()
    assert (np.diff(found) >= 0).all()


@given(st.lists(st.floats(0, 10), min_size=1, max_size=60), st.floats(0.01, 0.99))
@settings(max_examples=100, deadline=None)
def test_quantiles_of_an_exact_histogram_are_those_of_the_data_within_a_cell(values, level):
    mechanism = GaussianQuantiles(low=0.0, high=10.0, cells=100, noise_multiplier=1.0)
    counts = of(mechanism, (np.arange(len(values)), values))
    [found] = quantiles(counts, 0.0, 10.0, [level])
    ordered = np.sort(values)
    # Between the neighbours of the level in the data, a cell's width around.
    rank = level * len(values)
    low = ordered[max(0, math.ceil(rank - 1e-9) - 1)]
    high = ordered[min(len(values) - 1, math.floor(rank + 1e-9))]
    assert low - 0.1 - ROUNDING <= found <= high + 0.1 + ROUNDING


def test_values_beyond_the_range_are_clipped_into_it():
    mechanism = GaussianQuantiles(low=0.0, high=1.0, cells=2, noise_multiplier=1.0)
    values = [-1e308, -1, 0, 0.5, 1, 1e308, math.inf, math.nan]
    assert of(mechanism, (np.arange(8), values)).tolist() == [3, 3]


def test_an_empty_histogram_spreads_its_quantiles():
    for counts in ([0.0, 0.0], [-3.0, 1.0]):
        assert quantiles(np.array(counts), 0.0, 4.0, [0.25, 1]).tolist() == [1.0, 4.0]


def test_noise_in_empty_cells_hardly_moves_a_quantile():
    # 10,000 units at .2 and 2,000 cells of noise 30: clipping negative cells would add 24,000.
    counts = np.random.default_rng(3).normal(0, 30, 2000)
    counts[400] += 10_000
    [median] = quantiles(counts, 0.0, 1.0, [0.5])
    assert abs(median - 0.2) < 0.01


@pytest.mark.parametrize(
    ("cells", "low", "high", "levels"),
    [
        ([], 0, 1, [0.5]),
        ([math.nan], 0, 1, [0.5]),
        ([[1.0]], 0, 1, [0.5]),
        ([1.0], 1, 1, [0.5]),
        ([1.0], 0, math.inf, [0.5]),
        ([1.0], -1e308, 1e308, [0.5]),
        ([1.0], 0, 1, [1.5]),
        ([1.0], 0, 1, [math.nan]),
        ([1.0], 0, 1, 0.5),
    ],
)
def test_impossible_quantiles_are_an_error(cells, low, high, levels):
    with pytest.raises(ValueError, match=r"histogram|level|low"):
        quantiles(np.array(cells), low, high, levels)


@pytest.mark.parametrize("noise", [0.0, -1.0, math.nan, 1e9, math.inf])
def test_parameters_are_checked_before_a_row_is_read(noise):
    for kind, fields in (
        (GaussianCount, {}),
        (GaussianSum, {"clip_norm": 1.0, "dimension": 2}),
        (GaussianHistogram, {"cells": 2}),
        (GaussianQuantiles, {"cells": 2, "low": 0.0, "high": 1.0}),
    ):
        with pytest.raises(ValueError, match=r"positive|grid"):
            kind(noise_multiplier=noise, **fields)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (GaussianSum, {"clip_norm": 0.0, "dimension": 2}),
        (GaussianSum, {"clip_norm": math.nan, "dimension": 2}),
        (GaussianSum, {"clip_norm": 1.0, "dimension": 0}),
        (GaussianHistogram, {"cells": 0}),
        (GaussianQuantiles, {"cells": 2, "low": 1.0, "high": 1.0}),
        (GaussianQuantiles, {"cells": 2, "low": math.nan, "high": 1.0}),
    ],
)
def test_impossible_parameters_are_refused(kind, fields):
    with pytest.raises(ValueError, match=r"positive|low|small"):
        kind(noise_multiplier=1.0, **fields)
