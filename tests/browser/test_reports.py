"""Reports as a reader meets them: on a screen, a phone and paper, in the dark, by keyboard."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from dp_risk.report import build, render
from tests import federation
from tests.browser import checks
from tests.browser.chromium import Tab
from tests.browser.conftest import Show
from tests.browser.samples import SAMPLES, Parts
from tests.report.conftest import frontier, rounds, run, shapes  # noqa: F401
from tests.report.test_charged import estimates  # noqa: F401

pytestmark = pytest.mark.browser

Facts = dict[str, Any]
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
MADE = "by the command line"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report of a run over private rows, by the command line."""
    folder = tmp_path_factory.mktemp("made")
    pq.write_table(federation.rows(), folder / "tiny.parquet")
    (folder / "tiny.schema.yaml").write_text(yaml.safe_dump(federation.SCHEMA, sort_keys=False))
    asked = ["data=file", "data.path=tiny.parquet", "data.schema=tiny.schema.yaml"]
    asked += ["data.delta=1e-5", "partition=iid", "federation.sites=2", "federation.rounds=3"]
    root = str(Path(__file__).parents[2])
    subprocess.run(
        [
            *(sys.executable, "-c", "from dp_risk.cli.main import main; main()"),
            *("train", "privacy.epsilon=2", *asked, "run.dir=out"),
        ],
        cwd=folder,
        env=os.environ | {"XDG_CONFIG_HOME": str(folder / "config"), "PYTHONPATH": root},
        check=True,
        timeout=300,
    )
    return (folder / "out" / "report.html").read_text(encoding="utf-8")


@pytest.fixture(params=[*SAMPLES, MADE])
def report(
    request: pytest.FixtureRequest,
    show: Show,
    run: Facts,  # noqa: F811
    frontier: Facts,  # noqa: F811
    shapes: list[Facts],  # noqa: F811
    rounds: list[Facts],  # noqa: F811
    estimates: Facts,  # noqa: F811
) -> Tab:
    """Each report in turn, in the browser."""
    if request.param == MADE:
        return show(request.getfixturevalue("made"))
    parts = Parts(run=run, frontier=frontier, shapes=shapes, rounds=rounds, estimates=estimates)
    return show(render(SAMPLES[request.param](parts)))


@pytest.mark.smoke
def test_a_report_is_drawn_and_asks_for_nothing(show: Show, run: Facts) -> None:  # noqa: F811
    tab = show(render(build("run", run, None, [], "", [])))
    assert checks.quiet(tab) + checks.plots(tab) + checks.ask(tab, "links") == []


def test_it_says_and_asks_for_nothing(report: Tab) -> None:
    assert checks.quiet(report) + checks.ask(report, "links") == []


LOOKS: list[Facts] = [
    {"width": width, "prefers_color_scheme": scheme}
    for width in (checks.WIDE, checks.PHONE)
    for scheme in ("light", "dark")
]


def test_every_plot_is_drawn_and_read(report: Tab) -> None:
    for look in LOOKS:
        report.emulate(**look)
        assert checks.plots(report) + checks.ask(report, "swatches") == [], look


def test_it_fits_the_screen(report: Tab) -> None:
    _unfold(report)
    for width in (checks.WIDE, 768, checks.PHONE, 320):
        report.emulate(width)
        assert checks.ask(report, "fits") + checks.ask(report, "cells") == [], width


def test_axe_finds_nothing(report: Tab, axe_core: str) -> None:
    _unfold(report)
    for look in LOOKS[:3]:  # the colours of a dark phone are those of a dark desk
        report.emulate(**look)
        assert checks.axe(report, axe_core) == [], look


def test_forced_colours_keep_what_colours_say(report: Tab) -> None:
    for scheme in ("light", "dark"):
        report.emulate(checks.WIDE, forced_colors="active", prefers_color_scheme=scheme)
        assert checks.plots(report) + checks.ask(report, "swatches") == [], scheme


def test_a_keyboard_reaches_everything(report: Tab) -> None:
    assert checks.keyboard(report) == []


def test_a_keyboard_reaches_everything_on_a_narrow_screen(report: Tab) -> None:
    report.emulate(checks.PHONE)
    assert checks.keyboard(report) == []


def test_it_prints_whole(report: Tab) -> None:
    assert 1 <= checks.pages(report.pdf()) <= 40
    report.emulate(checks.PAPER, media="print", prefers_color_scheme="dark")
    complaints = [said for name in ("whole", "cells", "muted") for said in checks.ask(report, name)]
    assert complaints + checks.plots(report) == []
    assert (
        report.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    )


@pytest.mark.parametrize("name", ["demo", "lost_site", "falsified"])
def test_the_first_page_of_an_example_is_one_sheet(show: Show, name: str) -> None:
    facts = json.loads((EXAMPLES / name / "report.json").read_text(encoding="utf-8"))
    assert checks.pages(show(render(facts, sections=["summary"])).pdf()) == 1


def _unfold(tab: Tab) -> None:
    tab.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
