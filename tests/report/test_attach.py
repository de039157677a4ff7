from __future__ import annotations

import json
from typing import Any

import pytest

from dp_risk.report import build, render
from dp_risk.report.facts.attach import attach
from dp_risk.report.facts.validation import validate
from dp_risk.report.page.reading import check_page
from dp_risk.types import ConfigurationError

from . import test_audit
from .pages import Page

Facts = dict[str, Any]


@pytest.fixture
def report(run: Facts) -> Facts:
    return dict(json.loads(json.dumps(build("run", run, None, [], "data: {name: mine}\n", []))))


def test_an_audit_gives_a_run_its_verdict(report: Facts) -> None:
    assert report["summary"]["verdict"] == "not audited"
    whole = attach(report, test_audit.facts(test_audit.audit()))
    validate(whole)
    assert whole["summary"]["verdict"] == "not falsified"
    html = render(whole)
    assert check_page(html, whole) > 100
    words = Page(html).words
    for said in ("on scratch sites with public data (spambase)", "timing and memory", "All 18"):
        assert said in words
    fallen = attach(report, test_audit.facts(test_audit.failing("sampler", "gate")))
    assert fallen["summary"]["verdict"] == "falsified"
    html = render(fallen)
    assert "Do not rely on the epsilon above" in Page(html).words
    # Before the claim, in words; the evidence before what the model is good for.
    assert html.index("An audit falsified this claim") < html.index('class="claim"')
    assert html.index('id="evidence"') < html.index('id="utility"')
    assert "An audit falsified this claim" not in render(whole)
    assert "2 of 18 checks failed" in Page(render(fallen)).words


def test_what_differs_between_run_and_audit_is_said(run: Facts) -> None:
    audit = test_audit.facts(test_audit.audit())
    differs = {"epsilon_target": 2.0, "delta": 1e-6, "q": 0.5, "commit": "def456"}
    other = build("run", run | differs, None, [], "", [])
    words = " ".join(attach(other, audit)["audit"]["source"])
    for said in ("epsilon 1.00; this run claims 2.00", "delta was 1e-05", "rate was 1;"):
        assert said in words
    assert "commit was abc123; this run's is def456" in words
    assert "number of rounds was 80; this run's is 60" in words
    assert "It had 10 sites; this run has 3" in words
    found = attach(other, audit)["summary"]
    assert found["verdict"] == "another claim not falsified"
    assert "The audit was of epsilon 1.00" in found["verdict_words"][0]
    same = attach(build("run", run | {"delta": 1e-5}, None, [], "", []), audit)
    assert "this run claims" not in " ".join(same["audit"]["source"])
    assert same["summary"]["verdict"] == "not falsified"
    assert "leak of epsilon 0.83 at least, of the 1 claimed" in same["summary"]["verdict_words"][1]
    fallen = attach(other, test_audit.facts(test_audit.failing("gate")))
    assert fallen["summary"]["verdict"] == "falsified"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trust": "distributed", "max_colluding": 1}, "trust distributed, the audit looked at"),
        ({"unit": "account"}, "unit account"),
        ({"randomness": "seeded"}, "only the report of a private run"),
    ],
)
def test_an_audit_of_something_else_is_refused(run: Facts, change: Facts, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        attach(build("run", run | change, None, [], "", []), test_audit.facts(test_audit.audit()))


def test_a_run_is_no_audit(report: Facts) -> None:
    with pytest.raises(ConfigurationError, match="not the folder of an audit"):
        attach(report, report)
