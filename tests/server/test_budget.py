from __future__ import annotations

import re
from typing import Any

import pytest

from dp_risk.types import FederationError
from server.budget import SiteView, check_together, refusal_line


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
    }
    return SiteView(node=node, statement={**said, **changes})


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
    line = refusal_line([view(1)], epsilon=2.0, delta=1e-5, schema="s")
    assert "\n" not in line
    assert "asks epsilon 2 " in line
    assert re.search(r"site-01 has .*1\.25 of .*10 left", line)
    assert "nothing was computed" in line
    assert "without noise" in refusal_line([view(1)], epsilon=None, delta=1e-5, schema="s")


def test_many_refusing_sites_stay_one_line() -> None:
    views = [view(n, left_epsilon=9.0 - n) for n in range(9)]
    line = refusal_line(views, epsilon=2.0, delta=1e-5, schema="s")
    assert re.search(r"and \d+ more sites", line)
    assert len(line) < 500
    assert "\n" not in line


def test_another_delta_or_schema_is_named() -> None:
    delta = refusal_line([view(1)], epsilon=2.0, delta=1e-6, schema="s")
    assert "keeps its ledger at delta 1e-05" in delta
    assert "delta 1e-06" in delta
    schema = refusal_line([view(1)], epsilon=2.0, delta=1e-5, schema="t")
    assert "site-01 has another schema" in schema
