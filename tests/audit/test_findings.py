from __future__ import annotations

import json

import pytest

from dp_risk.audit.findings import Check, Findings, Result, every


def check(name: str = "noise_std", *, passed: bool = True) -> Check:
    return Check(name=name, passed=passed, figure="measured 1, allowed 1")


def result(bound: float) -> Result:
    return Result(
        method="white-box",
        canaries=10,
        observations=100,
        confidence=0.95,
        epsilon_lower_bound=bound,
        ceiling=5.0,
        guarantee="bound",
        assumptions=(),
    )


def findings(*checks: Check, results: tuple[Result, ...] = ()) -> Findings:
    return Findings(
        claimed_epsilon=1.0,
        delta=1e-5,
        gate_level=1e-3,
        gate_epsilon=0.4,
        results=results,
        checks=checks,
        evidence={"seconds": 1.0},
    )


def test_one_failed_check_falsifies() -> None:
    assert findings(check(), check("gate")).verdict == "not falsified"
    found = findings(check(), check("gate", passed=False))
    assert (found.verdict, found.failed) == ("falsified", ("gate",))


def test_the_bound_is_that_of_the_method_chosen_beforehand() -> None:
    said = findings(check(), results=(result(0.5), result(0.9))).to_dict()
    assert said["epsilon_lower_bound"] == 0.5
    assert findings(check()).to_dict()["epsilon_lower_bound"] == 0.0


def test_what_is_written_is_json_with_the_fields_of_the_contract() -> None:
    said = json.loads(json.dumps(findings(check(), results=(result(0.5),)).to_dict()))
    assert said["gate"] == {"level": 1e-3, "epsilon_lower_bound": 0.4}
    assert said["checks"] == [
        {"name": "noise_std", "passed": True, "figure": "measured 1, allowed 1"}
    ]
    assert set(said["results"][0]) == {
        *("method", "canaries", "observations", "confidence", "epsilon_lower_bound"),
        *("ceiling", "guarantee", "assumptions"),
    }


def test_every_holds_when_all_do_and_shows_the_first_that_does_not() -> None:
    bad = Check(name="noise_std", passed=False, figure="half")
    assert every([check(), check()]).figure.endswith("; 1 more alike")
    assert every([check(), bad]) == bad
    with pytest.raises(ValueError, match="no checks"):
        every([])
