from __future__ import annotations

import datetime as dt
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_risk.data.coding import Coding, scale, unscale
from dp_risk.data.schema import Categorical, Label, Numeric, Schema, Text
from dp_risk.data.source import builtin_path, read_table
from dp_risk.data.split import holdout_mask
from dp_risk.types import ConfigurationError, Unit

SCHEMA = Schema(
    name="t",
    label=Label(column="y", positive=("1",)),
    features={
        "x": Numeric(low=0, high=10, bins=5),
        "amount": Numeric(low=0, high=99, scale="log", bins=0),
        "kind": Categorical(values=("a", "b")),
        "shop": Categorical(buckets=7),
        "note": Text(buckets=16, max_ngrams=4),
    },
    account="who",
)
CODING = Coding(schema=SCHEMA)
NAMES = [*SCHEMA.features, "y", "who"]


def table(rows, kinds=None):
    columns = {
        name: pa.array([row[i] for row in rows], (kinds or {}).get(name, pa.string()))
        for i, name in enumerate(NAMES)
    }
    return pa.table(columns)


cell = st.one_of(
    st.none(),
    st.text(max_size=20),
    st.floats().map(str),
    st.integers().map(str),
    st.sampled_from(["a", "b", "?", "1", "0", "1_0", "1e999", "-inf", "nan", " 3 ", "٣", "\x00"]),
)
rows_of_text = st.lists(st.tuples(*[cell] * len(NAMES)), max_size=8)


@given(rows_of_text, st.sampled_from(list(Unit)), st.booleans())
def test_text_of_any_kind_is_coded(rows, unit, require_label):
    coded = CODING.encode(table(rows), unit=unit, require_label=require_label)
    check(coded)
    assert require_label or len(coded) == len(rows)
    assert not (require_label and np.isnan(coded.labels).any())


def check(coded):
    n = len(coded)
    assert coded.codes.shape == (n, CODING.slots)
    assert coded.values.shape == (n, CODING.n_values)
    assert (coded.codes.dtype, coded.values.dtype) == (np.int32, np.float32)
    assert coded.ids.shape == (n,)
    assert coded.ids.dtype == "S32"
    assert ((coded.codes >= 0) & (coded.codes < CODING.n_codes)).all()
    assert ((coded.values >= 0) & (coded.values <= 1)).all()
    for slot, name in enumerate(CODING.slot_names):
        codes = CODING.feature_codes(name.split("#")[0])
        allowed = [*codes, 0] if "#" in name else codes
        assert np.isin(coded.codes[:, slot], allowed).all()


@given(st.lists(st.one_of(st.none(), st.floats(), st.floats(width=32)), max_size=8))
def test_floats_of_any_kind_are_coded(numbers):
    rows = [(number, number, number, number, None, number, number) for number in numbers]
    kinds = {name: pa.float64() for name in NAMES if name != "note"}
    check(CODING.encode(table(rows, kinds), require_label=False))


@given(rows_of_text, st.tuples(*[cell] * len(NAMES)))
def test_one_row_never_changes_another(rows, extra):
    alone = CODING.encode(table(rows), require_label=False)
    beside = CODING.encode(table([*rows, extra]), require_label=False).take(range(len(rows)))
    for part in ("codes", "values", "labels", "ids"):
        np.testing.assert_array_equal(getattr(alone, part), getattr(beside, part))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.int64(), [1, None, -(2**60)]),
        (pa.uint64(), [1, None, 2**64 - 1]),
        (pa.float16(), [1.0, None, 2.0]),
        (pa.bool_(), [True, None, False]),
        (pa.decimal128(20, 3), [Decimal("1.5"), None, Decimal("-1")]),
        (pa.timestamp("ns", tz="Europe/Nowhere"), [1, None, -(2**62)]),
        (pa.timestamp("s"), [1, None, 2**60]),
        (pa.date32(), [dt.date(2020, 1, 1), None, dt.date(1, 1, 1)]),
        (pa.date64(), [dt.date(2020, 1, 1), None, dt.date(1, 1, 1)]),
        (pa.time32("s"), [1, None, 2]),
        (pa.duration("us"), [1, None, 2]),
        (pa.null(), [None, None, None]),
        (pa.binary(), [b"a", None, b"\xff\xfe"]),
        (pa.binary(2), [b"ab", None, b"\xff\xfe"]),
        (pa.string_view(), ["a", None, "3"]),
        (pa.list_(pa.int64()), [[1, 2], None, []]),
        (pa.struct([("a", pa.int64())]), [{"a": 1}, None, {"a": None}]),
        (pa.dictionary(pa.int8(), pa.string()), ["a", None, "3"]),
    ],
)
def test_every_arrow_type_is_coded(kind, values):
    data = pa.table({name: pa.chunked_array([pa.array(values, kind)] * 2) for name in NAMES})
    for unit in Unit:
        check(CODING.encode(data, unit=unit, require_label=False))
        check(CODING.encode(data.slice(0, 0), unit=unit))


