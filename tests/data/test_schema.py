from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from dp_risk.data.files import BUILTIN
from dp_risk.data.schema import Categorical, Label, Numeric, Schema, Text
from dp_risk.data.source import builtin_path
from dp_risk.types import ConfigurationError

FULL = Schema(
    name="all kinds",
    label=Label(column="y", positive=("1",), negative=("0",)),
    features={
        "amount": Numeric(low=0, high=1000, scale="log", unit=0.5, bins=8),
        "balance": Numeric(low=-100, high=1000, scale="signed_log"),
        "kind": Categorical(values=("a", "null", "True", "01")),
        "shop": Categorical(buckets=32),
        "note": Text(buckets=64, max_ngrams=5),
    },
    id="id",
    account="who",
    time="when",
    silo="region",
    ignore=("comment",),
)


BENCHMARKS = sorted((Path(__file__).parents[2] / "benchmarks" / "schemas").glob("*.yaml"))


@pytest.mark.parametrize(
    "path",
    [*(builtin_path(name).with_suffix(".yaml") for name in BUILTIN), *BENCHMARKS],
    ids=lambda path: path.stem,
)
def test_every_schema_of_ours_round_trips(path, tmp_path):
    schema = Schema.from_yaml(path)
    assert schema.name == path.stem
    copy = tmp_path / "copy.yaml"
    copy.write_text(schema.to_yaml())
    assert Schema.from_yaml(copy) == schema
    assert Schema.from_yaml(copy).digest == schema.digest


def test_every_kind_round_trips(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(FULL.to_yaml())
    assert Schema.from_yaml(path) == FULL
    assert Schema.from_dict(FULL.to_dict()) == FULL
    assert pickle.loads(pickle.dumps(FULL)) == FULL
    assert hash(Schema.from_dict(FULL.to_dict())) == hash(FULL)


def test_digest_depends_on_content_and_order():
    content = FULL.to_dict()
    reordered = {**content, "features": dict(reversed(content["features"].items()))}
    wider = {
        **content,
        "features": {
            **content["features"],
            "amount": {**content["features"]["amount"], "high": 1001},
        },
    }
    digests = {Schema.from_dict(c).digest for c in (content, reordered, wider)}
    assert len(digests) == 3


def test_scalars_stay_as_typed(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(
        "name: t\nlabel: {column: y, positive: [True, 1.0]}\n"
        "features: {zip: {type: categorical, values: [01, no, 1e3]}}\n"
    )
    schema = Schema.from_yaml(path)
    assert schema.label.positive == ("True", "1.0")
    assert schema.features["zip"] == Categorical(values=("01", "no", "1e3"))


def test_roles_and_ignored_columns_are_not_features():
    columns = {name: {"type": "numeric", "low": 0, "high": 1} for name in "abcde"}
    columns["e"] = {"type": "numeric", "low": None, "high": None}
    schema = Schema.from_dict(
        {
            "name": "t",
            "label": {"column": "a", "positive": [1]},
            "id": "b",
            "account": "c",
            "ignore": ["e"],
            "features": columns,
        }
    )
    assert list(schema.features) == ["d"]
    assert schema.columns == ("d", "a", "b", "c")


def test_label_and_account_can_be_given_beside_the_file(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(
        "name: t\nlabel: null\nfeatures:\n  x: {type: numeric, low: 0, high: 1}\n"
        "  y: {type: numeric, low: null, high: null}\n  who: {type: categorical, values: null}\n"
    )
    schema = Schema.from_yaml(path, label="y", account="who")
    assert (schema.label.column, schema.account, list(schema.features)) == ("y", "who", ["x"])
    assert "1" in schema.label.positive


LABEL = "label: {column: y, positive: [1]}\n"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (LABEL + "features: {x: {type: numeric, low: null, high: 1}}", ["column x", "low"]),
        (LABEL + "features: {x: {type: numeric, low: 0}}", ["column x", "high"]),
        (LABEL + "features: {x: {type: categorical, values: null}}", ["column x", "values"]),
        (LABEL + "features: {x: {type: numeric, low: abc, high: 1}}", ["column x", "low"]),
        (LABEL + "features: {x: {type: numeric, low: 2, high: 1}}", ["column x", "low < high"]),
        (LABEL + "features: {x: {type: numeric, low: -.inf, high: 1}}", ["column x"]),
        (LABEL + "features: {x: {type: numeric, low: 0, high: 1, bins: 2.5}}", ["whole number"]),
        (LABEL + "features: {x: {type: numeric, low: 0, high: 1, colour: 2}}", ["colour"]),
        (LABEL + "features: {x: {type: numeric, low: 0, high: 1, scale: cube}}", ["signed_log"]),
        (
            LABEL + "features: {x: {type: numeric, low: 1, high: 2, scale: signed_log}}",
            ["column x", "low <= 0 <= high"],
        ),
        (LABEL + "features: {x: {type: picture}}", ["column x", "type"]),
        (LABEL + "features: {x: {type: categorical, values: [a, a]}}", ["twice"]),
        (LABEL + "features: {x: {type: categorical, values: [a], buckets: 4}}", ["either"]),
        (LABEL + "features: {x: 3}", ["column x"]),
        (LABEL + "features: {}", ["features"]),
        (LABEL + "features: {y: {type: numeric, low: 0, high: 1}}", ["features"]),
        (LABEL + "labels: 3", ["unknown key labels"]),
        ("label: null\nfeatures: {x: {type: text}}", ["label"]),
        ("label: {column: null}\nfeatures: {x: {type: text}}", ["label", "column"]),
        ("label: {column: y, positive: null}\nfeatures: {x: {type: text}}", ["positive"]),
        ("label: {column: y, positive: [a], negative: [a]}\nfeatures: {x: {type: text}}", ["both"]),
        ("[1, 2]", ["mapping"]),
        ("a: [1", ["YAML", "line"]),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path, text, parts):
    path = tmp_path / "draft.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        Schema.from_yaml(path)
    message = str(caught.value)
    assert "\n" not in message
    for part in [str(path), *parts]:
        assert part in message


def test_a_missing_or_binary_file_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="No such file"):
        Schema.from_yaml(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError):
        Schema.from_yaml(tmp_path / "b.yaml")
