"""The membership attack through the command line: wired in, named a heuristic, or left out."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dp_risk.audit import membership as statistics
from dp_risk.cli.audit import audit, membership
from dp_risk.cli.audit.scratch import Scratch
from dp_risk.cli.compose import settings
from dp_risk.cli.scratch import scratch_place
from tests import federation
from tests.cli.conftest import Run
from tests.report.pages import Page

QUICK = ["audit=quick", "privacy.epsilon=2", "audit.max_rounds=2", "audit.references=2"]


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A control that is no good, and soon made."""
    monkeypatch.setattr(membership, "_CONTROL_ROUNDS", 4)


@pytest.mark.slow
@pytest.mark.smoke
@pytest.mark.usefixtures("few_steps")
def test_the_attack_is_a_heuristic_that_nothing_is_decided_by(
    run: Run, public: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = statistics.result

    def shameless(*args, **named):
        # A bound far above the claim must not falsify it.
        return dataclasses.replace(honest(*args, **named), epsilon_lower_bound=50.0, ceiling=60.0)

    monkeypatch.setattr(statistics, "result", shameless)
    said = run("audit", *public, *QUICK, "run.dir=out")
    assert said.code == 0, said.err
    found = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert found["verdict"] == "not falsified"
    assert found["gate"]["epsilon_lower_bound"] <= 2
    assert found["epsilon_lower_bound"] == found["results"][0]["epsilon_lower_bound"] <= 2
    row = found["results"][-1]
    assert (row["guarantee"], row["epsilon_lower_bound"]) == ("heuristic", 50.0)
    assert [r["guarantee"] for r in found["results"]].count("heuristic") == 1
    evidence = found["evidence"]["membership"]
    assert (evidence["references"], evidence["wanted"], evidence["targets"]) == (2, 2, 1)
    assert evidence["members"] + evidence["others"] + evidence["population"] == 300
    assert len(evidence["controls"]) == 2
    assert [at["rate"] for at in evidence["tpr_at_fpr"]] == [0.01, 0.001]
    page = (tmp_path / "out" / "report.html").read_text()
    assert '<section id="membership"' in page
    assert "Membership attack (heuristic)" in page
    assert "membership attack: its control" in said.err
    assert run("verify", "out").code == 0


def test_nothing_is_trained_on_data_that_is_not_public(
    run: Run, private: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args, **named):
        raise AssertionError("a model was trained")

    monkeypatch.setattr(membership, "_one", never)
    monkeypatch.setattr(audit, "examine", never)
    said = run("audit", *private, *QUICK, "run.dir=out")
    assert said.code == 3
    assert "data.public" in said.line
    assert not (tmp_path / "out").exists()


def _attack(overrides: list[str]) -> membership.Membership:
    found = settings(overrides)
    with scratch_place() as place:
        made = membership.attack(
            Scratch(settings=found, folder=place),
            federation.plan(),
            found.audit,
            lambda words, done: None,
        )
    assert made is not None
    return made


@pytest.mark.slow
def test_too_few_units_leave_the_attack_out_and_the_report_says_so(
    run: Run, public: list[str], tmp_path: Path
) -> None:
    said = run("audit", *public, *QUICK, "run.dir=out", "audit.max_rows=200")
    assert said.code == 0, said.err
    found = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert "too few units" in found["evidence"]["membership"]["left_out"]
    assert "heuristic" not in {row["guarantee"] for row in found["results"]}
    assert "membership attack left out: too few units" in " ".join(said.out.split())
    page = Page((tmp_path / "out" / "report.html").read_text())
    assert "Left out: too few units" in " ".join(page.words.split())
    assert run("verify", "out").code == 0


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize(
    "more",
    [["model=mlp"], ["privacy.trust=distributed", "federation.sites=3"]],
    ids=["mlp", "distributed"],
)
def test_other_trainers_are_attacked_too(public: list[str], more: list[str]) -> None:
    found = _attack([*public, *QUICK, *more])
    assert found.result is not None
    assert found.evidence["references"] == 2


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("label", ["yes", "no"])
def test_units_of_one_label_are_attacked_or_left_out_in_words(
    public: list[str], tiny_file: Path, label: str
) -> None:
    rows = federation.rows()
    at = rows.column_names.index("risk")
    rows = rows.set_column(at, "risk", pa.array([label] * rows.num_rows))
    pq.write_table(rows, tiny_file)
    found = _attack([*public, *QUICK])
    assert found.result is not None or found.evidence["left_out"]


def test_few_accounts_of_many_rows_are_too_few(public: list[str], tiny_file: Path) -> None:
    rows = federation.rows().append_column("who", pa.array([str(i % 50) for i in range(300)]))
    pq.write_table(rows, tiny_file)
    asked = [*public, *QUICK, "data.account=who", "privacy.unit=account"]
    found = _attack(asked)
    assert found.result is None
    assert "too few units" in found.evidence["left_out"]


@pytest.mark.usefixtures("few_steps")
def test_after_the_time_no_more_references_are_begun(public: list[str]) -> None:
    asked = [*public, *QUICK, "audit.references=9", "audit.seconds=1e-6"]
    evidence = _attack(asked).evidence
    assert (evidence["references"], evidence["wanted"]) == (2, 9)
