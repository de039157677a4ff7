"""Training end to end in this process: artefacts, ledgers, budgets, repeatability."""

from __future__ import annotations

import gc
import json
import math
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dp_risk.cli import manifest
from dp_risk.privacy.accounting import gaussian_epsilon, gaussian_mu
from tests.federation import history, kinds

from .conftest import Run

SEEDED = ["data.public=true", "data.public_size=true", "privacy.randomness=seeded"]


def sites(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.rglob("policy.yaml"))


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def test_private_rows_train_and_everything_is_charged(
    run: Run, tmp_path: Path, private: list[str]
) -> None:
    said = run("train", "privacy.epsilon=2", *private, "run.dir=out")
    assert said.code == 0, said.err
    assert said.err == ""
    record = read(tmp_path / "out" / "run.json")
    assert record["schema_version"] == 1
    assert record["epsilon_spent"] <= 2.0
    assert record["epsilon_spent"] == pytest.approx(2.0, rel=0.02)
    purposes = [c["purpose"] for c in record["charges"]]
    assert purposes == ["counts", "training", "score_bins", "evaluation"]
    folders = sites(tmp_path / "runs" / "sites")
    assert len(folders) == 2
    for folder, site in zip(folders, record["sites"], strict=True):
        assert kinds(folder) == ["open", "reserve", *["charge", "release"] * 6, "close"]
        assert history(folder)[-1][1] == site["ledger_head"]
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {
        "config.yaml",
        "ledgers",
        "manifest.json",
        "model.json",
        "model.safetensors",
        "plan.json",
        "report.html",
        "report.json",
        "rounds.jsonl",
        "run.json",
    }


def test_every_ledger_is_closed_with_its_run(run: Run, tmp_path: Path, public: list[str]) -> None:
    # Not left to whenever Python collects what is unreachable.
    gc.disable()
    try:
        said = run("train", "privacy.epsilon=1", *public, "grid.amnesia=false", "run.dir=out")
        assert said.code == 0, said.err
        beside = [path.name for path in tmp_path.rglob("ledger.sqlite*")]
    finally:
        gc.enable()
    assert sorted(beside) == ["ledger.sqlite"] * 2


def test_public_rows_train_and_are_scored_exactly(
    run: Run, tmp_path: Path, public: list[str]
) -> None:
    said = run("train", "privacy.epsilon=8", *public, "run.dir=out")
    assert said.code == 0, said.err
    assert "AUROC" in said.out
    utility = read(tmp_path / "out" / "run.json")["utility"]
    for name in ("auroc", "auprc"):
        assert 0 <= utility[name]["low"] <= utility[name]["value"] <= utility[name]["high"] <= 1


def test_a_run_without_noise_is_for_public_rows_only(
    run: Run, tmp_path: Path, private: list[str], public: list[str]
) -> None:
    plain = ["privacy.trust=none", "privacy.epsilon=null"]
    said = run("train", *plain, *private, "run.dir=out", "sites.dir=private")
    assert said.code == 3
    assert "without noise" in said.line
    assert not (tmp_path / "out").exists()
    assert [kinds(folder) for folder in sites(tmp_path / "private")] == [["open"]] * 2
    said = run("train", *plain, *public, "run.dir=out", "sites.dir=public")
    assert said.code == 0, said.err
    assert read(tmp_path / "out" / "run.json")["epsilon_spent"] is None


def test_seeded_randomness_is_for_public_rows_only(
    run: Run, tmp_path: Path, private: list[str]
) -> None:
    said = run("train", "privacy.epsilon=2", "privacy.randomness=seeded", *private, "run.dir=out")
    assert said.code == 3
    assert said.line
    assert not (tmp_path / "out").exists()
    assert [kinds(folder) for folder in sites(tmp_path / "runs")] == [["open"]] * 2


def model(run: Run, folder: Path, name: str, *overrides: str) -> bytes:
    said = run(
        "train", "privacy.epsilon=2", *overrides, f"run.dir={name}", f"sites.dir=sites-{name}"
    )
    assert said.code == 0, said.err
    return (folder / name / "model.safetensors").read_bytes()


