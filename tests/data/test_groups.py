from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dp_risk.data.coding import Coding
from dp_risk.data.groups import MAX_GROUPS, MISSING, OTHER, group_names, group_of
from dp_risk.data.schema import Categorical, Feature, Label, Numeric, Schema, Text
from dp_risk.types import ConfigurationError


def coding(feature: Feature) -> Coding:
    schema = Schema(name="t", label=Label(column="y", positive=("1",)), features={"x": feature})
    return Coding(schema=schema)


def groups(feature: Feature, values: list[object]) -> list[str]:
    """Return the name of every value's group."""
    made = coding(feature)
    table = pa.table({"x": values, "y": ["1"] * len(values)})
    names = group_names(made, "x")
    return [names[i] for i in group_of(made, "x", made.encode(table))]


def test_listed_values_are_groups_and_what_is_left_has_two() -> None:
    feature = Categorical(values=("Female", "Male"))
    assert group_names(coding(feature), "x") == ("Female", "Male", OTHER, MISSING)
    found = groups(feature, ["Male", "Female", "else", None, "NA"])
    assert found == ["Male", "Female", OTHER, MISSING, MISSING]


def test_buckets_are_groups() -> None:
    feature = Categorical(buckets=3)
    names = group_names(coding(feature), "x")
    assert names == ("bucket 0", "bucket 1", "bucket 2", MISSING)
    found = groups(feature, ["a", "a", "b", None])
    assert found[0] == found[1] != MISSING
    assert found[2] in names[:3]
    assert found[3] == MISSING


def test_the_bins_of_a_number_are_joined_to_a_few() -> None:
    feature = Numeric(low=17, high=90, bins=16)
    names = group_names(coding(feature), "x")
    assert names == ("[17, 35.25)", "[35.25, 53.5)", "[53.5, 71.75)", "[71.75, 90]", MISSING)
    values = [17, 35.2, 35.25, 90, 200, -3, None]
    expected = [names[0], names[0], names[1], names[3], names[3], names[0], MISSING]
    assert groups(feature, values) == expected


@given(
    bins=st.integers(1, 300),
    low=st.integers(-1000, 1000),
    span=st.integers(1, 100_000),
    at=st.lists(st.floats(0, 1), min_size=1, max_size=50),
)
@settings(deadline=None, max_examples=60)
def test_every_number_is_between_the_edges_that_its_group_names(
    bins: int, low: int, span: int, at: list[float]
) -> None:
    feature = Numeric(low=low, high=low + span, bins=bins)
    values = [low + span * u for u in at]
    names = group_names(coding(feature), "x")
    assert len(names) == min(bins, 4) + 1
    assert len(set(names)) == len(names)
    for value, name in zip(values, groups(feature, list(values)), strict=True):
        start, stop = (float(edge) for edge in name.strip("[)]").split(","))
        slack = 1e-3 * (span + abs(low))  # names are rounded
        assert start - slack <= value <= stop + slack


@pytest.mark.parametrize("bins", [1, 2, 3, 4, 5, 7, 16, 4096])
def test_each_stretch_holds_bins_and_they_rise(bins: int) -> None:
    feature = Numeric(low=0, high=bins, bins=bins)
    middle = [b + 0.5 for b in range(bins)]
    made = coding(feature)
    encoded = made.encode(pa.table({"x": middle, "y": ["1"] * bins}))
    found = group_of(made, "x", encoded)
    assert (np.diff(found) >= 0).all()
    assert set(found) == set(range(min(bins, 4)))


@pytest.mark.parametrize(
    ("feature", "words"),
    [
        (Text(buckets=4), "column x is text"),
        (Numeric(low=0, high=1, bins=0), "column x is a number without bins"),
        (Categorical(buckets=1 << 20), "column x has 1048576 values"),
        (Categorical(buckets=MAX_GROUPS), "column x has 64 values"),
        (Categorical(values=tuple(map(str, range(MAX_GROUPS - 1)))), "column x has 63 values"),
    ],
)
def test_a_column_without_groups_is_refused(feature: Feature, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        group_names(coding(feature), "x")


def test_as_many_groups_as_there_may_be() -> None:
    listed = Categorical(values=tuple(map(str, range(MAX_GROUPS - 2))))
    assert len(group_names(coding(listed), "x")) == MAX_GROUPS


@pytest.mark.parametrize("column", ["y", "z", ""])
def test_a_column_that_is_no_feature_is_refused(column: str) -> None:
    with pytest.raises(ConfigurationError, match="no feature"):
        group_names(coding(Categorical(values=("a",))), column)
