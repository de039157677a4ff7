"""A run in a storm ends, and its charges are those of its releases."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deployment.weather import endure

pytestmark = [pytest.mark.deployment, pytest.mark.slow]


@pytest.mark.parametrize("trust", ["local", "distributed"])
def test_a_run_outlives_a_storm(tmp_path: Path, trust: str) -> None:
    found = endure(tmp_path / "storm", seed=1, trust=trust, rounds=15, seconds=200)
    assert found.problems == ()
    assert found.finished, found.reason
    assert sum(found.injected.values()) >= 10
