"""Runs side by side: what differs stands out, and what would mislead is said."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dp_risk.report import build, render
from dp_risk.report.facts.comparing.rows import row, way
from dp_risk.report.facts.comparison import Compared, build_comparison
from dp_risk.report.facts.validation import validate
from dp_risk.report.page.reading import check_page
from dp_risk.types import ConfigurationError, VerificationError

from . import test_audit, test_subgroups
from .pages import Page, said

Facts = dict[str, Any]
CONFIG = "data:\n  name: spambase\nprivacy:\n  epsilon: {}\nrun:\n  dir: runs/{}\n"
HOSTILE = "\"><script>alert(1)</script><img src=x onerror='a'>&{}"
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
ODD = st.recursive(
    LEAVES,
    lambda inside: (
        st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=4), inside, max_size=3)
    ),
    max_leaves=8,
)


def compared(*reports: Facts) -> Facts:
    runs = [
        Compared(name=f"run {i}", report=json.loads(json.dumps(report)), digest=f"{i:064x}")
        for i, report in enumerate(reports)
    ]
    return dict(json.loads(json.dumps(build_comparison(runs))))


def report_of(run: Facts, name: str = "a") -> Facts:
    return build("run", run, None, [], CONFIG.format(run["epsilon_target"], name), [])


def about(facts: Facts) -> list[str]:
    return [one["about"] for one in facts["comparison"]["cautions"]]


@pytest.fixture
def other(run: Facts) -> Facts:
    """A run that is dearer and better."""
    other = copy.deepcopy(run)
    other |= {"epsilon_target": 4.0, "epsilon_spent": 4.0, "sigma": 3.0}
    other["utility"]["auroc"] = {"value": 0.99, "low": 0.985, "high": 0.995}
    other["utility"]["auprc"] = {"value": 0.96, "low": 0.94, "high": 0.975}
    other["assumptions"] = [*run["assumptions"], "Something more."]
    return other


def test_what_differs_is_marked_and_what_is_the_same_is_not(run: Facts, other: Facts) -> None:
    facts = compared(report_of(run, "a"), report_of(other, "b"))
    validate(facts)
    found = facts["comparison"]
    glance = {one["key"]: [cell["way"] for cell in one["cells"]] for one in found["glance"]}
    assert glance["epsilon_spent"] == ["reference", "more"]
    assert glance["unit"] == ["reference", "same"]
    assert glance["auroc"] == ["reference", "more"]
    assert glance["auprc"] == ["reference", "unclear"]
    assert found["sentences"]["assumptions"] == {
        "common": run["assumptions"],
        "apart": [{"text": "Something more.", "runs": [False, True]}],
    }
    # Where a run was written is no difference between runs.
    assert [one["key"] for one in found["configuration"]] == ["privacy.epsilon"]
    assert found["versions"] == []
    assert about(facts) == ["intervals"]
    html = render(facts)
    page = Page(html)
    assert "AUPRC: the intervals of A and B overlap. Cannot tell which is better." in page.words
    differing = re.findall(r'<tr class="differs"><th scope="row">(?:<[^>]*>)*([^<]*)', html)
    assert {"epsilon", "AUROC", "AUPRC", "privacy.epsilon"} <= set(differing)
    assert not {"unit", "adjacency", "delta"} & set(differing)
    assert "review" not in page.sections
    assert page.sections[:3] == ["summary", "figures", "terms"]


def test_equal_runs_compare_and_nothing_is_marked(run: Facts) -> None:
    facts = compared(report_of(run, "a"), report_of(run, "b"))
    html = render(facts)
    assert about(facts) == []
    assert "These compare" in html
    assert "Before you compare" not in html
    assert '<tr class="differs">' not in html
    assert 'class="sign"' not in html


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"unit": "account"}, "unit"),
        ({"adjacency": "replace"}, "adjacency"),
        ({"delta": 1e-6}, "delta"),
        ({"trust": "distributed", "max_colluding": 1}, "trust"),
        ({"max_sites_per_unit": 2}, "max_sites_per_unit"),
        ({"randomness": "seeded"}, "seeded"),
        ({"trust": "none"}, "not private"),
        ({"epsilon_spent": None}, "not private"),
        ({"utility": None}, "utility"),
        ({"utility_source": "charged"}, "utility"),
        ({"run": "abcd"}, "run"),
    ],
)
def test_what_would_mislead_is_said(run: Facts, change: Facts, expected: str) -> None:
    run |= {"utility_source": "exact", "max_sites_per_unit": 1, "run": "abcd"}
    first, second = report_of(run | {"run": "1234"} | ({} if expected != "run" else change)), None
    second = report_of(run | change)
    facts = compared(first, second)
    assert expected in about(facts)
    assert expected not in about(compared(first, report_of(run | {"run": "5678"})))
    assert check_page(render(facts), facts)


def test_other_data_and_shared_ledgers_are_said(run: Facts) -> None:
    elsewhere = build("run", run, None, [], "data:\n  name: adult\n", [])
    assert "dataset" in about(compared(report_of(run), elsewhere))
    run["sites"][0]["key"] = "ab" * 32
    assert "ledgers" in about(compared(report_of(run), report_of(run)))


def test_a_run_without_privacy_shows_no_epsilon_at_a_glance(run: Facts) -> None:
    facts = compared(report_of(run), report_of(run | {"randomness": "seeded"}))
    [cells] = [
        one["cells"] for one in facts["comparison"]["glance"] if one["key"] == "epsilon_spent"
    ]
    assert [cell["value"] for cell in cells] == [0.9996, "none claimed"]
    assert cells[1]["way"] == "other"


def test_charges_budgets_and_losses_stand_side_by_side(run: Facts, other: Facts) -> None:
    other["charges"][0]["event"] = other["charges"][0]["event"] | {"count": 61}
    other["charges"].pop()
    other |= {"trust": "distributed", "spare_rounds": 3, "rounds_abandoned": 2}
    other["sites"][0] |= {"rounds_joined": 41, "epsilon_lifetime_left": 1.5}
    found = compared(report_of(run), report_of(other))["comparison"]
    charges = {(one["split"], one["key"]): one for one in found["charges"]}
    assert [c["way"] for c in charges["train", "training"]["cells"]] == ["reference", "other"]
    assert charges["train", "counts"]["cells"][1]["value"] is None
    budgets = {one["key"]: [c["value"] for c in one["cells"]] for one in found["budgets"]}
    assert budgets["left"] == [8.76, 1.5]
    assert budgets["site"] == ["site-0", "site-0"]
    losses = {one["key"]: [c["value"] for c in one["cells"]] for one in found["losses"]}
    assert losses == {"rounds_abandoned": [0, 2], "away": [0, 1]}


def test_frontiers_and_audits_compare_with_their_own_kind(run: Facts, frontier: Facts) -> None:
    dear = copy.deepcopy(frontier)
    dear["points"] = [p for p in dear["points"] if p["epsilon"] != 4.0]
    fronts = [build("frontier", run, one, [], "", []) for one in (frontier, dear)]
    facts = compared(*fronts)
    validate(facts)
    [auroc] = [one for one in facts["comparison"]["measures"] if one["key"] == "auroc"]
    points = {one["label"]: [cell["way"] for cell in one["cells"]] for one in auroc["rows"]}
    assert points["Local noise, epsilon 1"] == ["reference", "same"]
    assert points["Local noise, epsilon 4"] == ["reference", "absent"]
    assert check_page(render(facts), facts) > 100
    failing = test_audit.facts(test_audit.failing("gate", "sampler"))
    facts = compared(test_audit.facts(test_audit.audit()), failing)
    validate(facts)
    assert "verdict" in about(facts)
    checks = {
        one["key"]: [c["value"] for c in one["cells"]] for one in facts["comparison"]["checks"]
    }
    assert checks["sampler"] == ["passed", "failed"]
    assert check_page(render(facts), facts) > 40
    with pytest.raises(
        ConfigurationError, match=r"kinds differ: run 0 \(frontier\), run 1 \(run\)"
    ):
        compared(fronts[0], report_of(run))


def test_two_to_eight_reports_compare(run: Facts) -> None:
    one = report_of(run)
    assert compared(*[one] * 8)["title"] == "8 runs side by side"
    for count in (1, 9):
        with pytest.raises(ConfigurationError, match="takes 2 to 8"):
            compared(*[one] * count)
    with pytest.raises(ConfigurationError, match="run 1 holds no run"):
        compared(one, compared(one, one))
    with pytest.raises(ConfigurationError, match=r"run 1: its report\.json is no report"):
        compared(one, {"schema_version": 1})


def test_every_figure_of_the_page_is_bound_and_explained(run: Facts, other: Facts) -> None:
    facts = compared(report_of(run), report_of(other))
    html = render(facts)
    assert check_page(html, facts) > 60
    for match in list(re.finditer(r"<data [^>]*>([^<]+)</data>", html))[::5]:
        with pytest.raises(VerificationError, match="the page says"):
            check_page(html[: match.start(1)] + "7" + html[match.start(1) :], facts)
    for line in re.findall(r"<tr class=\"(?:differs|even)\">(.*?)</tr>", html, flags=re.S):
        assert "<data" not in line or 'href="#how-' in line.partition("</th>")[0]


def test_figures_that_differ_never_look_the_same(run: Facts) -> None:
    facts = compared(report_of(run), report_of(run | {"epsilon_spent": 0.99995 * 0.9975}))
    html = render(facts, sections=["summary"])
    [cells] = re.findall(r">epsilon</a></th>(.*?)</tr>", html)
    shown = re.findall(r"<data [^>]*>([^<]*)</data>", cells)
    assert len(set(shown)) == 2


@given(st.floats(0.001, 1e6), st.floats(-1, 1))
def test_ways_are_those_of_the_numbers(value: float, share: float) -> None:
    moved = value * (1 + share)
    expected = "same" if abs(moved - value) <= 1e-4 * max(value, moved) else ""
    assert way(value, moved) == (expected or ("more" if moved > value else "less"))
    assert row("x", [value, value])["same"]


def _struck(report: Facts, draw: st.DrawFn) -> Facts:
    """Lose or replace parts of a report at random places, settings and lists included."""
    report = copy.deepcopy(report)
    for _ in range(draw(st.integers(0, 4))):
        place: Any = report
        for _ in range(draw(st.integers(0, 3))):
            inside = list(place.values()) if isinstance(place, dict) else place
            deeper = [item for item in inside if isinstance(item, dict | list) and item]
            if not deeper:
                break
            place = draw(st.sampled_from(deeper))
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = draw(st.sampled_from(keys))
        if key in ("schema_version", "kind"):
            continue
        if draw(st.booleans()) and isinstance(place, dict):
            del place[key]
        else:
            place[key] = draw(ODD)
    return report


@st.composite
def struck(draw: st.DrawFn, report: Facts) -> Facts:
    return _struck(report, draw)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data(), st.sampled_from(["run", "frontier", "audit"]))
def test_odd_facts_make_a_page_all_the_same(
    run: Facts, frontier: Facts, data: st.DataObject, kind: str
) -> None:
    if kind == "audit":
        whole = test_audit.facts(test_audit.audit())
    else:
        whole = build(kind, run, frontier if kind == "frontier" else None, [], CONFIG, [])
    whole = json.loads(json.dumps(whole))
    odd = data.draw(struck(whole))
    runs = [
        Compared(name="a", report=whole, digest="0"),
        Compared(name="b", report=odd, digest="1"),
    ]
    facts = build_comparison(runs if data.draw(st.booleans()) else runs[::-1])
    facts = json.loads(json.dumps(facts, allow_nan=False))
    validate(facts)
    html = render(facts)
    Page(html)
    check_page(html, facts)


@pytest.mark.parametrize("place", ["name", "assumption", "configuration", "site", "event"])
def test_hostile_words_stay_words(run: Facts, other: Facts, place: str) -> None:
    if place == "assumption":
        other["assumptions"] = [HOSTILE]
    if place == "site":
        other["sites"][0]["site"] = HOSTILE
    if place == "event":
        other["charges"][0]["event"] = HOSTILE
    config = json.dumps({"data": {HOSTILE: HOSTILE}}) if place == "configuration" else ""
    reports = [report_of(run), build("run", other, None, [], config, [])]
    names = ["first", HOSTILE if place == "name" else "second"]
    facts = build_comparison(
        [Compared(name=n, report=r, digest="0") for n, r in zip(names, reports, strict=True)]
    )
    page = Page(render(facts))
    assert not {"script", "img"} & set(page.tags)
    assert HOSTILE in Page(said(facts)).words


def test_a_frontier_says_every_trust_of_its_points(run: Facts, frontier: Facts) -> None:
    frontier["points"] += [point | {"trust": "distributed"} for point in frontier["points"]]
    report = build("frontier", run, frontier, [], "", [])
    assert report["trusts"] == ["distributed", "local"]


def by_group(source: str) -> Facts:
    charged = {"source": "charged", "noise_std": 9.0} if source == "charged" else {}
    groups = test_subgroups.group("Female", 300, 0.625), test_subgroups.group("Male", 9, None)
    return test_subgroups.entry(*groups) | charged


def test_subgroups_stand_side_by_side(run: Facts) -> None:
    run |= {"utility_source": "charged"}
    facts = compared(report_of(run | {"subgroups": [by_group("charged")]}), report_of(run))
    validate(facts)
    assert "subgroups" in about(facts)
    [column] = facts["comparison"]["subgroups"]
    assert column["sources"] == ["charged", None]
    rows = {(row["label"], row["key"]): row["cells"] for row in column["rows"]}
    assert [c["value"] for c in rows["Female", "auroc"]] == [0.625, "not evaluated"]
    assert [c["value"] for c in rows["Male", "auroc"]] == [None, "not evaluated"]
    assert {cells[1]["way"] for cells in rows.values()} == {"absent"}
    html = render(facts)
    assert check_page(html, facts)
    words = Page(html).words
    assert "Subgroups by which utility was charged differ: A sex, B none." in words
    assert "Female: Share flagged" in words
    assert 'href="#how-subgroups-charged"' in html
    exact = report_of(run | {"subgroups": [by_group("exact")]})
    assert "subgroups" not in about(compared(exact, report_of(run)))


@pytest.mark.parametrize(
    ("sources", "how", "said"),
    [
        (("exact", "exact"), "utility-exact", False),
        (("charged", "charged"), "utility-charged", True),
        (("exact", "charged"), "compared", True),
    ],
)
def test_utility_leads_to_how_it_came_about(
    run: Facts, sources: tuple[str, str], how: str, said: bool
) -> None:
    facts = compared(*(report_of(run | {"utility_source": source}) for source in sources))
    html = render(facts, sections=["figures"])
    assert f'<a class="how" href="#how-{how}">AUROC</a>' in html
    assert ("Estimates from noisy releases" in html) == said


def test_keys_of_the_configuration_are_readable(run: Facts) -> None:
    configs = [f"evaluation:\n  subgroups: [{name}]\n" for name in ("地域", "性別")]
    facts = compared(*(build("run", run, None, [], config, []) for config in configs))
    [row] = facts["comparison"]["configuration"]
    assert [cell["value"] for cell in row["cells"]] == ['["地域"]', '["性別"]']
