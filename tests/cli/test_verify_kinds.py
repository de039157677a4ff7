"""Folders of every kind hold as they were written, with the statements of their sites."""

from __future__ import annotations

import pytest

from .conftest import Run


def holds(run: Run, folder: str) -> None:
    said = run("verify", folder)
    assert said.code == 0, said.err
    assert "2 ledger statements hold" in said.out
    assert "byte for byte" in said.out


@pytest.mark.parametrize(
    "more",
    [
        ["privacy.trust=none", "privacy.epsilon=null"],
        ["privacy.epsilon=2", "privacy.randomness=seeded"],
    ],
    ids=["no noise", "seeded"],
)
def test_a_run_on_public_rows(run: Run, public: list[str], more: list[str]) -> None:
    assert run("train", *more, *public, "run.dir=out").code == 0
    holds(run, "out")


def test_a_frontier(run: Run, public: list[str]) -> None:
    asked = ["frontier.epsilons=[2,null]", "frontier.seeds=[0]", "frontier.baselines=false"]
    assert run("frontier", *public, *asked, "run.dir=out").code == 0
    holds(run, "out")


def test_a_sweep(run: Run, private: list[str]) -> None:
    assert run("train", "-m", "privacy.epsilon=1,2", *private, "run.dir=out").code == 0
    holds(run, "out/0")
    holds(run, "out/1")
