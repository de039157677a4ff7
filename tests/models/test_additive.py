from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dp_risk import models
from dp_risk.data.coding import Coding
from dp_risk.data.schema import Categorical, Label, Numeric, Schema, Text
from dp_risk.models.additive import contributions, shapes

FEATURES = {
    "x": Numeric(low=0, high=10, bins=5),
    "amount": Numeric(low=0, high=99, scale="log", bins=0),
    "wide": Numeric(low=-5, high=5, bins=2),
    "kind": Categorical(values=("a", "b")),
    "shop": Categorical(buckets=7),
    "note": Text(buckets=16, max_ngrams=4),
    "note2": Text(buckets=8, max_ngrams=3),
}


def coding(*names):
    features = {name: FEATURES[name] for name in names or FEATURES}
    return Coding(
        schema=Schema(name="t", label=Label(column="y", positive=("1",)), features=features)
    )


def table(count, seed):
    rng = np.random.default_rng(seed)
    number = lambda low, high: [  # noqa: E731
        None if rng.random() < 0.2 else float(rng.uniform(low, high)) for _ in range(count)
    ]
    text = lambda *words: [  # noqa: E731
        None if rng.random() < 0.2 else str(rng.choice(words)) for _ in range(count)
    ]
    columns = {
        "x": number(-3, 13),
        "amount": number(0, 200),
        "wide": number(-6, 6),
        "kind": text("a", "b", "c"),
        "shop": text("s1", "s2", "s3"),
        "note": text("free money now", "hello", ""),
        "note2": text("aaaa aaaa aaaa", "b"),
        "y": [str(v) for v in rng.integers(0, 2, count)],
    }
    return pa.table({k: pa.array(v) for k, v in columns.items()})


def fitted(code, scale, linear, seed):
    """Return a model with random weights, the row of code 0 included, and those weights."""
    options = {"linear": linear, "value_scale": scale}
    model = models.build("additive", options, code, 0)
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.from_numpy(rng.normal(size=tuple(p.shape))))
    return model, {name: t.numpy() for name, t in model.state_dict().items()}


def logits(model, coded):
    with torch.no_grad():
        codes = torch.from_numpy(coded.codes.astype(np.int64))
        return model(codes, torch.from_numpy(coded.values.astype(np.float64))).numpy()


@given(
    st.sets(st.sampled_from(sorted(FEATURES)), min_size=1),
    st.floats(0.01, 100),
    st.booleans(),
    st.integers(0, 2**32),
)
@settings(max_examples=40, deadline=None)
def test_contributions_sum_to_the_logit(names, scale, linear, seed):
    code = coding(*[name for name in FEATURES if name in names])
    if not code.slots and not linear:
        linear = True
    coded = code.encode(table(12, seed))
    model, weights = fitted(code, scale, linear, seed)
    parts = contributions(weights, code, coded, scale)
    assert list(parts) == ["bias", *code.schema.features]
    np.testing.assert_allclose(sum(parts.values()), logits(model, coded), rtol=1e-12, atol=1e-10)


def test_a_contribution_depends_on_its_own_feature_only():
    code = coding()
    _, weights = fitted(code, 2.0, True, 1)
    rows = table(20, 3)
    shuffled = rows.set_column(0, "x", pa.array(rows["x"].to_pylist()[::-1]))
    before = contributions(weights, code, code.encode(rows), 2.0)
    after = contributions(weights, code, code.encode(shuffled), 2.0)
    for name in before:
        same = np.array_equal(before[name], after[name])
        assert same == (name != "x")


def test_names_that_share_a_beginning_are_kept_apart():
    code = coding("note", "note2")
    _, weights = fitted(code, 1.0, False, 2)
    coded = code.encode(table(30, 4))
    weights["terms.codes.weight"][code.feature_codes("note2").start :] = 0
    parts = contributions(weights, code, coded, 1.0)
    assert (parts["note2"] == 0).all()
    assert (parts["note"] != 0).any()


def at(code, feature, value):
    """Return the contribution of one value of one feature, in a table of otherwise anything."""
    rows = table(1, 9)
    index = rows.column_names.index(feature)
    rows = rows.set_column(index, feature, pa.array([value], rows[feature].type))
    _, weights = fitted(code, 3.0, True, 5)
    return float(contributions(weights, code, code.encode(rows), 3.0)[feature][0])


def test_shapes_are_what_the_model_adds():
    code = coding()
    _, weights = fitted(code, 3.0, True, 5)
    found = {shape["feature"]: shape for shape in shapes(weights, code, 3.0)}
    assert set(found) == set(FEATURES)
    # A linear feature: every point of its curve.
    for x, y in zip(found["amount"]["x"], found["amount"]["y"], strict=True):
        assert at(code, "amount", x) == pytest.approx(y, abs=1e-5)
    assert found["amount"]["kind"] == "linear"
    assert (found["amount"]["x"][0], found["amount"]["x"][-1]) == pytest.approx((0, 99))
    # A binned feature: the middle of every bin, and "missing" without any slope.
    assert len(found["x"]["x"]) == 6
    for i in range(5):
        assert at(code, "x", 2 * i + 1) == pytest.approx(found["x"]["y"][i], abs=1e-5)
    assert found["x"]["x"][-1] == "missing"
    assert at(code, "x", None) == pytest.approx(found["x"]["y"][-1])
    # Categories by name.
    by_name = dict(zip(found["kind"]["x"], found["kind"]["y"], strict=True))
    assert set(by_name) == {"a", "b", "other", "missing"}
    for name, value in {"a": "a", "b": "b", "other": "zzz", "missing": None}.items():
        assert at(code, "kind", value) == pytest.approx(by_name[name])


def test_shapes_sum_to_the_logit_where_they_are_exact():
    code = coding("kind", "amount")
    model, weights = fitted(code, 0.5, True, 6)
    kind, amount = shapes(weights, code, 0.5)
    rows = pa.table({"kind": ["b"] * 21, "amount": amount["x"], "y": ["1"] * 21})
    bias = float(weights["bias.weight"][0, 0])
    expected = bias + kind["y"][kind["x"].index("b")] + np.array(amount["y"])
    np.testing.assert_allclose(logits(model, code.encode(rows)), expected, atol=1e-6)


def test_a_fresh_model_says_one_half():
    code = coding()
    model = models.build("additive", {}, code, 3)
    assert (logits(model, code.encode(table(9, 1))) == 0).all()


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), 1e6, float("inf")])
def test_an_impossible_scale_is_refused(scale):
    with pytest.raises(models.ConfigurationError, match="value_scale"):
        models.create("additive", {"value_scale": scale})
