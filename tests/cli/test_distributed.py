"""Noise that all sites add together, from the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from dp_risk.privacy.accounting import epsilon
from dp_risk.privacy.events import decode
from tests.federation import kinds

from .conftest import Run

SHARED = ["privacy.trust=distributed", "federation.sites=3"]


def test_private_rows_of_three_sites_train_together(
    run: Run, tmp_path: Path, private: list[str]
) -> None:
    said = run("train", "privacy.epsilon=2", *private, *SHARED, "run.dir=out")
    assert (said.code, said.err) == (0, "")
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (record["trust"], record["max_colluding"], record["spare_rounds"]) == (
        "distributed", 1, 1,
    )  # fmt: skip
    # What stands in the record is what is claimed, spare rounds included.
    assert [c["event_json"]["count"] for c in record["charges"]] == [2, 4, 2, 2]
    events = [decode(charge["event_json"]) for charge in record["charges"]]
    assert epsilon(events, 1e-5) == pytest.approx(record["epsilon_by_split"]["both"])
    assert 1.9 < record["epsilon_spent"] <= 2.0
    folders = sorted((tmp_path / "runs" / "sites" / "tiny").glob("site-*"))
    rosters = [yaml.safe_load((f / "policy.yaml").read_text())["roster"] for f in folders]
    assert set(rosters[0]) == {"site-00", "site-01", "site-02"}
    assert len(set(rosters[0].values())) == 3
    assert rosters == [rosters[0]] * 3
    for folder in folders:
        assert kinds(folder) == ["open", "reserve", *["charge", "release"] * 6, "close"]
    page = re.sub("<[^>]*>", "", (tmp_path / "out" / "report.html").read_text())
    assert record["simulated"] is True
    for words in (
        "the noisy sum over the sites of a round, at least 3, and everyone else only the model",
        "up to 1 colluding site.",
        "The sites were simulated: one person held all their rows and keys",
        "3 of 3: none may stay away",
        "No round was lost with a site. The plan held 1 spare round of",
        "Units: only their sum over all sites was released, with noise",
        "Everything that was priced, spare rounds included",
        "At most 1 of all 3 sites of the roster tells the server what it knows",
    ):
        assert words in page, words
    assert run("verify", "out").code == 0


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["federation.sites=2"], "federation.sites: 2: trust distributed needs at least 3"),
        (["privacy.max_colluding=2"], "privacy.max_colluding: 2 of 3 sites; at most sites - 2 = 1"),
        (["privacy.max_colluding=0"], "privacy.max_colluding: "),
        (["federation.min_sites=2"], "federation.min_sites: 2: "),
        (["federation.min_sites=4"], "federation.min_sites: 4 is not in 1..3, the number of sites"),
        (["federation.spare_rounds=-1"], "federation.spare_rounds: "),
        (["federation.steps_per_round=2"], "federation.steps_per_round: "),
        (["privacy.max_sites_per_unit=2"], "privacy.max_sites_per_unit: "),
        (["privacy.trust=central"], "privacy.trust: "),
    ],
)
def test_what_does_not_go_is_one_line_and_leaves_no_site(
    run: Run, tmp_path: Path, private: list[str], overrides: list[str], key: str
) -> None:
    for verb in ("plan", "train"):
        said = run(verb, "privacy.epsilon=2", *private, *SHARED, *overrides)
        assert said.code == 2
        assert key in said.line
    assert not (tmp_path / "runs").exists()


def test_a_frontier_knows_what_does_not_go_before_it_runs(
    run: Run, tmp_path: Path, public: list[str]
) -> None:
    said = run(
        "frontier", *public, "federation.sites=2", "frontier.trusts=[local,distributed]",
        "frontier.baselines=false", "run.dir=out",
    )  # fmt: skip
    assert (said.code, said.out) == (2, "")
    assert "federation.sites: 2: " in said.line
    assert not (tmp_path / "out").exists()


def test_simulated_sites_want_four_of_five(run: Run, tmp_path: Path, private: list[str]) -> None:
    said = run("train", "privacy.epsilon=2", *private, *SHARED, "run.dir=out")
    assert said.code == 0, said.err
    path = tmp_path / "runs" / "sites" / "tiny" / "site-00" / "policy.yaml"
    assert yaml.safe_load(path.read_text())["min_sites"] == 2
    few = ("privacy.trust=local", "federation.min_sites=1")
    said = run("train", "privacy.epsilon=2", *private, *SHARED, *few)
    assert said.code == 3
    assert "takes part with 2 sites at least" in said.line


def test_a_plan_knows_what_spare_rounds_cost(run: Run, tmp_path: Path, private: list[str]) -> None:
    for name, trust, spare in (("a", "local", 0), ("b", "distributed", 0), ("c", "distributed", 3)):
        said = run(
            "plan", "privacy.epsilon=2", *private, "federation.sites=3", f"privacy.trust={trust}",
            f"federation.spare_rounds={spare}", "--out", f"{name}.json",
        )  # fmt: skip
        assert said.code == 0, said.err
    plans = [json.loads((tmp_path / f"{name}.json").read_text())["plans"] for name in "abc"]
    local, none, three = (next(p for p in lines if p["epsilon"] == 2) for lines in plans)
    assert none == local
    assert three["steps"] == 6
    assert three["sigma"] == pytest.approx(local["sigma"] * 2**0.5, rel=0.01)
    assert three["counts_noise"] == pytest.approx(local["counts_noise"] * 3**0.5)
    assert 1.9 < three["epsilon_run"] <= 2.0


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["privacy.trust=local"], "local: 3 rounds; a sum over 10 sites holds 3.16 x sigma"),
        (["privacy.trust=local"], "(distributed: 1.05 x)"),
        (["federation.sites=10"], "distributed: 3 rounds and 2 spare, 9 of 10 sites needed, 1 may"),
        (["federation.sites=10"], "holds 1.05 x sigma (local: 3.16 x)"),
        (["federation.sites=5"], "5 of 5 sites needed: none may stay away, 1 may collude"),
    ],
)
def test_a_plan_says_who_is_needed_and_what_a_sum_holds(
    run: Run, private: list[str], overrides: list[str], words: str
) -> None:
    said = run("plan", "privacy.epsilon=2", *private, *SHARED, "federation.sites=10", *overrides)
    assert said.code == 0, said.err
    assert words in " ".join(said.out.split())


@pytest.mark.parametrize(("spares", "warned"), [(0, False), (1, False), (2, True), (10_000, True)])
def test_spare_rounds_that_cost_much_noise_are_said_before_the_run(
    run: Run, private: list[str], spares: int, warned: bool
) -> None:
    asked = (*private, *SHARED, f"federation.spare_rounds={spares}")
    for verb in ("plan", "train"):
        said = run(verb, "privacy.epsilon=2", *asked)
        assert said.code == 0, said.err
        assert ("warning: federation.spare_rounds: " in said.out) == warned
        if verb == "train":
            assert "(delta 1e-05, trust distributed, 1 of 3 may collude)" in said.out


@pytest.mark.parametrize("trust", ["local", "distributed"])
def test_a_count_too_noisy_for_delta_is_refused_before_a_site_exists(
    run: Run, tmp_path: Path, private: list[str], trust: str
) -> None:
    asked = (
        "privacy.epsilon=0.001",
        *private,
        *SHARED,
        f"privacy.trust={trust}",
        "data.delta=1e-3",
    )
    said = run("train", *asked)
    assert said.code == 2
    assert "privacy.epsilon: 0.001: the number of units would be released with" in said.line
    assert "above 1/delta = 1,000" in said.line
    assert not (tmp_path / "runs").exists()
    said = run("plan", *asked)
    assert said.code == 0, said.err
    assert "warning: train will refuse this: privacy.epsilon: 0.001" in said.out
    # Knowing the sum is not knowing each site's number; a public number is not noisy.
    assert "train will refuse" in run("plan", *asked, "--units", "240").out
    public = run("plan", *asked, "data.public_size=true", "--units", "240").out
    assert "train will refuse" not in public
    assert "warning: plain steps" in public


def test_a_frontier_draws_both_trusts(run: Run, tmp_path: Path, public: list[str]) -> None:
    said = run(
        "frontier", *public, "federation.sites=3", "frontier.epsilons=[2.0]", "frontier.seeds=[0]",
        "frontier.trusts=[local,distributed]", "frontier.baselines=false", "run.dir=out",
    )  # fmt: skip
    assert said.code == 0, said.err
    points = json.loads((tmp_path / "out" / "frontier.json").read_text())["points"]
    assert [point["trust"] for point in points] == ["local", "distributed"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Local noise" in page
    assert "Secure sum" in page
