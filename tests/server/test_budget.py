from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from dp_risk.types import FederationError
from server.budget import SiteView, check_together, refusal_line
from tests.federation import plan, public_plan

PLAN = plan(schema="s")


def view(node: int, **changes: Any) -> SiteView:
    said = {
        "site": f"site-{node:02d}",
        "dataset": "tiny",
        "schema": "s",
        "units": None,
        "left_epsilon": 1.25,
        "lifetime_epsilon": 10.0,
        "lifetime_used": 0.875,
        "delta": 1e-5,
        "run_epsilon": 8.0,
        "public": False,
        "stable_ids": True,
        "unit": "record",
        "retired": False,
        "max_records_per_account": 1,
        "min_sites": 1,
    }
    return SiteView(statement={**said, **changes})


def test_sites_of_one_dataset_and_different_names_fit_together() -> None:
    check_together([view(1), view(2)], dataset="tiny")


def test_two_sites_of_one_name_do_not_fit() -> None:
    with pytest.raises(FederationError, match="two sites call themselves site-01"):
        check_together([view(1), view(2, site="site-01")], dataset="tiny")


def test_another_dataset_does_not_fit() -> None:
    with pytest.raises(FederationError, match="site-02 holds dataset other"):
        check_together([view(1), view(2, dataset="other")], dataset="tiny")


def test_units_are_declared_or_unknown() -> None:
    assert view(1).units is None
    assert view(1, units=0).units == 0
    assert view(1, units=7).units == 7


def test_a_refusal_is_one_line_with_what_was_asked_and_what_is_left() -> None:
    line = refusal_line([view(1)], PLAN)
    assert "\n" not in line
    assert "asks epsilon 2 " in line
    assert re.search(r"site-01 has .*1\.25 of .*10 left", line)
    assert "nothing was computed" in line
    assert "without noise" in refusal_line([view(1)], public_plan(schema="s"))


def test_many_refusing_sites_stay_one_line() -> None:
    views = [view(n, left_epsilon=9.0 - n) for n in range(9)]
    line = refusal_line(views, PLAN)
    assert re.search(r"and \d+ more sites", line)
    assert len(line) < 500
    assert "\n" not in line


def test_another_delta_or_schema_is_named() -> None:
    delta = refusal_line([view(1)], replace(PLAN, delta=1e-6))
    assert "keeps its ledger at delta 1e-05" in delta
    assert "delta 1e-06" in delta
    schema = refusal_line([view(1)], replace(PLAN, schema="t"))
    assert "site-01 has another schema" in schema


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"unit": "account"}, "site-01 protects each account, the run asks for unit record"),
        ({"retired": True}, "site-01 has retired its budget"),
        ({"min_sites": 4}, "site-01 takes part with 4 sites at least"),
        ({"max_records_per_account": 0}, "site-01 lets 0 records of an account take part"),
    ],
)
def test_what_a_statement_explains_is_named(said: dict[str, Any], words: str) -> None:
    assert words in refusal_line([view(1, **said)], PLAN)


def test_sites_that_charge_the_splits_in_another_way_do_not_fit() -> None:
    with pytest.raises(FederationError, match="site-02 and site-01 do not agree on stable_ids"):
        check_together([view(1), view(2, stable_ids=False)], dataset="tiny")