def test_codes_and_values_by_hand():
    coded = CODING.encode(
        table(
            [
                ("2.5", "9", "a", "z", "Buy now, buy NOW", "1", "u"),
                ("99", "-4", "c", None, "", "0", "u"),
                ("?", "oops", None, "z", None, "0", "v"),
                ("1", "1", "a", "z", "dropped", None, "v"),
            ]
        ),
        unit=Unit.ACCOUNT,
    )
    labels = [[CODING.code_label(code) for code in row[:3]] for row in coded.codes]
    assert labels[0][:2] == ["x in [2, 4)", "kind = a"]
    assert labels[1] == ["x in [8, 10]", "kind: other", "shop: missing"]
    assert labels[2][:2] == ["x: missing", "kind: missing"]
    np.testing.assert_allclose(coded.values, [[0.25, 0.5], [1, 0], [0, 0]], atol=1e-6)
    assert coded.labels.tolist() == [1, 0, 0]
    assert coded.ids[0] == coded.ids[1] != coded.ids[2]
    assert 1 <= np.count_nonzero(coded.codes[0, 3:]) <= 4
    assert np.count_nonzero(coded.codes[1:, 3:]) == 0


def test_labels_follow_the_declared_values():
    data = pa.table({"x": ["1"] * 5, "y": ["yes", "no", "maybe", None, "?"]})
    features = {"x": Numeric(low=0, high=1)}
    named = Label(column="y", positive=("yes",), negative=("no",))
    rest = Label(column="y", positive=("yes",))
    for label, expected in ((named, [1, 0]), (rest, [1, 0, 0])):
        schema = Schema(name="t", label=label, features=features)
        assert Coding(schema=schema).encode(data).labels.tolist() == expected


@pytest.mark.parametrize(
    ("values", "positive"),
    [([True, False], "True"), ([1.0, 0.0], "1"), ([1.0, 0.0], "1.0"), ([1, 0], "1")],
)
def test_labels_match_typed_columns(values, positive):
    schema = Schema(
        name="t",
        label=Label(column="y", positive=(positive,)),
        features={"x": Numeric(low=0, high=1)},
    )
    data = pa.table({"x": [0.0, 1.0], "y": values})
    assert Coding(schema=schema).encode(data).labels.tolist() == [1, 0]


def test_numeric_sentinels_are_missing_in_any_type():
    schema = Schema(
        name="t",
        label=Label(column="y", positive=("1",)),
        features={"x": Numeric(low=-1000, high=0, bins=2)},
        missing=("-999",),
    )
    coding = Coding(schema=schema)
    for values in ([-999, 0], [-999.0, 0.0], ["-999", "0"]):
        coded = coding.encode(pa.table({"x": values, "y": ["1", "0"]}))
        assert coding.code_label(coded.codes[0, 0]) == "x: missing"


def test_content_ids_ignore_unread_columns_and_row_order():
    schema = Schema(
        name="t", label=SCHEMA.label, features={"x": Numeric(low=0, high=1)}, ignore=("z",)
    )
    coding = Coding(schema=schema)
    data = pa.table({"x": ["1", "2"], "y": ["1", "0"], "z": ["p", "q"]})
    ids = coding.encode(data).ids
    assert coding.encode(data.drop_columns(["z"]).take([1, 0])).ids.tolist() == ids[::-1].tolist()


