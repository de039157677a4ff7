from __future__ import annotations

import json
import math
import re
from html import escape
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dp_risk.report import build, render
from dp_risk.types import ConfigurationError

from .pages import Page, said

Facts = dict[str, Any]
HOSTILE = "\"><script>alert(1)</script><img src=x onerror='a'>&"


def test_a_run_report_has_every_section(
    run: Facts, shapes: list[Facts], rounds: list[Facts]
) -> None:
    report = build("run", run, None, shapes, "data:\n  name: spambase\n", rounds)
    page = Page(render(report))
    assert page.sections == [
        *("summary", "claim", "charges", "sites", "limits", "utility", "review", "shapes"),
        *("training", "configuration", "methods", "glossary"),
    ]
    assert "at most a factor e^1.00 (2.72), plus at most 1e-05" in page.words
    assert "one record at one site" in page.words
    assert "spambase" in page.words
    assert "60 x Gaussian(11.4)" in page.words
    assert "not private" not in page.words


def test_a_frontier_report_says_what_its_points_are(run: Facts, frontier: Facts) -> None:
    page = Page(render(build("frontier", run | {"sites": []}, frontier, [], "", [])))
    assert "fresh simulated ledger" in page.words
    assert "public data" in page.words
    assert "do not compose to one number for a real site" in page.words
    for label in ("Local noise", "No noise", "Pooled logistic", "Gradient boosting"):
        assert label in page.words
    assert "One site alone 0.600 ↓" in page.words
    assert page.tags.count("svg") == 4


def test_the_frontier_summary_is_the_mean_over_seeds(run: Facts, frontier: Facts) -> None:
    facts = build("frontier", run, frontier, [], "", [])["frontier"]
    assert [line["label"] for line in facts["series"]] == ["Local noise", "Pooled, with DP"]
    first = facts["series"][0]["points"][0]
    assert first["epsilon"] == 0.5
    assert first["auroc"]["mean"] == pytest.approx(0.955)
    assert (first["auroc"]["min"], first["auroc"]["max"]) == pytest.approx((0.953, 0.957))
    half = 4.302653 * 0.002 / math.sqrt(3)  # Student's t, 2 degrees of freedom
    assert first["auroc"]["high"] == pytest.approx(0.955 + half, abs=1e-6)


def test_stored_baselines_say_where_they_come_from(run: Facts, frontier: Facts) -> None:
    frontier["baselines"].append(
        {"name": "dp_ebm", "epsilon": 1.0, "seed": 0, "auroc": 0.95, "auprc": 0.9}
    )
    without = Page(render(build("frontier", run, frontier, [], "", [])))
    assert "stored with dp-risk" not in without.words
    made = {"command": "python benchmarks/x.py --out <y>", "versions": {"interpret-core": "0.7.8"}}
    frontier["stored"] = [{"name": "dp_ebm", **made}]
    page = Page(render(build("frontier", run, frontier, [], "", [])))
    assert "DP-EBM, all data in one place: not run here" in page.words
    assert "python benchmarks/x.py --out <y> (interpret-core 0.7.8)" in page.words
    assert "DP-EBM, all data in one place 0.950" in page.words


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"randomness": "seeded"}, "Randomness is seeded"),
        ({"randomness": None}, "not recorded"),
        ({"trust": "none"}, "Trust is none"),
        ({"trust": "full"}, "not known"),
    ],
)
def test_a_run_without_privacy_says_so(run: Facts, change: Facts, reason: str) -> None:
    page = Page(render(build("run", run | change, None, [], "", [])))
    assert "This run is not private" in page.words
    assert reason in page.words
    assert "No differential privacy is claimed" in page.words


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"unit": "account"}, "all records of one account"),
        ({"trust": "distributed", "max_colluding": 2}, "up to 2 colluding sites"),
        ({"trust": "central"}, "not against the server"),
        ({"epsilon_spent": None}, "no differential privacy is claimed"),
        ({"epsilon_spent": 1.0001}, "e^1.01"),
        ({"epsilon_spent": 900.0}, "e^900.00"),
    ],
)
def test_the_claim_follows_the_facts(run: Facts, change: Facts, words: str) -> None:
    assert words in " ".join(build("run", run | change, None, [], "", [])["claim"])


def test_null_utility_has_its_sentence(run: Facts) -> None:
    page = Page(render(build("run", run | {"utility": None}, None, [], "", [])))
    assert "No utility: the sites' data is not public and no estimate was charged." in page.words


