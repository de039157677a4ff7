"""Utility by subgroup: exact on public rows, charged elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dp_risk.evaluation.subgroups import GROUP_METRICS
from dp_risk.report.page.reading import check_page

from .conftest import Run

ASKED = "evaluation.subgroups=[kind,age]"


def record(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "run.json").read_text()))


def test_public_rows_are_evaluated_by_subgroup(run: Run, tmp_path: Path, public: list[str]) -> None:
    said = run("train", "privacy.epsilon=8", *public, ASKED, "run.dir=out")
    assert said.code == 0, said.err
    found = record(tmp_path / "out")
    kind, age = found["subgroups"]
    assert (kind["column"], age["column"]) == ("kind", "age")
    assert {"a", "b", "c"} <= {group["value"] for group in kind["groups"]}
    assert [group["value"] for group in age["groups"]][:2] == ["[0, 25)", "[25, 50)"]
    assert found["subgroups_note"] is None
    for entry in (kind, age):
        assert entry["source"] == "exact"
        for name in ("units", "positives"):
            assert sum(group[name] for group in entry["groups"]) == entry["overall"][name] > 0
        assert all(set(group["metrics"]) == set(GROUP_METRICS) for group in entry["groups"])
        # The same figure as for all units, from the same scores.
        overall = entry["overall"]["metrics"]["auroc"]["value"]
        assert overall in (None, found["utility"]["auroc"]["value"])
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["subgroups"] == found["subgroups"]
    html = (tmp_path / "out" / "report.html").read_text()
    assert 'data-fact="/subgroups/0/groups/0/units"' in html
    assert check_page(html, report) > 0
    assert run("verify", "out").code == 0


def test_a_record_says_why_it_has_none(
    run: Run, tmp_path: Path, public: list[str], private: list[str]
) -> None:
    for name, overrides, why in (
        ("unasked", public, "names no column"),
        ("private", [*private, "sites.dir=theirs"], "nothing was charged for it"),
        ("nobody", [*public, ASKED, "data.holdout=0"], "no public units are held out"),
    ):
        said = run("train", "privacy.epsilon=8", *overrides, f"run.dir={name}")
        assert said.code == 0, said.err
        found = record(tmp_path / name)
        assert found["subgroups"] == []
        assert why in found["subgroups_note"]
        # A section that says only that nobody asked would be no section.
        page = (tmp_path / name / "report.html").read_text()
        assert (why in page) == (name != "unasked")


def test_private_rows_are_evaluated_by_subgroup_at_a_charge(
    run: Run, tmp_path: Path, private: list[str]
) -> None:
    said = run("train", "privacy.epsilon=8", *private, ASKED, "run.dir=out")
    assert said.code == 0, said.err
    found = record(tmp_path / "out")
    charged = [charge["purpose"] for charge in found["charges"]]
    assert charged == ["counts", "training", "score_bins", "evaluation", "subgroups"]
    assert found["epsilon_spent"] <= 8.0
    assert [entry["column"] for entry in found["subgroups"]] == ["kind", "age"]
    for entry in found["subgroups"]:
        assert entry["source"] == "charged"
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["subgroups"] == found["subgroups"]
    html = (tmp_path / "out" / "report.html").read_text()
    assert 'data-fact="/subgroups/1/noise_std"' in html
    assert "evaluation, histograms by subgroup" in html
    assert "at no charge" not in html[html.index('<section id="subgroups"') :][:2000]
    assert check_page(html, report) > 0
    assert run("verify", "out").code == 0
    # What one site says was charged is what the report says.
    [site, *_] = sorted((tmp_path / "out" / "ledgers").iterdir())
    lines = json.loads(site.read_text())["statement"]["charges"]
    [line] = [line for line in lines if line["purpose"] == "subgroups"]
    assert line["rounds_reserved"] == line["rounds_paid"] == 2


def test_a_plan_prices_subgroups_without_touching_data(
    run: Run, tmp_path: Path, private: list[str], public: list[str]
) -> None:
    def noise(*overrides: str) -> list[dict[str, Any]]:
        assert run("plan", "privacy.epsilon=1", *overrides, "--out", "plan.json").code == 0
        return list(json.loads((tmp_path / "plan.json").read_text())["plans"])

    plain, grouped, exact = noise(*private), noise(*private, ASKED), noise(*public, ASKED)
    for before, after, free in zip(plain, grouped, exact, strict=True):
        assert before["subgroups_noise"] is None
        assert free["subgroups_noise"] is None
        assert after["subgroups_noise"] > after["evaluation_noise"] > before["evaluation_noise"]
        # Out of the evaluation's budget, although one account pays for everything here.
        assert after["sigma"] == pytest.approx(before["sigma"], rel=1e-6)
        assert after["epsilon_evaluation"] == pytest.approx(before["epsilon_evaluation"], rel=1e-6)
        for line in (before, after):
            assert 0.999 * line["epsilon"] < line["epsilon_run"] <= line["epsilon"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["privacy.allocation.evaluation=0"], "privacy.allocation.evaluation is 0"),
        (["data.holdout=0"], "data.holdout is 0"),
    ],
    ids=str,
)
@pytest.mark.parametrize("verb", [["plan"], ["train"], ["train", "-m", "seed=0,1"]])
def test_what_is_not_evaluated_has_no_subgroups(
    run: Run, tmp_path: Path, private: list[str], verb: list[str], overrides: list[str], words: str
) -> None:
    said = run(*verb, "privacy.epsilon=1", *private, ASKED, *overrides)
    assert said.code == 2
    assert "evaluation.subgroups: " in said.line
    assert words in said.line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("[nothing]", "no feature nothing"),
        ("[risk]", "no feature risk"),
        ("[kind,amount]", "amount is a number without bins"),
        ("[kind,kind]", "kind is named twice"),
        ("kind", "evaluation.subgroups"),
        ("null", "evaluation.subgroups"),
    ],
)
@pytest.mark.parametrize("verb", ["plan", "train", "frontier", "audit"])
def test_a_column_without_groups_is_refused(
    run: Run, tmp_path: Path, public: list[str], verb: str, asked: str, words: str
) -> None:
    said = run(verb, "privacy.epsilon=1", *public, f"evaluation.subgroups={asked}")
    assert said.code == 2
    assert words in said.line
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_frontier_has_the_subgroups_of_the_run_that_it_shows(
    run: Run, tmp_path: Path, public: list[str]
) -> None:
    points = ["frontier.epsilons=[1,8]", "frontier.seeds=[0]", "frontier.baselines=false"]
    said = run("frontier", *public, *points, ASKED, "run.dir=out")
    assert said.code == 0, said.err
    html = (tmp_path / "out" / "report.html").read_text()
    section = html[html.index('<section id="subgroups"') :]
    assert "Of one run: with epsilon" in section[:600]
    assert record(tmp_path / "out")["subgroups"][0]["column"] == "kind"
