"""The two apps leave the desk: a real SuperLink, two sites, and a bundle without code.

The sites are Flower's own SuperNodes, or `dp-risk site serve`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from clients.site import LEDGER
from dp_risk.cli.compose import settings
from dp_risk.cli.simulate import make_sites
from dp_risk.privacy.ledger import Entry, Ledger
from server.job import Job
from tests.deployment.joining import join
from tests.deployment.processes import HOST, Processes, free_ports, processes

BUNDLE = Path(__file__).parent / "bundle"
SITES, ROUNDS, SECONDS = 2, 2, 180

pytestmark = pytest.mark.deployment


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """What a finished run left on the disks."""

    job: Job
    sites: dict[str, Path]
    run: dict[str, Any]

    def ledger(self, site: str) -> Ledger:
        return Ledger.open(self.sites[site] / LEDGER)

    def entries(self, site: str) -> list[Entry]:
        return list(self.ledger(site).entries())


def start(running: Processes, sites: list[Path], kind: str) -> None:
    """Start a SuperLink and the sites, and tell `flwr` where the SuperLink is."""
    link, *nodes = free_ports(1 + len(sites))
    running.start(
        "superlink", "flower-superlink", "--insecure", "--host", HOST, "--port", str(link),
        "--isolation", "process", "--disable-runtime-dependency-installation",
    )  # fmt: skip
    running.wait_for_port("superlink", link)
    # By itself a SuperLink starts its executor detached, where the ServerApp outlives a stop.
    running.start(
        "executor", "flower-superexec", "--insecure", "--runtime-api-address", f"{HOST}:{link}"
    )
    if kind == "serve":
        join(sites, link, running.folder / "federation")
    for site, port in zip(sites, nodes, strict=True):
        if kind == "serve":
            running.start(site.name, "dp-risk", "site", "serve", site, "--insecure")
            continue
        running.start(
            site.name, "flower-supernode", "--insecure", "--superlink", f"{HOST}:{link}",
            "--host", HOST, "--port", str(port), "--node-config", f'site="{site}"',
        )  # fmt: skip
    connection = f'[superlink.loopback]\naddress = "{HOST}:{link}"\ninsecure = true\n'
    (running.home("flwr") / "config.toml").write_text(connection)


@pytest.fixture(
    scope="module", params=["supernode", pytest.param("serve", marks=pytest.mark.smoke)]
)
def deployment(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Deployment:
    root = tmp_path_factory.mktemp("deployment")
    asked = settings(
        [
            f"federation.sites={SITES}",
            f"federation.rounds={ROUNDS}",
            f"federation.timeout={SECONDS // 2}",
            "privacy.epsilon=1",
            f"sites.dir='{root}/the sites'",
        ]
    )
    sites = make_sites(asked, Path(asked.sites.dir), lifetime_epsilon=asked.sites.lifetime_epsilon)
    job = Job(
        run="deployed",
        folder=root / "run",
        dataset=asked.data.dataset,
        schema=asked.data.load_schema().to_dict(),
        model=asked.model_name,
        model_options=asked.model_options,
        privacy=asked.asked,
        federation=asked.federation,
        seed=asked.seed,
        capacity=asked.evaluation.capacity,
        memory=root / "heads.json",
    )
    job.folder.mkdir()
    overrides = root / "job.toml"
    # A JSON string is a TOML string.
    overrides.write_text(f"job = {json.dumps(job.to_json())}\n")
    with processes(root / "processes", seconds=SECONDS) as running:
        start(running, sites, request.param)
        running.start(
            "flwr", "flwr", "run", BUNDLE, "loopback", "--run-config", overrides, "--stream"
        )
        assert running.wait_for_exit("flwr") == 0
    run = json.loads((job.folder / "run.json").read_text())
    return Deployment(job=job, sites={site.name: site for site in sites}, run=run)


def test_the_run_is_recorded_with_both_sites_in_every_round(deployment: Deployment):
    run = deployment.run
    assert run["run"] == deployment.job.run
    assert run["rounds"] == ROUNDS
    assert sorted(site["site"] for site in run["sites"]) == sorted(deployment.sites)
    assert [site["rounds_joined"] for site in run["sites"]] == [ROUNDS] * SITES
    assert run["answers_lost"] == 0
    assert 0 < run["epsilon_spent"] <= deployment.job.privacy.epsilon
    assert len((deployment.job.folder / "rounds.jsonl").read_text().splitlines()) == ROUNDS


def test_the_model_was_trained(deployment: Deployment):
    weights = safetensors.numpy.load_file(deployment.job.folder / "model.safetensors")
    flat = np.concatenate([array.ravel() for array in weights.values()])
    assert np.isfinite(flat).all()
    assert np.any(flat != 0)


def test_each_site_paid_for_every_release_and_closed(deployment: Deployment):
    for site in deployment.sites:
        entries = deployment.entries(site)
        assert deployment.ledger(site).verify().entries == len(entries)
        # The two rounds of the evaluation come last.
        paid = ["charge", "release"] * (ROUNDS + 2)
        assert [entry.kind for entry in entries] == ["open", "reserve", *paid, "close"]
        assert {entry.body["run"] for entry in entries[1:]} == {deployment.job.run}


def test_the_server_saw_the_head_of_each_ledger(deployment: Deployment):
    seen = {site["site"]: site["ledger_head"] for site in deployment.run["sites"]}
    assert seen == {site: deployment.ledger(site).state.head for site in deployment.sites}
    kept = json.loads(deployment.job.memory.read_text())["heads"].values()
    assert {head["site"]: head["head"] for head in kept} == seen


def test_the_holdouts_were_evaluated(deployment: Deployment):
    assert deployment.run["utility_source"] == "charged"
    assert deployment.run["estimates"]["sites"] == SITES
    assert deployment.run["utility"]["auroc"]["value"] > 0.5
