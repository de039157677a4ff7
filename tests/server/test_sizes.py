from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dp_risk.types import ConfigurationError
from server import sizes
from server.budget import SiteView
from server.combining import Question, Sum
from tests.federation import plan

NAMES = ("a", "b", "c", "d", "e")


def views(*units: int | None) -> list[SiteView]:
    return [
        SiteView(statement={"site": name, "units": size})
        for name, size in zip(NAMES, units, strict=False)
    ]


def released(counts: dict[str, float]) -> Any:
    def ask(question: Question) -> Sum:
        each = {site: {"units": np.array([count])} for site, count in counts.items()}
        arrays = {"units": np.array([sum(counts.values())])}
        return Sum(arrays=arrays, each=each, sites=tuple(counts), std=1.0)

    return ask


def test_declared_sizes_are_taken_as_they_are() -> None:
    found = sizes.find(plan(counts_noise=0.0), None, views(10, 20, 30), 0)  # type: ignore[arg-type]
    assert found.known == found.each == {"a": 10, "b": 20, "c": 30}
    assert found.total == 60
    assert (found.most(["b"]), found.most(["a", "b"])) == (20, 60)


def test_no_more_is_believed_of_liars_than_honest_sites_hold() -> None:
    declared = views(100, 10**9, 300, 200, 150)
    found = sizes.find(plan(counts_noise=0.0), None, declared, 1)  # type: ignore[arg-type]
    assert found.total == 150 + 300 + 300 + 200 + 150
    assert found.each["b"] == 10**9


def test_a_site_that_released_no_number_counts_as_an_average_one() -> None:
    ask = released({"a": 100.0, "b": 300.0})
    found = sizes.find(plan(), ask, views(None, None, None), 0)
    assert found.known == {"a": 100, "b": 300}
    assert found.each == {"a": 100, "b": 300, "c": 200}
    assert found.total == 600
    # It may be as large as any.
    assert found.most(["c"]) == 300


def test_a_released_number_that_is_absurd_ends_the_run_only_where_it_is_believed() -> None:
    counts = {"a": 100.0, "b": 1e12, "c": 120.0, "d": -4.0, "e": 90.0}
    with pytest.raises(ConfigurationError, match=r"privacy\.delta"):
        sizes.find(plan(), released(counts), views(*[None] * 5), 0)
    found = sizes.find(plan(), released(counts), views(*[None] * 5), 1)
    assert found.total == 120 + 120 + 100 + 90 + 90
    assert found.known["d"] == 1.0
