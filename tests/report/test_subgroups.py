"""What a report says of subgroups."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dp_risk.report import build, render
from dp_risk.report.facts.validation import validate
from dp_risk.report.page.reading import check_page
from dp_risk.report.sections.subgroups import DRAWN, METRICS

from .pages import Page

Facts = dict[str, Any]
NONE = {"value": None, "low": None, "high": None}
HOSTILE = "\"><script>alert(1)</script><img src=x onerror='a'>&"


def group(
    value: str | None, units: int, at: float | None = 0.5, reason: str | None = None
) -> Facts:
    known = NONE if at is None else {"value": at, "low": at - 0.1, "high": at + 0.1}
    found = {"units": units, "positives": units // 3, "reason": reason}
    named = found | {"metrics": dict.fromkeys(METRICS, known)}
    return named if value is None else {"value": value} | named


def entry(*groups: Facts, column: str = "sex") -> Facts:
    return {
        "column": column,
        "source": "exact",
        "capacity": 0.2,
        "threshold": 0.42881,
        "overall": group(None, sum(g["units"] for g in groups)),
        "groups": list(groups),
    }


def shown(run: Facts, *entries: Facts, **more: Any) -> tuple[Page, str, Facts]:
    report = build("run", run | {"subgroups": list(entries)} | more, None, [], "", [])
    # As it is read back from the file.
    report = json.loads(json.dumps(report, allow_nan=False))
    html = render(report, sections=["subgroups"])
    return Page(html), html, report


def test_groups_stand_beside_each_other_and_every_figure_is_bound(run: Facts) -> None:
    groups = entry(group("Female", 300, 0.625), group("Male", 700, 0.375))
    page, html, report = shown(run, groups)
    for words in ("By sex", "Female", "Male", "0.4288", "the highest 20\xa0% of all", "0.625"):
        assert words in page.words, words
    # Each group: units and positives once, every metric once and three times in the fold.
    assert check_page(html, report) >= 3 * (2 + 4 * len(METRICS)) + 2
    assert page.tags.count("svg") == 2
    titles = html.count("<title>Female, AUROC: 0.625 (0.525 to 0.725)</title>")
    assert titles == 2  # wide and narrow
    assert "left out" not in page.words


def test_charged_groups_say_what_noise_they_hold_and_how_they_were_estimated(run: Facts) -> None:
    groups = entry(group("Female", 300), group("Male", 9, None, "few_units"))
    groups |= {"source": "charged", "noise_std": 48.9, "sites": 5}
    page, html, report = shown(run, groups)
    for words in (
        "noisy histograms of the held-out units, charged like everything else",
        "The noise in a group's units has a standard deviation of 49, that in its positives",
        "does not stand out of the noise",
        "left out for Male: fewer than 20 units, or too few to stand out of the noise.",
    ):
        assert words in page.words, words
    assert "AUPRC" not in page.words
    assert 'href="#how-subgroups-charged"' in html
    assert 'href="#how-subgroups"' not in html
    assert check_page(html, report) > 0
    validate(report)


def test_a_changed_figure_is_noticed(run: Facts) -> None:
    _, html, report = shown(run, entry(group("Female", 300, 0.625)))
    changed = copy.deepcopy(report)
    changed["subgroups"][0]["groups"][0]["metrics"]["auroc"]["low"] = 0.6
    with pytest.raises(Exception, match="/subgroups/0/groups/0/metrics/auroc/low"):
        check_page(html, changed)


def test_a_group_without_figures_says_why(run: Facts) -> None:
    page, html, _ = shown(run, entry(group("a", 300), group("b", 7, None, "few_units")))
    assert "Figures are left out for b: fewer than 20 units." in page.words
    assert "b, AUROC" not in html
    assert "nan" not in html.lower()


def test_groups_that_are_all_unknown_make_a_page(run: Facts) -> None:
    nobody = entry(group("a", 0, None, "few_units"))
    nobody["overall"] = group(None, 0, None, "few_units")
    page, _, _ = shown(run, nobody)
    assert "unknown in all groups" in page.words


def test_of_many_groups_the_largest_are_drawn(run: Facts) -> None:
    groups = [group(f"group {i}", 100 + i) for i in range(DRAWN + 10)]
    page, html, _ = shown(run, entry(*groups))
    assert f"the {DRAWN} groups with most units" in page.words
    assert f"Table of all {DRAWN + 10} groups" in page.words
    assert "<title>group 9, AUROC" not in html
    assert "<title>group 10, AUROC" in html


def test_names_are_only_text(run: Facts) -> None:
    page, html, report = shown(run, entry(group(HOSTILE, 50), column=HOSTILE))
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert page.words.count("alert(1)") >= 3
    assert check_page(html, report) > 0


def test_without_subgroups_the_record_says_why(run: Facts) -> None:
    why = "not evaluated by subgroup: nothing was charged for it"
    page, _, _ = shown(run, subgroups_note=why)
    assert f"{why}." in page.words
    older, _, _ = shown(run)
    assert older.sections == []


def test_records_of_accounts_are_called_so(run: Facts) -> None:
    page, _, _ = shown(run, entry(group("a", 300)), unit="account")
    assert "Measured on held-out records" in page.words


@given(
    names=st.lists(st.text(max_size=40), min_size=1, max_size=6),
    at=st.one_of(st.none(), st.floats(-1, 1)),
)
@settings(
    deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_names_and_values_make_a_whole_page(
    run: Facts, names: list[str], at: float | None
) -> None:
    page, html, report = shown(run, entry(*(group(name, 50, at) for name in names)))
    validate(report)
    assert check_page(html, report) > 0
    assert page.tags.count("svg") == 2


def test_a_rate_below_the_last_decimal_is_printed_as_such(run: Facts) -> None:
    page, html, report = shown(run, entry(group("a", 300, 0.000103), group("b", 300, 0.0)))
    assert "<0.001" in page.words
    assert "0.000103" not in page.words
    assert check_page(html, report) > 0
