from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clients.site import Site
from server.statements import checked
from tests.federation import Server, plan


@pytest.fixture
def honest(site: Path) -> dict[str, Any]:
    """What an honest site states in the middle of a run, as it arrives."""
    server = Server(site)
    server.enrol(plan())
    server.train(plan())
    return json.loads(json.dumps(Site.open(site).statement("run-1", 1)))


def test_an_honest_statement_passes_unchanged(honest: dict[str, Any]) -> None:
    assert checked(honest) == honest


def test_what_else_a_site_says_is_not_kept(honest: dict[str, Any]) -> None:
    assert checked({**honest, "ballast": "x" * 1000}) == honest


REKEY = {
    "sequence": 1, "time": "t", "kind": "rekey", "text": "{}", "previous": "", "hash": "",
    "signature": "",
}  # fmt: skip
WRONG: dict[str, list[Any]] = {
    "site": [None, 7, "", "x" * 300, "a\nb"],
    "key": [None, "aa", "A" * 64, 3],
    "dataset": [None, 3],
    "stable_ids": [None, "true", 1],
    "holdout": [None, -0.1, 1.5, math.nan, "x", True, 10**400],
    "units": [-5, 1.5, "many", True, 10**30],
    "left_epsilon": [math.nan, math.inf, "x", -1, None],
    "spent_epsilon": [None, math.nan],
    "lifetime_used": [None, "all"],
    "accounts": [None, {"people": {}}, {"train": {}}, {"train": {"spent_epsilon": 1}}],
    "amendments": [None, "x", [3], [{"kind": "raise"}]],
    "rekeys": [None, "x", [3], [{"kind": "rekey"}], [{**REKEY, "text": 3}], [REKEY] * 1001],
    "retired": [None, 0],
    "ledger_head": [None, "0" * 63, 4],
    "ledger_signature": [None, ""],
    "ledger_entries": [None, 0, -1, 1.0, True],
    "entry": [None, {}, [], {"sequence": "x", "hash": None}, {"sequence": 1, "hash": 5}],
    "unit": [None, "zz", ["record"]],
    "adjacency": [None, "replace-one"],
    "open_run": [{"a": 1}, 7, ""],
    "run": [
        None,
        {},
        {"id": "x", "epsilon_spent": "y", "rounds": []},
        {"id": "x", "epsilon_spent": {"train": "y"}, "rounds": {}},
        {"id": "x", "epsilon_spent": {}, "rounds": {"training": -1}},
    ],
}


@pytest.mark.parametrize(
    ("field", "value"), [(f, v) for f, values in WRONG.items() for v in values], ids=str
)
def test_an_impossible_field_is_named(honest: dict[str, Any], field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field} "):
        checked({**honest, field: value})
    del honest[field]
    with pytest.raises(ValueError, match=f"^{field} "):
        checked(honest)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(field=st.sampled_from(sorted(WRONG)), value=json_values)
def test_whatever_stands_in_a_field_it_is_judged(
    honest: dict[str, Any], field: str, value: Any
) -> None:
    try:
        passed = checked({**honest, field: value})
    except ValueError:
        return
    assert passed[field] == value
