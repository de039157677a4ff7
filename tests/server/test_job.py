from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from dp_risk.privacy.planning import Privacy
from dp_risk.types import ConfigurationError
from server.job import Federation, Job
from tests.federation import DELTA, SCHEMA

FEDERATION: dict[str, Any] = {
    "sites": 2,
    "min_sites": None,
    "spare_rounds": None,
    "rounds": 3,
    "steps_per_round": 1,
    "learning_rate": None,
    "momentum": 0.9,
    "averaging": 0.9,
    "timeout": 5.0,
}
PRIVACY: dict[str, Any] = {
    "epsilon": 2.0,
    "delta": DELTA,
    "unit": "record",
    "max_records_per_account": 32,
    "max_sites_per_unit": 1,
    "allocation": {"counts": 0.05, "evaluation": 0.2},
    "trust": "local",
    "max_colluding": 1,
    "clip_norm": 1.0,
    "sampling_rate": None,
    "randomness": "system",
}


def job(folder: Path = Path("/nowhere"), memory: Path | None = None, **federation: Any) -> Job:
    return Job(
        run="run-1",
        folder=folder,
        dataset="tiny",
        schema=SCHEMA,
        model="additive",
        model_options={"linear": True, "value_scale": 1.0},
        privacy=Privacy(**PRIVACY),
        federation=Federation(**{**FEDERATION, **federation}),
        seed=0,
        capacity=0.01,
        memory=memory,
    )


def test_a_job_survives_the_run_configuration() -> None:
    for one in (
        job(),
        job(memory=Path("/heads.json")),
        job(min_sites=1, rounds=None, learning_rate=0.5),
    ):
        assert Job.from_json(one.to_json()) == one


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "3", '{"privacy": {}, "federation": {}}'])
def test_what_is_no_job_is_a_configuration_error(text: str) -> None:
    with pytest.raises(ConfigurationError):
        Job.from_json(text)


def test_a_job_of_before_subgroups_has_none() -> None:
    values = json.loads(job().to_json())
    assert values.pop("subgroups") == []
    assert Job.from_json(json.dumps(values)) == job()
    grouped = dataclasses.replace(job(), subgroups=("kind", "age"))
    assert Job.from_json(grouped.to_json()) == grouped
    for wrong in ([1], 7, None):
        with pytest.raises(ConfigurationError):
            Job.from_json(json.dumps({**values, "subgroups": wrong}))


@pytest.mark.parametrize(
    "field", [f.name for f in dataclasses.fields(Job) if f.name != "subgroups"]
)
def test_a_job_without_a_field_or_with_one_more_is_a_configuration_error(field: str) -> None:
    values = json.loads(job().to_json())
    del values[field]
    with pytest.raises(ConfigurationError):
        Job.from_json(json.dumps(values))
    with pytest.raises(ConfigurationError):
        Job.from_json(json.dumps({**json.loads(job().to_json()), "more": 1}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sites", 0),
        ("min_sites", 0),
        ("min_sites", 3),
        ("rounds", 0),
        ("steps_per_round", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("momentum", 1.0),
        ("momentum", -0.1),
        ("averaging", 1.0),
        ("adam", 1.0),
        ("timeout", 0.0),
    ],
)
def test_a_federation_out_of_range_names_the_key(field: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"federation\.{field}"):
        Federation(**{**FEDERATION, field: value})


def test_adam_needs_a_learning_rate() -> None:
    with pytest.raises(ConfigurationError, match=r"federation\.learning_rate"):
        Federation(**{**FEDERATION, "adam": 0.99})
    assert Federation(**{**FEDERATION, "adam": 0.99, "learning_rate": 0.1}).adam == 0.99


def test_a_rule_bears_one_of_five_and_waits_for_the_others_only() -> None:
    one = job(sites=10, rule="median")
    assert (one.federation.byzantine, one.federation.fewest(one.privacy)) == (2, 8)
    assert job(sites=10).federation.byzantine == 0
    assert job(sites=10).federation.fewest(one.privacy) == 10
    assert job(sites=10, rule="krum", max_byzantine=1).federation.fewest(one.privacy) == 9
    assert job(sites=10, rule="trimmed_mean", min_sites=5).federation.fewest(one.privacy) == 5
    assert Job.from_json(one.to_json()) == one


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rule": "mean"}, r"federation\.rule: mean is not one of sum, median, trimmed_mean"),
        ({"max_byzantine": 1}, r"federation\.max_byzantine: rule sum bears no site that lies"),
        ({"rule": "median", "max_byzantine": -1}, r"max_byzantine: -1 is not at least 0"),
        ({"rule": "median", "max_byzantine": 4}, r"4 of 10 sites lying median needs 9 .* 6 may"),
        ({"rule": "krum", "max_byzantine": 3}, r"3 of 10 sites lying krum needs 9 .* 7 may"),
        ({"rule": "multi_krum", "min_sites": 6}, r"2 of 10 sites .* needs 7 .*, and 6 may"),
        ({"rule": "median", "sites": 2}, r"1 of 2 sites lying median needs 3"),
    ],
)
def test_a_rule_that_cannot_hold_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Federation(**{**FEDERATION, "sites": 10, **changes})


@pytest.mark.parametrize("rule", ["median", "trimmed_mean", "krum", "multi_krum"])
def test_a_secure_sum_has_no_rule(rule: str) -> None:
    one = job(sites=10, rule=rule)
    with pytest.raises(ConfigurationError, match=rf"federation\.rule: {rule} needs .*own answer"):
        dataclasses.replace(one, privacy=Privacy(**{**PRIVACY, "trust": "distributed"}))
    bare = Privacy(**{**PRIVACY, "trust": "none", "epsilon": None})
    assert dataclasses.replace(one, privacy=bare).federation.byzantine == 2
