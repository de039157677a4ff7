"""Reports that earlier versions wrote are read: golden/KIND-VERSION.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dp_risk.report import SCHEMA_VERSION, render
from dp_risk.report.facts.upgrade import upgrade
from dp_risk.report.facts.validation import validate
from dp_risk.report.page.reading import check_page
from tests.report.pages import Page

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.json"))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_report_of_an_earlier_version_is_read(path: Path) -> None:
    old = json.loads(path.read_text())
    assert old["schema_version"] == int(path.stem.rpartition("-")[2]) < SCHEMA_VERSION
    new = upgrade(old)
    validate(new)
    html = render(old)
    assert check_page(html, new) > 40
    words = Page(html).words
    for said in old["claim"]:
        assert said in words
    kept = {k: v for k, v in old.items() if k not in ("schema_version", "audit", "frontier")}
    assert {name: new[name] for name in kept} == kept


def test_there_is_a_golden_file_of_every_kind() -> None:
    assert {path.stem for path in GOLDEN} == {"run-1", "frontier-1", "audit-1"}