def test_the_same_seed_repeats_the_model_with_and_without_amnesia(
    run: Run, tmp_path: Path, public: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seeded = [*public, "privacy.randomness=seeded", "privacy.sampling_rate=0.5"]
    monkeypatch.delenv("DP_RISK_AMNESIA", raising=False)
    one = model(run, tmp_path, "one", *seeded)
    assert model(run, tmp_path, "two", *seeded) == one
    monkeypatch.setenv("DP_RISK_AMNESIA", "1")
    assert model(run, tmp_path, "three", *seeded) == one
    assert read(tmp_path / "three" / "run.json")["randomness"] == "seeded"
    assert "amnesia: 1" in (tmp_path / "three" / "config.yaml").read_text().replace("true", "1")
    assert model(run, tmp_path, "four", *seeded, "seed=1") != one


def test_randomness_of_the_system_never_repeats(
    run: Run, tmp_path: Path, public: list[str]
) -> None:
    assert model(run, tmp_path, "one", *public) != model(run, tmp_path, "two", *public)


def test_a_second_run_charges_the_same_ledgers(
    run: Run, tmp_path: Path, private: list[str]
) -> None:
    # Wide budget: both runs fit.
    wide = [*private, "sites.lifetime_epsilon=10"]
    used = []
    for name in ("one", "two"):
        assert run("train", "privacy.epsilon=1", *wide, f"run.dir={name}").code == 0
        used.append(read(tmp_path / name / "run.json")["sites"][0])
    assert len(sites(tmp_path / "runs" / "sites")) == 2
    assert used[1]["lifetime_used"] == pytest.approx(2 * used[0]["lifetime_used"])
    assert used[1]["epsilon_lifetime"] > used[0]["epsilon_lifetime"]
    once = ["reserve", *["charge", "release"] * 6, "close"]
    for folder in sites(tmp_path / "runs" / "sites"):
        assert kinds(folder) == ["open", *once, *once]


def test_a_budget_that_is_gone_is_code_3_and_nothing_happens(
    run: Run, tmp_path: Path, private: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    poor = [*private, "sites.lifetime_epsilon=3"]
    assert run("train", "privacy.epsilon=2", *poor, "run.dir=one").code == 0
    folders = sites(tmp_path / "runs" / "sites")
    before = [history(folder) for folder in folders]
    left = read(tmp_path / "one" / "run.json")["sites"][0]["epsilon_lifetime_left"]

    def computed(*_: object, **__: object) -> None:
        raise AssertionError("something was computed")

    monkeypatch.setattr("clients.shard.Shard._load", computed)
    monkeypatch.setattr("dp_risk.privacy.dpsgd.DPSGD.__call__", computed)
    for override in (["run.dir=two"], []):
        said = run("train", "privacy.epsilon=2", *poor, *override)
        assert said.code == 3
        assert "asks epsilon 2" in said.line
        assert re.search(rf"{left:.4g} of .*3 left", said.line)
        assert said.out == ""
        assert [history(folder) for folder in folders] == before
        assert not (tmp_path / "two").exists()
        assert {p.name for p in (tmp_path / "runs").iterdir()} == {"sites", "server"}


def test_a_wider_budget_on_the_command_line_opens_nothing(
    run: Run, tmp_path: Path, private: list[str]
) -> None:
    assert run("train", "privacy.epsilon=2", *private, "sites.lifetime_epsilon=3").code == 0
    folders = sites(tmp_path / "runs" / "sites")
    before = [history(folder) for folder in folders]
    said = run("train", "privacy.epsilon=2", *private, "sites.lifetime_epsilon=1000")
    assert said.code == 3
    assert [history(folder) for folder in folders] == before


@pytest.mark.parametrize(
    "again",
    [
        "federation.sites=3",
        "data.holdout=0.3",
        "partition.seed=1",
        "data.public=true",
        "data.stable_ids=true",
        "privacy.delta=1e-6",
    ],
)
def test_private_rows_are_dealt_out_once(
    run: Run, tmp_path: Path, private: list[str], again: str
) -> None:
    assert run("train", "privacy.epsilon=1", *private).code == 0
    before = [history(folder) for folder in sites(tmp_path / "runs" / "sites")]
    said = run("train", "privacy.epsilon=1", *private, again)
    assert said.code == 3
    assert said.line
    found = sites(tmp_path / "runs" / "sites")
    assert [history(folder) for folder in found] == before


def test_a_seeded_run_says_so_and_that_sizes_are_public(
    run: Run, tmp_path: Path, public: list[str]
) -> None:
    assert run("train", "privacy.epsilon=2", *public, *SEEDED, "run.dir=out").code == 0
    record = read(tmp_path / "out" / "run.json")
    assert any("seed" in line for line in record["assumptions"])
    assert [c["purpose"] for c in record["charges"]] == [
        "training",
        "score_bins",
        "evaluation",
    ]
    assert any("public" in line for line in record["assumptions"])


def test_score_keeps_the_rows_and_its_reasons_add_up(
    run: Run, tmp_path: Path, public: list[str], tiny_file: Path
) -> None:
    import numpy as np
    import pyarrow.csv

    assert run("train", "privacy.epsilon=8", *public, "run.dir=out").code == 0
    said = run("score", "out", tiny_file)
    assert said.code == 0, said.err
    assert "300 rows scored" in said.out
    scored = pq.read_table(tmp_path / "tiny.parquet.scores.parquet")
    reasons = sum(
        scored[name].to_numpy() for name in scored.column_names if name.startswith("contribution_")
    )
    logits = np.log(scored["score"].to_numpy() / (1 - scored["score"].to_numpy()))
    np.testing.assert_allclose(reasons, logits, atol=1e-4)
    # New rows come as CSV, in any order of columns and without the label.
    rows = pq.read_table(tiny_file).select(["kind", "age", "amount"])
    pyarrow.csv.write_csv(rows, tmp_path / "new.csv")
    assert run("score", "out", "new.csv", "--out", "new.parquet").code == 0
    again = pq.read_table(tmp_path / "new.parquet")["score"].to_numpy()
    np.testing.assert_allclose(again, scored["score"].to_numpy(), atol=1e-9)


def test_verify_holds_until_a_byte_changes(run: Run, tmp_path: Path, private: list[str]) -> None:
    assert run("train", "privacy.epsilon=2", *private, "run.dir=out").code == 0
    said = run("verify", "out")
    assert said.code == 0
    assert "integrity only" in said.out
    key = read(tmp_path / "out" / "manifest.json")["public_key"]
    (tmp_path / "keys").write_text(f"{'0' * 64}\n{key}\n")
    assert "a key that you trust" in run("verify", "out", "--keys", "keys").out
    (tmp_path / "keys").write_text("0" * 64)
    assert run("verify", "out", "--keys", "keys").code == 5
    path = tmp_path / "out" / "run.json"
    whole = path.read_text()
    path.write_text(whole.replace('"rounds": 3', '"rounds": 2'))
    said = run("verify", "out")
    assert said.code == 5
    assert "run.json: changed" in said.line
    path.unlink()
    assert "run.json: missing" in run("verify", "out").line
    path.write_text(whole)
    (tmp_path / "out" / "more").write_text("")
    assert "more: not in the manifest" in run("verify", "out").line
    (tmp_path / "out" / "more").unlink()
    manifest = tmp_path / "out" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(key, "1" * 64))
    said = run("verify", "out")
    assert said.code == 5
    assert "signature" in said.line


def test_verify_checks_the_signatures_of_the_ledgers_heads(
    run: Run, tmp_path: Path, private: list[str]
) -> None:
    assert run("train", "privacy.epsilon=2", *private, "run.dir=out").code == 0
    said = run("verify", "out")
    assert "2 ledger heads are signed" in said.out
    assert "not checked: whether 2 of these keys are the sites' own" in said.out
    record = read(tmp_path / "out" / "run.json")
    signer = read(tmp_path / "out" / "manifest.json")["public_key"]
    trusted = [signer, *(site["key"] for site in record["sites"])]
    (tmp_path / "keys").write_text("\n".join(trusted[:2]))
    assert "whether 1 of these keys" in run("verify", "out", "--keys", "keys").out
    (tmp_path / "keys").write_text("\n".join(trusted))
    assert "all of them are keys that you trust" in run("verify", "out", "--keys", "keys").out
    # Another head, and the manifest signed again by whoever changed it.
    record["sites"][1]["ledger_head"] = "0" * 64
    (tmp_path / "out" / "run.json").write_text(json.dumps(record, indent=2) + "\n")
    said = run("report", "out")
    assert said.code == 5
    assert "run.json: changed" in said.line
    manifest.sign(tmp_path / "out")
    said = run("verify", "out")
    assert said.code == 5
    assert "the ledger head of site-01 is not signed by its key" in said.line


def test_report_renders_again_and_signs(run: Run, tmp_path: Path, private: list[str]) -> None:
    assert run("train", "privacy.epsilon=2", *private, "run.dir=out").code == 0
    page = tmp_path / "out" / "report.html"
    whole = page.read_text()
    page.write_text("spoilt")
    assert run("verify", "out").code == 5
    assert run("report", "out").code == 0
    assert page.read_text() == whole
    assert run("verify", "out").code == 0


def test_a_sweep_charges_every_trial_and_every_report_says_what_the_search_cost(
    run: Run, tmp_path: Path, private: list[str]
) -> None:
    before = run("train", "privacy.epsilon=1", *private, "run.dir=earlier")
    assert before.code == 0
    said = run(
        "train", "-m", "privacy.epsilon=1,40", "model.linear=true,false", *private, "run.dir=out",
    )  # fmt: skip
    assert said.code == 3
    [folder, _] = sites(tmp_path / "runs" / "sites")
    assert kinds(folder).count("reserve") == 3
    [one, two] = [read(tmp_path / "out" / str(job) / "run.json") for job in (0, 1)]
    outcomes = [t["outcome"][:4] for t in one["search"]["trials"]]
    assert outcomes == ["done", "done", "refu", "refu"]
    assert one["search"]["trials"] == two["search"]["trials"]
    assert (one["search"]["job"], two["search"]["job"]) == (0, 1)
    # Two full-batch schedules of epsilon 1 are one Gaussian of sqrt(2) times the ratio.
    mu = gaussian_mu(one["epsilon_spent"], 0.99e-5)
    both = gaussian_epsilon(math.sqrt(2) * mu, 0.99e-5)
    assert one["search"]["epsilon"] == pytest.approx(both, rel=1e-6)
    assert "search: 2 of 4 trials finished; together they cost epsilon" in said.out
    page = (tmp_path / "out" / "1" / "report.html").read_text()
    assert "What the search cost" in page
    assert "privacy.epsilon=1 model.linear=False<" in page
    assert "one of 4 trials of a sweep; a choice among them" in page
    assert run("verify", tmp_path / "out" / "1").code == 0
    assert "search" not in read(tmp_path / "earlier" / "run.json")


def test_seeds_of_public_data_are_the_same_people_dealt_out_anew(
    run: Run, tmp_path: Path, public: list[str]
) -> None:
    said = run("train", "-m", "privacy.epsilon=1", "seed=0,1", *public, "run.dir=out")
    assert said.code == 0, said.err
    record = read(tmp_path / "out" / "0" / "run.json")
    events = [c["event_json"] for c in record["charges"]] * 2
    mu = math.sqrt(sum(e["count"] / e["noise_multiplier"] ** 2 for e in events))
    assert record["search"]["epsilon"] == pytest.approx(gaussian_epsilon(mu, 0.99e-5), rel=1e-3)


def test_one_file_under_two_names_is_the_same_people(
    run: Run, tmp_path: Path, private: list[str]
) -> None:
    said = run("train", "-m", "privacy.epsilon=1", "data.name=aa,bb", *private, "run.dir=out")
    assert said.code == 0, said.err
    record = read(tmp_path / "out" / "0" / "run.json")
    mu = gaussian_mu(record["epsilon_spent"], 0.99e-5)
    both = gaussian_epsilon(math.sqrt(2) * mu, 0.99e-5)
    assert record["search"]["epsilon"] == pytest.approx(both, rel=1e-6)


def test_a_trial_without_noise_leaves_a_search_unbounded(
    run: Run, tmp_path: Path, public: list[str]
) -> None:
    both = "privacy={epsilon:1,trust:local},{epsilon:null,trust:none}"
    said = run("train", "-m", both, *public, "run.dir=out")
    assert said.code == 0, said.err
    assert "no epsilon bounds a choice" in said.out
    for job in (0, 1):
        search = read(tmp_path / "out" / str(job) / "run.json")["search"]
        assert (search["epsilon"], search["protected"]) == (None, False)
        page = (tmp_path / "out" / str(job) / "report.html").read_text()
        assert "what no epsilon bounds" in page


def test_private_rows_without_ids_pay_for_both_splits_in_sequence(
    run: Run, tmp_path: Path, private: list[str]
) -> None:
    assert run("train", "privacy.epsilon=2", *private, "run.dir=out").code == 0
    record = read(tmp_path / "out" / "run.json")
    assert {c["split"] for c in record["charges"]} == {"both"}
    assert record["epsilon_by_split"]["both"] == pytest.approx(2.0, rel=1e-3)
    fixed = [*private, "data.stable_ids=true", "data.name=fixed"]
    assert run("train", "privacy.epsilon=2", *fixed, "run.dir=fixed").code == 0
    record = read(tmp_path / "fixed" / "run.json")
    assert set(record["epsilon_by_split"]) == {"train", "holdout"}


def test_what_was_measured_of_private_rows_is_only_what_was_charged(
    run: Run, tmp_path: Path, private: list[str]
) -> None:
    said = run("train", "privacy.epsilon=8", *private, "run.dir=out")
    assert said.code == 0
    record = read(tmp_path / "out" / "run.json")
    assert record["utility_source"] == "charged"
    assert record["utility"] == record["estimates"]["metrics"]
    none = [*private, "privacy.allocation.evaluation=0"]
    said = run("train", "privacy.epsilon=1", *none, "run.dir=none")
    assert said.code == 0
    record = read(tmp_path / "none" / "run.json")
    assert record["utility"] is None
    assert {c["purpose"] for c in record["charges"]} == {"counts", "training"}
    assert "no utility" in said.out


def test_ledger_show_and_verify(run: Run, tmp_path: Path, private: list[str]) -> None:
    assert run("train", "privacy.epsilon=2", *private, "run.dir=out").code == 0
    [folder, _] = sites(tmp_path / "runs" / "sites")
    shown = json.loads(run("ledger", "show", folder, "--json").out)
    assert [e["kind"] for e in shown["entries"]] == kinds(folder)
    assert shown["head"] == history(folder)[-1][1]
    assert shown["spent_epsilon"] + shown["left_epsilon"] == pytest.approx(10.0)
    assert shown["open_run"] is None
    said = run("ledger", "show", folder)
    assert f"{shown['spent_epsilon']:.4g} of 10 spent" in said.out
    assert shown["head"] in said.out
    assert f"{len(shown['entries'])} entries hold" in run("ledger", "verify", folder).out


def test_a_changed_ledger_is_code_5(run: Run, tmp_path: Path, private: list[str]) -> None:
    import sqlite3

    assert run("train", "privacy.epsilon=2", *private, "run.dir=out").code == 0
    [folder, _] = sites(tmp_path / "runs" / "sites")
    with sqlite3.connect(folder / "ledger.sqlite") as connection:
        connection.execute("UPDATE entry SET body = '{}' WHERE sequence = 3")
    connection.close()
    said = run("ledger", "verify", folder)
    assert said.code == 5
    assert "entry 3" in said.line


def test_plan_prices_without_touching_data(run: Run, tmp_path: Path, private: list[str]) -> None:
    said = run("plan", "privacy.epsilon=2", *private, "--units", "240")
    assert said.code == 0, said.err
    made = read(tmp_path / "plan.json")
    assert made["units"] == 240
    for line in made["plans"]:
        assert line["epsilon_run"] <= line["epsilon"] * (1 + 1e-9)
        assert line["epsilon_run"] <= line["epsilon_rdp"]
    assert not (tmp_path / "runs").exists()


def test_a_frontier_of_private_rows_is_refused(
    run: Run, tmp_path: Path, private: list[str]
) -> None:
    said = run("frontier", *private, "run.dir=out")
    assert said.code == 3
    assert "public" in said.line
    assert not (tmp_path / "out").exists()


def test_progress_as_json_lines(run: Run, private: list[str]) -> None:
    said = run("train", "privacy.epsilon=2", *private, "--log-json")
    assert said.code == 0
    lines = [json.loads(line) for line in said.err.splitlines()]
    assert lines
    assert all(isinstance(line, dict) for line in lines)
