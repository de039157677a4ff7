"""What a report says of charged estimates, accounts, amendments and searches."""

from __future__ import annotations

from typing import Any

import pytest

from dp_risk.report import build

from .pages import Page, said

Facts = dict[str, Any]


@pytest.fixture
def estimates() -> Facts:
    return {
        "metrics": {
            "auroc": {"value": 0.91, "low": 0.88, "high": 0.94},
            "threshold": {"value": 0.87, "low": 0.8, "high": 0.93},
            "auprc": {"value": None, "low": None, "high": None},
        },
        "reliability": [
            {"score": 0.1, "rate": {"value": 0.08, "low": 0.05, "high": 0.12}},
            {"score": 0.6, "rate": {"value": None, "low": None, "high": None}},
        ],
        "capacity": 0.02,
        "bins": 24,
        "sites": 3,
    }


def page(run: Facts) -> Page:
    return Page(said(build("run", run, None, [], "", [])))


def test_private_utility_is_called_an_estimate(run: Facts, estimates: Facts) -> None:
    charged = {
        "estimates": estimates, "utility": estimates["metrics"], "utility_source": "charged"
    }  # fmt: skip
    found = page(run | charged)
    for words in (
        "Estimated from noisy histograms of holdout scores at 3 sites (24 bins by label)",
        "hold the noise as well as the sampling",
        "the highest 2\xa0% of scores",
        "Score threshold",
    ):
        assert words in found.words, words
    name = "Calibration: observed rate against mean score, 2 groups"
    assert any(name in str(value) for _, value in found.attributes)
    assert "Every account weighs one" not in found.words
    by_account = page(run | charged | {"unit": "account", "max_records_per_account": 32})
    assert "Every account weighs one" in by_account.words
    assert "all records of one account" in by_account.words
    assert "records of an account, at most" in by_account.words


def test_public_utility_is_exact_and_the_estimate_stands_beside_it(
    run: Facts, estimates: Facts
) -> None:
    found = page(run | {"estimates": estimates, "utility_source": "exact"})
    assert "0.967" in found.words
    assert "What a private holdout would have said" in found.words
    assert "0.910" in found.words


def test_an_estimate_says_which_account_paid_for_it(run: Facts, estimates: Facts) -> None:
    charged = {"estimates": estimates, "utility_source": "charged"}
    for split, words in (
        ("holdout", "paid from the holdout's budget"),
        ("both", "paid from the one budget that training and evaluation share"),
    ):
        event = run["charges"][0]["event"]
        paid = {"split": split, "purpose": "evaluation", "event": event, "epsilon": 0.1}
        found = page(run | charged | {"charges": [paid]})
        assert words in found.words


def test_counts_below_their_noise_have_no_curve(run: Facts, estimates: Facts) -> None:
    nothing = estimates | {"reliability": []}
    found = page(run | {"estimates": nothing, "utility_source": "charged"})
    assert "the counts do not stand out of the noise" in found.words


def test_every_account_and_every_change_of_a_budget_is_listed(run: Facts) -> None:
    balance = {"spent_epsilon": 1.234, "left_epsilon": 8.766, "used": 0.031}
    change = {
        "sequence": 7, "time": "2026-01-02T03:04:05", "kind": "raise", "by": "A. Owner",
        "reason": "second <year>", "lifetime_epsilon": 15.0,
    }  # fmt: skip
    sites = [
        site | {"accounts": {"train": balance, "holdout": balance}, "amendments": [change]}
        for site in run["sites"]
    ]
    found = page(run | {"sites": sites})
    # A bound is never printed smaller than it is, what is left never larger.
    for words in ("holdout", "1.24", "8.76", "A. Owner", "second <year>", "15", "2026-01-02"):
        assert words in found.words, words


def test_a_trial_says_what_the_whole_search_cost(run: Facts) -> None:
    trials = [
        {"job": 0, "overrides": "a=1", "outcome": "done", "epsilon": 0.9996, "auroc": 0.9},
        {"job": 1, "overrides": "a=2", "outcome": "refused: gone", "epsilon": None, "auroc": None},
    ]
    found = page(run | {"search": {"job": 0, "epsilon": 1.501, "trials": trials}})
    for words in (
        "one of 2 trials", "epsilon 1.51 at a site", "a=2", "refused: gone", "this one",
    ):  # fmt: skip
        assert words in found.words, words
    bare = page(run | {"search": {"job": 0, "epsilon": None, "trials": trials}})
    assert "cost nothing at a site" in bare.words
    assert "What the search cost" not in page(run).words


def test_shares_come_from_the_record_where_it_has_them(run: Facts) -> None:
    charges = [
        charge | {"share": share}
        for charge, share in zip(run["charges"], (0.953, 0.047), strict=True)
    ]
    found = page(run | {"charges": charges})
    assert "95.3\xa0%" in found.words
    assert "4.7\xa0%" in found.words


def test_a_unit_at_several_sites_is_in_the_claim(run: Facts) -> None:
    assert "one record at up to 3 sites" in page(run | {"max_sites_per_unit": 3}).words


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "It ends at the train split's epsilon, which is the run's where the holdout's is not"),
        ({"spare_rounds": 3}, "The run's epsilon holds all spare rounds too."),
        (
            {
                "spare_rounds": 3,
                "charges": [
                    {"split": "both", "purpose": "evaluation", "event": "x", "epsilon": 0.1}
                ],
            },
            "The run's epsilon holds all spare rounds and the evaluation too.",
        ),
    ],
)
def test_the_curve_of_epsilon_says_what_it_holds(run: Facts, change: Facts, words: str) -> None:
    rows = [{"round": n, "epsilon_spent": n / 10, "auprc": None, "seconds": 1.0} for n in (3, 6, 7)]
    report = build("run", run | change, None, [], "", rows)
    assert report["counts"]["every"] == 3
    found = Page(said(report))
    assert words in found.words
    assert "A line every 3 rounds, and one for the last" in found.words
    uneven = [row | {"round": n} for row, n in zip(rows, (1, 5, 7), strict=True)]
    assert "every" not in build("run", run, None, [], "", uneven)["counts"]
