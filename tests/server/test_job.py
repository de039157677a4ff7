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


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Job)])
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
