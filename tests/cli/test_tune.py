from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from clients.policy import Policy
from clients.site import POLICY
from tests.federation import replaced

from .conftest import Run

ONE = [{"learning_rate": 0.5, "clip_norm": 1.0}]


@pytest.fixture
def mine(run: Run, tiny_file: Path, tmp_path: Path) -> Path:
    """A site made by `site init`."""
    schema = tiny_file.with_suffix(".schema.yaml")
    said = run("site", "init", "mine", "--data", tiny_file, "--schema", schema, "--delta", "1e-5")
    assert said.code == 0
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(ONE))
    return tmp_path / "mine"


def test_a_site_tunes(run: Run, mine: Path) -> None:
    said = run("site", "tune", mine, "--epsilon", 1, "--delta", "1e-5", "--candidates", "one.yaml")
    assert (said.code, said.err) == (0, "")
    found = json.loads((mine / "tuning.json").read_text())
    assert {name: found[name] for name in ONE[0]} == ONE[0]
    assert 0.99 < found["cost"]["epsilon_run_rdp"] <= 1
    assert "federation.learning_rate=0.5 privacy.clip_norm=1" in said.out
    assert found["use"] in said.out
    shown = run("ledger", "show", mine)
    assert "(RDP, as reserved)" in shown.out
    assert "Best(of 2 on average" in shown.out
    assert "epsilon_run_rdp" in json.loads(run("ledger", "show", mine, "--json").out)["runs"][0]


@pytest.mark.parametrize(
    ("flags", "change", "named"),
    [
        (["--delta", "1e-6"], {}, "delta"),
        ([], {"purposes": ("counts", "training")}, "purposes do not name tuning"),
        ([], {"run_epsilon": 0.5}, "cap of 0.5"),
        ([], {"lifetime_epsilon": 0.5}, "lifetime budget"),
    ],
)
def test_a_site_refuses_its_own_tuning(
    run: Run, mine: Path, flags: list[str], change: dict[str, object], named: str
) -> None:
    replaced(Policy.load(mine / POLICY), **change).save(mine / POLICY)
    said = run("site", "tune", mine, "--epsilon", "1", "--candidates", "one.yaml", *flags)
    assert said.code == 3
    assert named in said.line
    assert not (mine / "tuning.json").exists()


@pytest.mark.parametrize(
    "text",
    ["", "{", "3", "- 1", "- {learning_rate: 1}", "- {learning_rate: x, clip_norm: 1}", "[]"],
)
def test_a_file_that_holds_no_candidates(run: Run, mine: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    said = run("site", "tune", mine, "--epsilon", "1", "--candidates", "bad.yaml")
    assert said.code == 2
    assert "candidates" in said.line


@pytest.mark.parametrize(
    "words",
    [
        ["train"],
        ["train", "privacy.epsilon=1"],
        ["train", "-m", "privacy.epsilon=1,2"],
        ["train", "-m", "privacy.epsilon=1", "federation.learning_rate=0.1,1"],
        ["frontier"],
    ],
    ids=" ".join,
)
def test_private_selection_is_refused_where_a_server_sees_the_trials(
    run: Run, tmp_path: Path, words: list[str]
) -> None:
    said = run(*words, "tuning.selection=private")
    assert said.code == 3
    assert "only the winner ever leaves" in said.line
    assert "dp-risk site tune" in said.line
    assert not (tmp_path / "runs").exists()


def test_another_selection_is_a_mistake(run: Run) -> None:
    said = run("train", "privacy.epsilon=1", "tuning.selection=best")
    assert said.code == 2
    assert "tuning.selection" in said.line
