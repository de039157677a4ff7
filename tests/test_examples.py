"""The filled examples of docs/examples hold, and say what docs/report.md says of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dp_risk.cli.verify import verify

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
# Name, trust, verdict.
NAMES = (
    ("demo", "local", "not falsified"),
    ("lost_site", "distributed", "not falsified"),
    ("falsified", "local", "falsified"),
)


def _report(name: str) -> dict[str, Any]:
    return dict(json.loads((EXAMPLES / name / "report.json").read_text()))


@pytest.mark.parametrize(("name", "trust", "verdict"), NAMES)
def test_an_example_holds(name: str, trust: str, verdict: str) -> None:
    found = verify(EXAMPLES / name, None)
    assert any("ledger statements hold" in line for line in found.checked)
    # `dp-risk report docs/examples/NAME` draws a page anew, `benchmarks/examples.py` makes it anew.
    assert any("byte for byte, the page" in line for line in found.checked)
    report = _report(name)
    assert report["settings"]["trust"] == trust
    assert report["summary"]["verdict"] == verdict
    assert all(report["review"].values())
    assert not list((EXAMPLES / name).rglob("*.key"))


def test_a_site_was_lost_and_rounds_with_it() -> None:
    report = _report("lost_site")
    assert report["settings"]["rounds_abandoned"] > 0
    assert report["losses"]["away"]
    assert report["utility_source"] == "charged"


def test_no_path_of_the_machine_that_made_them_is_in_them() -> None:
    for path in EXAMPLES.rglob("*"):
        if path.is_file() and path.suffix != ".safetensors":
            text = path.read_text()
            assert "/tmp/" not in text
            assert "/root/" not in text
            assert "/work/" not in text