def test_missing_columns_are_named():
    data = table([("1",) * len(NAMES)])
    for name in ("x", "y"):
        with pytest.raises(ConfigurationError, match=f"no column {name}"):
            CODING.encode(data.drop_columns([name]))
    with pytest.raises(ConfigurationError, match="no column who"):
        CODING.encode(data.drop_columns(["who"]), unit=Unit.ACCOUNT)
    assert len(CODING.encode(data.drop_columns(["y", "who"]), require_label=False)) == 1


@given(
    st.floats(-1e6, 1e6),
    st.floats(1e-3, 1e6),
    st.sampled_from(["linear", "log"]),
    st.floats(1e-3, 1e3),
    st.floats(0, 1),
)
def test_scale_and_unscale_are_inverse(low, span, kind, unit, u):
    feature = Numeric(low=low, high=low + span, scale=kind, unit=unit)
    back = scale(unscale(np.array([u]), feature), feature)
    np.testing.assert_allclose(back, [u], atol=1e-5)


@given(st.floats(0, 1e6), st.floats(1e-3, 1e6), st.floats(1e-3, 1e3), st.floats(0, 1))
def test_signed_log_and_its_inverse(below, above, unit, u):
    feature = Numeric(low=-below, high=above, scale="signed_log", unit=unit)
    back = scale(unscale(np.array([u]), feature), feature)
    np.testing.assert_allclose(back, [u], atol=1e-5)


def test_signed_log_by_hand():
    feature = Numeric(low=-99, high=9, scale="signed_log", bins=3)
    found = scale(np.array([-200.0, -99, -9, 0, 9, 50, np.nan]), feature)
    np.testing.assert_allclose(found, [0, 0, 1 / 3, 2 / 3, 1, 1, np.nan], atol=1e-12)
    np.testing.assert_allclose(
        Coding(
            schema=Schema(
                name="t", label=Label(column="y", positive=("1",)), features={"x": feature}
            )
        ).bin_edges("x"),
        [-99, -9, 0, 9],
        atol=1e-12,
    )


def test_code_ranges_tile_the_table():
    codes = [code for name in SCHEMA.features for code in CODING.feature_codes(name)]
    assert codes == list(range(1, CODING.n_codes))
    assert len({CODING.code_label(code) for code in range(CODING.n_codes)}) == CODING.n_codes
    with pytest.raises(ConfigurationError):
        CODING.code_label(CODING.n_codes)
    with pytest.raises(ConfigurationError):
        CODING.feature_codes("nothing")


@pytest.mark.parametrize(
    ("name", "rows", "slots", "numbers", "positive"),
    [("spambase", 4601, 0, 57, 1813), ("adult", 48842, 12, 5, 11687)],
)
def test_builtin_data(name, rows, slots, numbers, positive):
    path = builtin_path(name)
    coding = Coding(schema=Schema.from_yaml(path.with_suffix(".yaml")))
    coded = coding.encode(read_table(path, coding.schema.columns))
    assert (len(coded), coding.slots, coding.n_values) == (rows, slots, numbers)
    assert coded.labels.sum() == positive
    labels = {coding.code_label(int(code)) for code in np.unique(coded.codes)}
    assert not any(label.endswith("other") for label in labels)


@pytest.mark.parametrize("unit", [Unit.RECORD, Unit.ACCOUNT])
def test_a_row_without_an_id_stays_in_training_whatever_the_features_are(unit):
    features = {"x": Numeric(low=0, high=9), "k": Categorical(values=("a", "b"))}
    table = pa.table(
        {
            "who": [f"u{i}" if i % 2 else None for i in range(400)],
            "x": [float(i % 9) for i in range(400)],
            "k": ["a" if i % 3 else "b" for i in range(400)],
            "y": ["1" if i % 5 else "0" for i in range(400)],
        }
    )
    bare = np.arange(400) % 2 == 0
    sides = []
    for names in (("x", "k"), ("x",)):
        schema = Schema(
            name="t",
            label=Label(column="y", positive=("1",)),
            features={name: features[name] for name in names},
            id="who",
            account="who",
        )
        ids = Coding(schema=schema).encode(table, unit=unit).ids
        sides.append(holdout_mask(ids, b"k" * 32, 0.3))
        assert not sides[-1][bare].any()
        assert 20 < sides[-1][~bare].sum() < 110
    assert np.array_equal(*sides)