def test_equal_charges_of_sites_are_one_row(run: Facts) -> None:
    charges = build("run", run | {"charges": run["charges"] * 2}, None, [], "", [])["charges"]
    assert [charge["times"] for charge in charges] == [2, 2]
    assert sum(charge["share"] for charge in charges) == pytest.approx(1.0)


def test_only_the_widest_shapes_are_drawn(run: Facts) -> None:
    shapes = [
        {"feature": f"f{i}", "kind": "linear", "x": [0.0, 1.0], "y": [0.0, float(i)]}
        for i in range(20)
    ]
    report = build("run", run, None, shapes, "", [])
    assert [s["feature"] for s in report["shapes"][:2]] == ["f19", "f18"]
    html = render(report, sections=["shapes"])
    assert html.count("<svg") == 12
    assert "f0" in Page(html).words


def test_the_page_asks_for_nothing(
    run: Facts, frontier: Facts, shapes: list[Facts], rounds: list[Facts]
) -> None:
    html = render(build("frontier", run, frontier, shapes, "", rounds))
    assert not re.search(r"https?:|//[a-z]|url\(|@import|\bsrc=|\bhref=\"[^#]", html)
    assert not {"script", "link", "img", "iframe", "object"} & set(Page(html).tags)


def test_plots_have_names_and_tables(
    run: Facts, frontier: Facts, shapes: list[Facts], rounds: list[Facts]
) -> None:
    html = render(build("frontier", run, frontier, shapes, "", rounds))
    assert all("aria-label=" in tag for tag in re.findall(r"<svg[^>]*>", html))
    names = "frontier|sites|shapes|training"
    blocks = re.findall(rf'<section id="(?:{names})".*?</section>', html, flags=re.S)
    assert len(blocks) == 4
    for block in blocks:
        assert "<svg" in block
        assert block.index("<svg") < block.index("<details")


def _poison(value: Any, poison: str) -> Any:
    if isinstance(value, dict):
        return {key: _poison(item, poison) for key, item in value.items()}
    if isinstance(value, list):
        return [_poison(item, poison) for item in value]
    return poison if isinstance(value, str) and value not in ("linear", "bins") else value


@given(poison=st.one_of(st.just(HOSTILE), st.text(min_size=1, max_size=30)))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_hostile_strings_stay_text(
    run: Facts, frontier: Facts, shapes: list[Facts], rounds: list[Facts], poison: str
) -> None:
    clean = Page(render(build("frontier", run, frontier, shapes, "a", rounds)))
    facts = (_poison(run, poison), _poison(frontier, poison), _poison(shapes, poison))
    facts[0]["versions"][poison] = poison
    report = build("frontier", *facts, poison, rounds)
    page = Page(render(json.loads(json.dumps(report))))
    assert set(page.tags) <= set(clean.tags) | {"p", "aside", "strong"}
    assert {name for name, _ in page.attributes} <= {name for name, _ in clean.attributes}


def test_json_holds_no_nan(
    run: Facts, frontier: Facts, shapes: list[Facts], rounds: list[Facts]
) -> None:
    run["utility"]["auroc"] = {"value": math.nan, "low": math.nan, "high": math.inf}
    run["epsilon_lifetime"] = math.inf
    frontier["points"][0]["auroc"] = math.nan
    frontier["baselines"][0]["auprc"] = np.float32("nan")
    shapes[0]["y"] = np.array([math.nan, 1.0, -math.inf])
    rounds[0]["auprc"] = None
    rounds[1]["auprc"] = math.nan
    report = build("frontier", run, frontier, shapes, "", rounds)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    html = render(report)
    assert not re.search(r"\bnan\b|\binf\b", Page(html).words, re.IGNORECASE)
    assert "nan" not in "".join(re.findall(r"<svg.*?</svg>", html)).lower()


@pytest.mark.parametrize("kind", ["run", "frontier"])
def test_almost_nothing_is_enough(kind: str) -> None:
    empty: Facts | None = {} if kind == "frontier" else None
    Page(render(build(kind, {}, empty, [], "", [])))


def test_one_point_one_site_one_round(run: Facts) -> None:
    point = {"trust": "local", "model": "mlp", "epsilon": 1.0, "seed": 0, "auroc": 0.9}
    shape = {"feature": "a", "kind": "bins", "x": ["x"], "y": [0.0]}
    one_round = {"round": 1, "epsilon_spent": 0.0, "auprc": None, "seconds": None}
    page = Page(render(build("frontier", run, {"points": [point]}, [shape], "", [one_round])))
    assert "Local noise 0.900" in page.words


