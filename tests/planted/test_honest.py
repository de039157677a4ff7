"""Honest trainers are never falsified, however they are configured."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dp_risk.data.files import builtin_path
from dp_risk.data.schema import Schema
from tests.planted.defects import Data, accounts, audited, records

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def repeatable(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Replace the operating system's generator and numpy's own seeds by one stream a test."""
    stream = random.Random(request.node.name)
    generator = np.random.default_rng
    monkeypatch.setattr(os, "urandom", stream.randbytes)
    monkeypatch.setattr(
        np.random,
        "default_rng",
        lambda seed=None: generator(stream.getrandbits(128) if seed is None else seed),
    )


def builtin(name: str) -> Data:
    """Return 300 rows of a data set that comes with the package."""

    def rows() -> tuple[pa.Table, dict[str, Any]]:
        path = builtin_path(name)
        table = pq.read_table(path)
        chosen = np.random.default_rng(3).choice(table.num_rows, 300, replace=False)
        schema = Schema.from_yaml(path.with_suffix(".yaml"), label=None, account=None)
        return table.take(np.sort(chosen)), schema.to_dict()

    return rows


ADDITIVE = "model=additive"
UNLIKE = ("partition=dirichlet", "partition.alpha=0.3")
ACCOUNT = "privacy.unit=account"


def capped(cap: int) -> tuple[str, str]:
    """Return overrides for accounts of at most so many records a step."""
    return ACCOUNT, f"privacy.max_records_per_account={cap}"


def _combined() -> Iterator[tuple[str, Data, Sequence[str]]]:
    """Yield models, data and units against rates, steps and epsilons: each meets every other."""
    models = (
        (ADDITIVE,),
        (ADDITIVE, "model.linear=false"),
        ("model=mlp", "model.width=8"),
        ("model=mlp", "model.width=4", "model.depth=3"),
    )
    kinds: tuple[tuple[str, Data, Sequence[str]], ...] = (
        ("records", records, ()),
        ("accounts of 1", accounts, capped(1)),
        ("accounts of 5", accounts, capped(5)),
        ("spambase", builtin("spambase"), ()),
        ("adult", builtin("adult"), ()),
    )
    rates, steps, epsilons = ("1", "0.1", "0.5"), (1, 3), ("0.5", "2", "8", "1")
    for number, (model, (name, data, unit)) in enumerate(itertools.product(models, kinds)):
        rate, local, epsilon = rates[number % 3], steps[number % 2], epsilons[number % 4]
        yield (
            f"{name}, {' '.join(model)}, q {rate}, {local} steps, epsilon {epsilon}",
            data,
            (
                *model,
                *unit,
                f"privacy.sampling_rate={rate}",
                f"federation.steps_per_round={local}",
                f"privacy.epsilon={epsilon}",
            ),
        )


SINGLE: tuple[tuple[str, Data, Sequence[str]], ...] = (
    ("public sizes", records, ("data.public_size=true",)),
    ("private sizes, no stable ids", records, ("data.stable_ids=false",)),
    ("public sizes, no stable ids", records, ("data.public_size=true", "data.stable_ids=false")),
    ("amnesia", records, ("grid.amnesia=true",)),
    ("amnesia, accounts", accounts, ("grid.amnesia=true", *capped(2))),
    ("two sites a unit", records, ("privacy.max_sites_per_unit=2",)),
    (
        "two sites a unit, sampled",
        records,
        ("privacy.max_sites_per_unit=2", "privacy.sampling_rate=0.5"),
    ),
    ("two sites an account", accounts, ("privacy.max_sites_per_unit=2", *capped(3))),
    ("unlike sites", records, UNLIKE),
    ("unlike sites of accounts", accounts, (*UNLIKE, *capped(8))),
    ("unlike sites, adult", builtin("adult"), (*UNLIKE, "data.public_size=true")),
    ("all sites, unlike", records, (*UNLIKE, "audit.max_sites=null", "federation.sites=3")),
    ("small clip norm", records, ("privacy.clip_norm=0.05",)),
    ("large clip norm", records, ("privacy.clip_norm=7",)),
    ("large clip norm of accounts", accounts, ("privacy.clip_norm=7", *capped(3))),
    ("many rounds", records, ("federation.rounds=30", "audit.max_rounds=30")),
    (
        "many sampled rounds",
        records,
        ("federation.rounds=40", "audit.max_rounds=40", "privacy.sampling_rate=0.25"),
    ),
    ("wide perceptron", records, ("model=mlp", "model.width=64", "privacy.epsilon=4")),
    ("no holdout to speak of", records, ("data.holdout=0.02",)),
    ("one site", records, ("federation.sites=1",)),
    ("two columns by subgroup", records, ("evaluation.subgroups=[kind,age]",)),
    (
        "two columns by subgroup in a sum",
        accounts,
        (
            *("evaluation.subgroups=[kind,age]", "federation.sites=3", *capped(3)),
            *("privacy.trust=distributed", "privacy.max_colluding=1"),
        ),
    ),
)
HONEST = (*_combined(), *SINGLE)


@pytest.mark.parametrize(("data", "overrides"), [pytest.param(*h[1:], id=h[0]) for h in HONEST])
def test_an_honest_trainer_is_not_falsified(data: Data, overrides: Sequence[str]) -> None:
    found = audited(overrides, data=data)
    assert found.failed == (), [check for check in found.checks if not check.passed]


def test_there_are_forty_two_of_them() -> None:
    assert len(HONEST) == len({name for name, *_ in HONEST}) == 42
