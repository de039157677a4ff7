from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from server.aggregation import total
from server.averaging import Averaging
from server.combining import Sum
from server.robust import Rule
from tests.federation import plan

SIZES = {"a": 100.0, "b": 200.0, "c": 400.0, "d": 300.0, "e": 250.0}


def averaging(rule: Rule, byzantine: int = 1, **changes: Any) -> Averaging:
    values = {"sizes": SIZES, "noises": 5.0, **changes}
    return Averaging(plan(sampling_rate=0.5), rule=rule, byzantine=byzantine, **values)


def answers() -> dict[str, dict[str, np.ndarray]]:
    """The sums of sites that all find the same mean gradient, over half of their units."""
    return {
        site: {"w": 0.5 * size * np.array([[1.0, -2.0]]), "b": 0.5 * size * np.array([3.0])}
        for site, size in SIZES.items()
    }


def summed(each: dict[str, dict[str, np.ndarray]]) -> Sum:
    names = tuple(sorted(each))
    return Sum(arrays=total([each[n] for n in names]), each=each, sites=names, std=1.0)


# Sites of other sizes than most are longer or shorter among the neighbours of Krum.
@pytest.mark.parametrize("rule", [rule for rule in Rule if rule is not Rule.MULTI_KRUM])
def test_sites_that_agree_give_their_mean_gradient_whatever_their_sizes(rule: Rule) -> None:
    found = averaging(rule)(summed(answers()))
    assert {name: array.tolist() for name, array in found.items()} == {
        "w": [[1.0, -2.0]],
        "b": [3.0],
    }


@pytest.mark.parametrize("rule", [rule for rule in Rule if rule is not Rule.SUM])
@pytest.mark.parametrize("site", SIZES)
def test_one_liar_moves_nothing_where_all_others_agree(rule: Rule, site: str) -> None:
    for lie in (-1.0, 1e6, 0.0):
        each = answers()
        each[site] = {name: lie * array for name, array in each[site].items()}
        found = averaging(rule)(summed(each))
        slack = 0.25 if rule is Rule.MULTI_KRUM else 1e-7
        np.testing.assert_allclose(found["w"], [[1.0, -2.0]], rtol=slack)
        np.testing.assert_allclose(found["b"], [3.0], rtol=slack)
        moved = averaging(Rule.SUM, 0)(summed(each))
        assert abs(moved["b"][0] - 3.0) > 0.2


def test_a_sum_is_divided_by_the_units_of_the_sites_that_answered() -> None:
    each = {site: arrays for site, arrays in answers().items() if site != "c"}
    np.testing.assert_allclose(averaging(Rule.SUM, 0)(summed(each))["b"], [3.0])


def test_the_noise_of_a_sum_is_that_of_all_sites_over_all_units() -> None:
    one = plan(sampling_rate=0.5)
    expected = one.noise_multiplier * one.clip_norm * math.sqrt(5) / (0.5 * sum(SIZES.values()))
    assert averaging(Rule.SUM, 0).noise == pytest.approx(expected)
    assert averaging(Rule.MEDIAN).noise > expected


@pytest.mark.parametrize("rule", [rule for rule in Rule if rule is not Rule.SUM])
@pytest.mark.parametrize("claim", [1e-9, 1.0, 1e9])
def test_a_claim_does_not_change_what_noise_the_server_reckons_with(
    rule: Rule, claim: float
) -> None:
    honest = averaging(rule).noise
    lied = averaging(rule, sizes={**SIZES, "e": claim}).noise
    assert 0.5 < lied / honest < 2.0
