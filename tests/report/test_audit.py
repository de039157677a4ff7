"""What a report says of an audit."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dp_risk.audit.findings import Check, Findings, Result
from dp_risk.report import build, build_audit, render
from dp_risk.report.facts.validation import validate
from dp_risk.report.sections import SECTIONS
from dp_risk.report.words import CHECK_WORDS

from .pages import Page, said

Facts = dict[str, Any]
HOSTILE = "\"><script>alert(1)</script><img src=x onerror='a'>&"
SECTION_IDS = [
    *("limits", "evidence", "review"),
    *("bounds", "checks", "scores", "tradeoff", "sensitivity", "controls", "audited", "membership"),
    *("configuration", "methods", "glossary"),
]
EVIDENCE: Facts = {
    "subject": {
        "dataset": "spambase",
        "unit": "record",
        "adjacency": "add-remove",
        "trust": "local",
        "view": "every release of a site",
        "sites": 10,
    },
    "plan": {"noise_multiplier": 33.39, "sampling_rate": 1.0, "rounds": 80},
    "canaries": {"codes": 2000, "stopped": "enough observations"},
    "observations": {
        "edges": [-100, -50, 0, 50, 100],
        "inside": [1000, 9000, 9100, 1010],
        "outside": [1000, 9100, 9000, 900],
        "inside_mean": 0.99,
        "outside_mean": 0.01,
        "std": 33.5,
    },
    "tradeoff": {
        "false_positive": [0.01, 0.1, 0.5],
        "claimed": [0.97, 0.73, 0.18],
        "measured": [0.985, 0.87, 0.46],
        "high": [0.98, 0.86, 0.45],
    },
    "sensitivity": [
        {"unit": "heavy", "purpose": "training", "moved": 0.999, "allowed": 1.01},
        {"unit": "not a number", "purpose": "counts", "moved": 0.0, "allowed": 1.01},
    ],
    "controls": [{"name": "no noise", "expected": "a large bound", "epsilon_lower_bound": 9.8}],
    "membership": {
        "method": "RMIA, online",
        "references": 4,
        "population": 90,
        "confidence": 0.95,
        "members": 400,
        "others": 100,
        "auc": 0.512,
        "auc_low": 0.45,
        "auc_high": 0.57,
        "tpr_at_fpr": [{"rate": 0.01, "true_positive": 0.014, "low": 0.004, "high": 0.03}],
        "roc": {"false_positive": [0.0, 0.01, 0.5, 1.0], "true_positive": [0.0, 0.014, 0.53, 1.0]},
        "controls": [
            {
                "name": "held-out units against held-out units",
                "expected": "0.5",
                "members": 50,
                "others": 50,
                "auc": 0.49,
                "auc_low": 0.38,
                "auc_high": 0.6,
                "tpr_at_fpr": [],
                "roc": {"false_positive": [0.0, 1.0], "true_positive": [0.0, 1.0]},
            }
        ],
    },
    "assumptions": ["sites are simulated"],
    "not_audited": ["timing and memory"],
    "seconds": 71.0,
}


def audit(**change: Any) -> Facts:
    """Return an audit that holds, as `audit.json` has it, with some of its parts changed."""
    results = [
        Result(
            method="white-box canaries",
            canaries=30000,
            observations=2400000,
            confidence=0.95,
            epsilon_lower_bound=0.8399,
            ceiling=2.1,
            guarantee="conditional",
            assumptions=["the noise is Gaussian"],
        ),
        Result(
            method="a guess",
            canaries=10,
            observations=10,
            confidence=0.95,
            epsilon_lower_bound=0.9,
            ceiling=90.0,
            guarantee="heuristic",
            assumptions=[],
        ),
    ]
    findings = Findings(
        claimed_epsilon=1.0,
        delta=1e-5,
        gate_level=0.001,
        gate_epsilon=0.71,
        results=results,
        checks=[Check(name=name, passed=True, figure=f"of {name}") for name in CHECK_WORDS],
        evidence=copy.deepcopy(EVIDENCE),
    )
    return findings.to_dict() | change


def facts(found: Facts) -> Facts:
    """Return the report of an audit as it is read back from report.json."""
    report = build_audit(found, "data:\n  name: adult\n", {"python": "3.11.2"}, "abc123")
    return dict(json.loads(json.dumps(report, allow_nan=False)))


def page(found: Facts) -> Page:
    return Page(render(facts(found)))


def failing(*names: str) -> Facts:
    found = audit()
    for check in found["checks"]:
        check["passed"] = check["name"] not in names
    return found | {"verdict": "falsified"}


def test_an_audit_report_has_every_section() -> None:
    read = page(audit())
    assert read.sections == ["summary", *SECTION_IDS]
    assert "at most a factor e^1.00 (2.72), plus at most 1e-05" in read.words
    assert "adding or removing one record at one site" in read.words
    assert "The audit looks at every release of a site." in read.words
    assert "Trust: local." in read.words
    assert "Claim not falsified: spambase" in read.words
    assert all(text in read.words for text in CHECK_WORDS.values())
    assert "abc123" in read.words


def test_other_reports_have_nothing_of_an_audit(run: Facts) -> None:
    report = build("run", run, None, [], "", [])
    assert not set(SECTION_IDS[3:11]) & set(Page(render(report)).sections)
    assert not any(SECTIONS[name](report) for name in SECTION_IDS[3:11])


def test_the_verdict_is_never_verified() -> None:
    words = Page(said(facts(audit()))).words
    assert "Claim not falsified" in words
    assert "This is no proof of the claim" in words
    assert not re.search("verified|proven|safe", words, re.IGNORECASE)


def test_a_failed_check_is_named_first_and_marked() -> None:
    html = said(facts(failing("sampler", "gate")))
    read = Page(html)
    assert "Claim falsified: spambase" in read.words
    assert "not falsified" not in read.words
    assert "2 of 18 checks failed" in read.words
    box = html[html.index('<div class="warning">') : html.index('id="bounds"')]
    assert re.findall("<b><span[^>]*>(.*?)</span></b>", box) == ["sampler", "gate"]
    assert "of sampler" in box
    assert CHECK_WORDS["gate"] in box
    rows = re.findall(
        r'<tr class="marked"><th[^>]*><span[^>]*>(.*?)</span></th><td[^>]*>(.*?)</td>', html
    )
    assert rows == [("sampler", "✗\xa0failed"), ("gate", "✗\xa0failed")]
    first = html.index("<tbody>", html.index('id="checks"'))
    assert html.index("sampler", first) < html.index("gate", first) < html.index("noise_std", first)


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "verified"},
        {"verdict": None},
        {"checks": [{"name": "gate", "passed": None, "figure": ""}]},
        {"checks": [{"name": "gate", "passed": "yes", "figure": ""}]},
        {"checks": [{"name": "gate"}]},
    ],
)
def test_what_does_not_say_that_it_held_did_not(change: Facts) -> None:
    assert facts(audit(**change))["audit"]["verdict"] == "falsified"
    assert "Claim falsified" in page(audit(**change)).words


def test_no_check_is_no_check_that_held() -> None:
    assert "No check was made." in page(audit(checks=[])).words


def test_bounds_are_rounded_down_and_heuristics_are_faint() -> None:
    report = facts(audit())
    assert report["audit"]["chosen"]["epsilon_lower_bound"] == 0.8399
    read = Page(render(report))
    assert "0.839" in read.words
    assert "0.840" not in read.words
    assert "lower bound0.839 at 95\xa0%" in read.words
    assert "the gate (99.9\xa0%): 0.710" in read.words
    assert render(report).count('class="bound c0 faint"') == 2  # one bar, wide and narrow


def test_a_bound_above_the_claim_stands_out() -> None:
    found = audit()
    found["results"][0]["epsilon_lower_bound"] = 1.3
    html = render(facts(found))
    assert html.count('class="bound over"') == 2
    assert "the gate decides" in html
    assert re.search('<tr class="marked"><th scope="row" class="txt"><span[^>]*>white-box', html)
    fallen = failing("gate") | {"results": found["results"]}
    assert "the gate decides" not in render(facts(fallen))


def test_distributions_are_compared_as_densities() -> None:
    found = audit()
    found["evidence"]["observations"] |= {
        "edges": [0, 1, 3],
        "inside": [1, 3],
        "outside": [100, 300],
    }
    cells = facts(found)["audit"]["observations"]["cells"]
    assert [cell["inside_density"] for cell in cells] == [0.25, 0.375]
    assert [cell["outside_density"] for cell in cells] == [0.25, 0.375]


def test_a_unit_that_moves_too_far_stands_out() -> None:
    found = audit()
    found["evidence"]["sensitivity"] += [
        {"unit": "huge", "purpose": "training", "moved": 4.04, "allowed": 1.01},
        {"unit": "unknown", "purpose": "training", "moved": math.inf, "allowed": 1.01},
    ]
    rows = facts(found)["audit"]["sensitivity"]
    assert [row["over"] for row in rows] == [False, False, True, True]
    html = render(facts(found), sections=["sensitivity"])
    assert html.count("mark over") == 2
    assert html.count('<tr class="marked">') == 2
    assert ">4.00</text>" in html


def test_an_account_and_a_secure_sum_are_said() -> None:
    found = audit()
    found["evidence"]["subject"] |= {"unit": "account", "trust": "distributed", "max_colluding": 2}
    words = page(found).words
    assert "all records of one account" in words
    assert "up to 2 colluding sites" in words


def test_the_page_asks_for_nothing() -> None:
    html = render(facts(audit()))
    assert not re.search(r"https?:|//[a-z]|url\(|@import|\bsrc=|\bhref=\"[^#]", html)
    assert not {"script", "link", "img", "iframe", "object"} & set(Page(html).tags)


def test_plots_have_names_and_tables() -> None:
    html = render(facts(audit()))
    drawn = re.findall(r"<svg[^>]*>", html)
    assert len(drawn) == 10  # five charts, wide and narrow
    assert all("aria-label=" in tag for tag in drawn)
    names = "bounds|scores|tradeoff|sensitivity|membership"
    blocks = re.findall(rf'<section id="(?:{names})".*?</section>', html, flags=re.S)
    assert len(blocks) == 5
    for block in blocks:
        assert block.index("<svg") < block.index("<table")


def test_a_membership_attack_that_was_left_out_says_why() -> None:
    found = audit()
    found["evidence"]["membership"] = {"left_out": "too few units <here>"}
    report, shown = facts(found), page(found)
    validate(report)
    assert report["audit"]["membership"] == {"left_out": "too few units <here>", "attacks": []}
    assert "Left out: too few units <here>." in " ".join(shown.words.split())


@pytest.mark.parametrize("empty", [{}, {"evidence": {}}, {"checks": None, "results": None}])
def test_almost_nothing_is_enough(empty: Facts) -> None:
    assert "there is no claim to falsify" in page(empty).words


def _items(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        return list(value.items())
    return list(enumerate(value)) if isinstance(value, list) else []


def _paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, item in _items(value):
        yield (*at, key)
        yield from _paths(item, (*at, key))


def _poison(value: Any, at: tuple[Any, ...], poison: Any) -> None:
    """Put `poison` at a path, unless an earlier one has cut it off."""
    for key in at[:-1]:
        value = dict(_items(value)).get(key)
    if at[-1] in dict(_items(value)):
        value[at[-1]] = poison


PLACES = list(_paths(audit()))
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(),
    st.integers(),
    st.just(10**400),
    st.sampled_from([HOSTILE, "", [], {}, [None], [[]], -1e308, 1e308, 5e-324]),
    st.lists(st.floats(), max_size=6),
    st.text(max_size=20),
)


def _assert_rendered(found: Facts) -> None:
    html = render(facts(found))
    read = Page(html)
    assert not {"script", "img"} & set(read.tags)
    assert not any(name.startswith("on") for name, _ in read.attributes)
    for tag in re.findall(r"<svg.*?</svg>", html):
        drawn = re.findall(r'\s(?:x|y|[xy][12]|c[xy]|width|height|points|d)="([^"]*)"', tag)
        assert not re.search("nan|inf", " ".join(drawn))
        assert not re.search('(width|height)="-', tag)
    held = all(c["passed"] for c in facts(found)["audit"]["checks"])
    assert ("Claim not falsified" in read.words) == (held and found["verdict"] == "not falsified")


@given(changes=st.lists(st.tuples(st.sampled_from(PLACES), VALUES), min_size=1, max_size=8))
@settings(max_examples=150, deadline=None)
def test_any_audit_is_rendered(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    found = audit()
    for at, value in changes:
        _poison(found, at, copy.deepcopy(value))
    _assert_rendered(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    "value", [None, True, -1, 10**400, 1e308, -1e308, 5e-324, math.nan, math.inf, "", [None], [[]]]
)
def test_any_one_value_may_be_anything(value: Any) -> None:
    for at in PLACES:
        found = audit()
        _poison(found, at, copy.deepcopy(value))
        _assert_rendered(found)


def _hostile(value: Any) -> Any:
    if isinstance(value, dict):
        return {f"{key}": _hostile(item) for key, item in value.items()} | {HOSTILE: HOSTILE}
    if isinstance(value, list):
        return [_hostile(item) for item in value]
    return HOSTILE if isinstance(value, str) else value


def test_hostile_strings_stay_text() -> None:
    clean = page(failing("gate"))
    found = _hostile(failing("gate"))
    read = Page(render(build_audit(found, HOSTILE, {HOSTILE: HOSTILE}, HOSTILE)))
    assert HOSTILE in read.words
    assert set(read.tags) <= set(clean.tags) | {"p", "div", "strong"}
    assert {name for name, _ in read.attributes} <= {name for name, _ in clean.attributes}
