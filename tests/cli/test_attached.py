"""`dp-risk report --audit`: an audit in a run's folder and report, and what `verify` says of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dp_risk.cli import artefacts, manifest
from tests.report.test_audit import audit

from .conftest import Run
from .test_evidence import STRANGER, folder, made

__all__ = ["folder", "made"]


@pytest.fixture
def with_audit(run: Run, folder: Path, tmp_path: Path) -> Path:
    """The run's folder with an audit of the same trainer."""
    other = tmp_path / "audit"
    other.mkdir()
    found = audit()
    found["evidence"]["subject"] |= {"trust": "local", "unit": "record", "model": "additive"}
    (other / "audit.json").write_text(json.dumps(found, indent=2) + "\n")
    (other / "config.yaml").write_text("data: {name: mine}\n")
    artefacts.write_audit_report(other, html=True)
    manifest.sign(other)
    said = run("report", folder, "--audit", other)
    assert said.code == 0, said.err
    # The run claims another epsilon than the audit looked at.
    assert "verdict: another claim not falsified\nThe audit was of epsilon 1.00" in said.out
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
