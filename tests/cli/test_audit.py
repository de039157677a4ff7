"""`dp-risk audit` from the command line: what it writes, what it refuses, how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dp_risk.privacy import noise
from tests.cli.conftest import Run

CHECKS = {
    "noise_std", "noise_independence", "noise_shape", "sensitivity", "malformed_units", "sampler",
    "noise_grid",
    "steps_charged", "reads_in_mechanisms", "transcript", "splits_disjoint", "system_randomness",
    "policy", "reservation", "ledger", "accounting", "gate",
}  # fmt: skip
ASKED = ["audit=quick", "privacy.epsilon=2", "run.dir=out", "report.html=false"]


def test_an_honest_trainer_ends_with_0_and_the_promised_fields(
    run: Run, public: list[str], tmp_path: Path
) -> None:
    said = run("audit", *public, *ASKED)
    assert said.code == 0, said.err
    assert "not falsified" in said.out
    found = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert found["schema_version"] == 1
    assert (found["claimed_epsilon"], found["verdict"]) == (2.0, "not falsified")
    assert set(found["gate"]) == {"level", "epsilon_lower_bound"}
    assert found["gate"]["epsilon_lower_bound"] <= 2.0
    assert {check["name"] for check in found["checks"]} == CHECKS
    for check in found["checks"]:
        assert set(check) == {"name", "passed", "figure"}
        assert check["passed"] is True
        assert check["figure"]
    assert found["results"]
    for result in found["results"]:
        assert {
            "method", "canaries", "observations", "confidence", "epsilon_lower_bound", "ceiling",
            "guarantee",
        } <= set(result)  # fmt: skip
        assert result["guarantee"] in ("bound", "conditional", "heuristic")
        assert 0 <= result["epsilon_lower_bound"] <= result["ceiling"]
        assert 0 < result["confidence"] < 1
    assert found["epsilon_lower_bound"] == found["results"][0]["epsilon_lower_bound"]
    # Nothing is left of the scratch sites, and no real site's folder was made.
    assert not (tmp_path / "runs").exists()
    assert run("verify", "out").code == 0


def test_private_data_is_refused_in_one_line(run: Run, private: list[str], tmp_path: Path) -> None:
    said = run("audit", *private, *ASKED)
    assert said.code == 3
    assert "data.public" in said.line
    assert not (tmp_path / "out").exists()


def test_a_run_without_noise_claims_nothing(run: Run, public: list[str], tmp_path: Path) -> None:
    said = run("audit", *public, *ASKED, "privacy.trust=none", "privacy.epsilon=null")
    assert said.code == 2
    assert "privacy.trust" in said.line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ("audit.codes=19", "audit.codes"),
        ("audit.units=1", "audit.units"),
        ("audit.share=1", "audit.share"),
        ("audit.seconds=0", "audit.seconds"),
        ("audit.confidence=95", "audit.confidence"),
        ("audit.gate_level=0", "audit.gate_level"),
        ("audit.processes=0", "audit.processes"),
        ("audit.repeats=1", "audit.repeats"),
        ("audit.max_rows=3", "audit.max_rows"),
        ("audit.max_sites=0", "audit.max_sites"),
        ("audit.max_rounds=0", "audit.max_rounds"),
        ("audit.canaries=5", "canaries"),
        ("audit=slow", "slow"),
    ],
)
def test_values_that_no_audit_has_are_named(
    run: Run, public: list[str], tmp_path: Path, wrong: str, word: str
) -> None:
    said = run("audit", *public, *ASKED, wrong)
    assert said.code == 2
    assert word in said.line
    assert not (tmp_path / "out").exists()


def test_a_planted_defect_exits_5_and_is_named_on_the_last_line(
    run: Run, public: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = noise.discrete_gaussian
    monkeypatch.setattr(noise, "discrete_gaussian", lambda *a: draw(*a) // 2)
    said = run("audit", *public, *ASKED)
    assert said.code == 5
    last = said.err.splitlines()[-1]
    assert last.startswith("dp-risk: ")
    assert "noise_std" in last
    assert "Traceback" not in said.err
    found = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert found["verdict"] == "falsified"
    assert "noise_std" in {check["name"] for check in found["checks"] if not check["passed"]}
    # What falsifies a claim is signed like any other result, and stays what it is.
    again = run("verify", "out")
    assert again.code == 5
    assert "report.json holds against its own signature" in again.out
    assert again.line.startswith("dp-risk: claim falsified: ")
