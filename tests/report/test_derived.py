"""The first page follows from the facts."""

from __future__ import annotations

from typing import Any

import pytest

from dp_risk.report import build, render
from dp_risk.report.facts.derived import complete

from . import test_audit
from .pages import Page

Facts = dict[str, Any]


def _summary(run: Facts, **change: Any) -> Facts:
    return dict(build("run", run | change, None, [], "", [])["summary"])


def test_the_budget_is_that_of_the_site_with_least_left(run: Facts) -> None:
    assert _summary(run)["budget"]["left"] == 8.76
    run["sites"][2] |= {
        "epsilon_lifetime_left": 1.25, "epsilon_lifetime_budget": 10.0, "lifetime_used": 0.8,
        "lifetime_used_before": 0.7,
    }  # fmt: skip
    found = _summary(run)["budget"]
    assert (found["site"], found["left"], found["of"]) == ("site-2", 1.25, 10.0)
    assert (found["run"], found["rest"]) == (pytest.approx(0.1), pytest.approx(0.2))
    for site in run["sites"]:
        del site["epsilon_lifetime_left"]
    assert _summary(run)["budget"] is None


def test_figures_that_say_nothing_are_not_on_the_first_page(run: Facts) -> None:
    assert [row["name"] for row in _summary(run)["utility"]] == ["AUROC", "AUPRC"]
    wide = {"auroc": {"value": 0.8, "low": 0.3, "high": 0.9}, "auprc": run["utility"]["auprc"]}
    assert [row["name"] for row in _summary(run, utility=wide)["utility"]] == ["AUPRC"]
    words = Page(render(build("run", run | {"utility": None}, None, [], "", []))).words
    assert "Not known" in words


def test_a_verdict_needs_an_audit_and_a_claim(run: Facts, frontier: Facts) -> None:
    assert _summary(run)["verdict"] == "not audited"
    assert _summary(run, randomness="seeded")["verdict"] == "no claim to audit"
    found = build("frontier", run, frontier, [], "", [])["summary"]
    assert found["verdict"] == "not audited"
    assert found["budget"] is None
    assert "no real one was opened" in found["budget_words"][0]
    audits = test_audit.audit(), test_audit.failing("gate")
    said = [test_audit.facts(audit)["summary"]["verdict"] for audit in audits]
    assert said == ["not falsified", "falsified"]
    brief = test_audit.audit()
    brief["evidence"]["canaries"] |= {"inside": 30, "wanted": 1000}
    found = test_audit.facts(brief)
    assert found["summary"]["short"] is True
    assert "3.0% of the planned observations" in " ".join(found["summary"]["verdict_words"])
    for result in brief["results"]:
        result["epsilon_lower_bound"] = 0.004
    nothing = test_audit.facts(brief)["summary"]
    assert nothing["verdict"] == "not falsified"
    assert nothing["verdict_words"][-1] == "It found no leak. It was too weak to tell."
    assert 'class="answer open" id="answer-verdict"' in render(found)
    assert 'class="answer held" id="answer-verdict"' in render(test_audit.facts(audits[0]))


def test_a_frontier_is_read_at_epsilon_one(run: Facts, frontier: Facts) -> None:
    rows = build("frontier", run, frontier, [], "", [])["summary"]["utility"]
    assert [row["name"] for row in rows] == ["Local noise at epsilon 1: AUROC", "No noise: AUROC"]
    assert rows[0]["value"] == pytest.approx(0.969)


def test_what_was_lost_is_said_in_any_trust(run: Facts) -> None:
    def losses(**change: Any) -> Any:
        return build("run", run | change, None, [], "", [])["losses"]

    assert losses() is None
    assert "2 training answers did not come in time" in losses(answers_lost=2)["words"]
    run["sites"][1]["rounds_joined"] = 58
    found = losses(doubts=["a site forgot a charge"])
    assert found["away"] == [{"site": "site-1", "rounds_joined": 58, "missed": 2}]
    assert found["doubts"] == ["a site forgot a charge"]


def test_what_stands_behind_the_figures_is_named(run: Facts) -> None:
    run["versions"]["dp-accounting"] = "0.6.0"
    run["sites"][1]["statement"] = {"account": {"order": 3}}
    report = build("run", run | {"q": 0.25}, None, [], "", [])
    assert report["accounting"]["sampler"] == "Poisson"
    words = Page(render(report)).words
    assert "privacy loss distributions, dp-accounting 0.6.0" in words
    assert "Renyi filter of order 3" in words
    assert (
        build("run", run, None, [], "", [])["accounting"]["sampler"] == "every unit in every step"
    )
    assert build("run", run | {"randomness": "seeded"}, None, [], "", [])["accounting"] == {}


def test_facts_that_follow_are_made_anew(run: Facts) -> None:
    report = build("run", run, None, [], "", [])
    assert (
        complete(
            report | {"summary": {}, "losses": {}, "counts": {}, "trusts": [], "accounting": {}}
        )
        == report
    )
