"""`dp-risk report --audit`: an audit in a run's folder and report, and what `verify` says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dp_risk.cli import artefacts, manifest
from tests.report.test_audit import audit, failing

from .conftest import Run
from .test_evidence import STRANGER, folder, made

__all__ = ["folder", "made"]


def audited(place: Path, found: dict[str, Any]) -> Path:
    """Return the folder of an audit of the run's trainer."""
    place.mkdir()
    found["evidence"]["subject"] |= {"trust": "local", "unit": "record", "model": "additive"}
    (place / "audit.json").write_text(json.dumps(found, indent=2) + "\n")
    (place / "config.yaml").write_text("data: {name: mine}\n")
    artefacts.write_audit_report(place, html=True)
    manifest.sign(place)
    return place


@pytest.fixture
def with_audit(run: Run, folder: Path, tmp_path: Path) -> Path:
    """The run's folder with an audit of the same trainer."""
    said = run("report", folder, "--audit", audited(tmp_path / "audit", audit()))
    assert said.code == 0, said.err
    # The run claims another epsilon than the audit looked at.
    assert "verdict: another claim not falsified\nThe audit was of epsilon 1.00" in said.out
    assert "The audit released none of: evaluation, bins of the scores; evaluation, " in said.out
    return folder


def test_an_audit_in_a_runs_folder_is_checked_like_any_other(run: Run, with_audit: Path) -> None:
    said = run("verify", with_audit)
    assert said.code == 0, said.err
    assert "its audit: the audit's verdict: claim not falsified" in said.out
    assert "its audit: report.json holds against its own signature" in said.out
    for path in (path for path in sorted(with_audit.rglob("*")) if path.is_file()):
        whole = path.read_bytes()
        path.write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])
        assert run("verify", with_audit).code == 5, path
        path.write_bytes(whole)


def test_a_falsified_claim_stays_falsified(run: Run, folder: Path, tmp_path: Path) -> None:
    bad = audited(tmp_path / "bad", failing("sensitivity", "sampler"))
    said = run("report", folder, "--audit", bad)
    assert (said.code, said.line) == (5, "dp-risk: claim falsified: sensitivity, sampler")
    assert "verdict: falsified" in said.out
    # The folder holds, and what it holds is that the claim does not.
    for words in ((), ("--json",)):
        said = run("verify", folder, *words)
        assert (said.code, said.line) == (5, "dp-risk: claim falsified: sensitivity, sampler")
        assert "figures of report.html are those of report.json" in said.out
    assert run("verify", bad).code == 5
    before = (folder / "report.json").read_bytes()
    said = run("report", folder, "--audit", audited(tmp_path / "good", audit()))
    assert said.code == 3
    assert "another audit does not undo that" in said.line
    assert (folder / "report.json").read_bytes() == before
    assert run("report", folder).code == 0


def confirmed(found: dict[str, Any]) -> None:
    found["verdict"] = "confirmed"


def unchecked(found: dict[str, Any]) -> None:
    found["checks"] = []


def softened(found: dict[str, Any]) -> None:
    found["checks"][0]["passed"] = False


def leaky(found: dict[str, Any]) -> None:
    found["gate"]["epsilon_lower_bound"] = 2 * found["claimed_epsilon"]


@pytest.mark.parametrize("lie", [confirmed, unchecked, softened, leaky])
def test_a_verdict_follows_from_the_checks(run: Run, tmp_path: Path, lie: Any) -> None:
    place = audited(tmp_path / "audit", audit())
    found = json.loads((place / "audit.json").read_text())
    lie(found)
    (place / "audit.json").write_text(json.dumps(found))
    artefacts.write_audit_report(place, html=True)
    manifest.sign(place)
    assert run("verify", place).code == 5


def test_an_audit_of_an_older_form_is_not_taken(run: Run, folder: Path, tmp_path: Path) -> None:
    place = audited(tmp_path / "audit", audit())
    report = json.loads((place / "report.json").read_text())
    del report["signature"], report["files"]
    (place / "report.json").write_text(json.dumps(report | {"schema_version": 1}))
    (place / "report.html").unlink()
    manifest.sign(place)
    said = run("report", folder, "--audit", place)
    assert said.code == 2
    assert "older version" in said.line


@pytest.mark.parametrize(
    "name", ["audit/report.html", "audit/manifest.json", "ledgers/site-00.json"]
)
def test_only_the_page_itself_is_drawn_again(run: Run, with_audit: Path, name: str) -> None:
    (with_audit / name).write_text("{}")
    said = run("report", with_audit)
    assert said.code == 5
    assert f"{name}: changed" in said.line
    # Whoever signs it again nevertheless is caught.
    manifest.sign(with_audit, STRANGER)
    assert run("verify", with_audit).code == 5
    (with_audit / name).unlink()
    manifest.sign(with_audit, STRANGER)
    assert run("verify", with_audit).code == 5