def test_many_sites_and_models(run: Facts) -> None:
    site = run["sites"][0] | {"epsilon_lifetime_budget": 10.0}
    run["sites"] = [site | {"site": f"region {'x' * i} {i}"} for i in range(120)]
    points = [
        {"trust": t, "model": m, "epsilon": e, "seed": 0, "auroc": 0.9, "auprc": 0.9}
        for t in ("local", "distributed")
        for m in ("additive", "mlp", "a" * 60)
        for e in (1.0, 2.0)
    ]
    page = Page(render(build("frontier", run, {"points": points}, [], "", [])))
    assert "Drawn: the 40 sites with least left." in page.words
    assert "Trust: local." in page.words
    assert "Trust: distributed." in page.words


def test_a_sheet_names_its_run_and_no_name_ends_the_style(run: Facts) -> None:
    name = 'a"b\\ </style>\né'
    report = build("run", run | {"run": "b1cc"}, None, [], "", [])
    report["subject"] = name
    html = render(report)
    written = r"a\22 b\5c  \3c \2f style\3e \a \e9 , b1cc"
    assert f'content: "Privacy report of a run: {written}"; }}' in html
    assert html.count("</style>") == 1
    assert f"<title>Privacy report of a run: {escape(name)}, b1cc</title>" in html


def test_sections_can_be_chosen(run: Facts) -> None:
    report = build("run", run, None, [], "", [])
    assert 'id="utility"' not in render(report, sections=["summary", "limits"])
    with pytest.raises(ConfigurationError, match=r"report\.sections"):
        render(report, sections=["nothing"])


def test_what_cannot_be_reported_is_refused(run: Facts) -> None:
    with pytest.raises(ConfigurationError, match="kind"):
        build("audit", run, None, [], "", [])
    with pytest.raises(ConfigurationError, match=r"frontier\.json"):
        build("frontier", run, None, [], "", [])
    with pytest.raises(ConfigurationError, match="unequal length"):
        build("run", run, None, [{"feature": "a", "x": [1.0], "y": []}], "", [])
    with pytest.raises(ConfigurationError, match="schema_version 3"):
        render(build("run", run, None, [], "", []) | {"schema_version": 3})


def test_a_report_says_how_many_rounds_were_lost_and_what_spares_cost(run: Facts) -> None:
    shared = {"trust": "distributed", "max_colluding": 1, "rounds": 100, "spare_rounds": 21}
    quiet = Page(render(build("run", run | shared, None, [], "", [])))
    assert "No round was lost with a site. The plan held 21 spare rounds" in quiet.words
    assert "makes the noise of training 10.0% larger" in quiet.words
    lossy = run | shared | {"rounds_abandoned": 3, "answers_lost": 4, "q": 0.1}
    page = Page(render(build("run", lossy, None, [], "", [])))
    assert "3 rounds were lost with a site (4 training answers did not come)" in page.words
    assert "noise of training" not in page.words
    assert "lost with a site" not in said(build("run", run, None, [], "", []))
    one = Page(render(build("run", run | shared | {"spare_rounds": 1}, None, [], "", [])))
    assert "The plan held 1 spare round of training" in one.words


def test_a_report_of_a_secure_sum_says_who_is_needed(run: Facts) -> None:
    def words(**facts: Any) -> str:
        return Page(said(build("run", run | facts, None, [], "", []))).words

    shared = {"trust": "distributed", "max_colluding": 1, "rounds": 100, "spare_rounds": 21}
    found = words(**shared)
    assert "over the sites of a round, at least 2, and everyone else only the model" in found
    assert "up to 1 colluding site." in found
    assert "spare rounds21" in found
    assert "sites needed2 of 3" in found
    assert "none may stay away" not in found
    assert "Units: training units, declared or released with noise" in found
    assert "3 of 3: none may stay away" in words(**shared, min_sites=3)
    private = [site | {"units": None} for site in run["sites"]]
    assert "Units: only their sum over all sites was released" in words(**shared, sites=private)
    assert "spare rounds" not in words(spare_rounds=0).replace("spare rounds included", "")


def test_a_run_over_simulated_sites_says_so(run: Facts) -> None:
    alone = "one person held all their rows and keys"
    assert alone in " ".join(build("run", run | {"simulated": True}, None, [], "", [])["claim"])
    assert alone not in " ".join(build("run", run, None, [], "", [])["claim"])
