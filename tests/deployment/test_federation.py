"""A federation of three sites with TLS and keys: a run, a child that is killed, who is let in."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import httpx
import numpy as np
import pytest
import safetensors.numpy

from dp_risk.cli import main
from dp_risk.cli.artefacts import signer
from dp_risk.cli.manifest import check_unchanged
from dp_risk.federation.operator import Operator
from tests.deployment.loopback import SERVER, Loopback, loopback

SITES, ROUNDS, SECONDS = 3, 10, 420

pytestmark = pytest.mark.deployment


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    root = tmp_path_factory.mktemp("federation")
    with loopback(root, sites=SITES, seconds=SECONDS) as made:
        made.start()
        with made.client() as client:
            made.wait_until(lambda: sum(n["online"] for n in client.status()["nodes"]) == SITES)
        yield made


@pytest.fixture(scope="module")
def finished(federation: Loopback) -> Path:
    """A run whose child is killed in the middle."""
    place = federation.run(f"federation.rounds={ROUNDS}", "federation.timeout=60")
    with federation.client() as client:

        def at(number: int) -> bool:
            return any((run["round"] or 0) >= number for run in client.status()["runs"])

        federation.wait_until(lambda: at(3), seconds=120)
        federation.kill_child()
    assert federation.running.wait_for_exit("run") == 0
    return place


def test_the_killed_run_came_to_its_end(federation, finished):
    run = json.loads((finished / "run.json").read_text())
    assert run["rounds"] == ROUNDS
    assert 0 < run["epsilon_spent"] <= 1
    log = [json.loads(line) for line in (finished / "rounds.jsonl").read_text().splitlines()]
    assert [line["round"] for line in log] == list(range(1, ROUNDS + 1))
    weights = safetensors.numpy.load_file(finished / "model.safetensors")
    assert any(np.any(array != 0) for array in weights.values())


def test_the_child_was_started_again_and_once_only(federation, finished):
    events = [event["event"] for event in federation.events() if event.get("run")]
    told = [name for name in events if name != "run progress"]
    assert told == ["run started", "run interrupted", "run started", "run finished"]
    interrupted = next(e for e in federation.events() if e["event"] == "run interrupted")
    assert "signal 9" in interrupted["reason"]
    assert federation.children() == []


def test_no_release_without_its_charge_and_none_twice(federation, finished):
    rounds = ROUNDS + 3
    for site in federation.sites:
        entries = federation.entries(site)
        kinds = [entry.kind for entry in entries]
        releases = [e.body for e in entries if e.kind == "release"]
        keys = [(body.get("purpose"), body.get("round")) for body in releases]
        assert len(set(keys)) == len(keys)
        assert kinds.count("charge") >= kinds.count("release") >= rounds
        assert kinds[-1] == "close"


def test_the_record_is_signed_by_the_federation(federation, finished):
    manifest = check_unchanged(finished)
    assert manifest["public_key"] == federation.house.public_key
    report = json.loads((finished / "report.json").read_text())
    assert signer(report) == federation.house.public_key
    assert all(site["statement"] for site in report["sites"])
    assert not (finished / "journal").exists()
    assert (finished / "report.html").exists()


def test_status_tells_sites_runs_and_budgets(federation, finished, capsys):
    operator = federation.folder / "operator"
    assert main.run(["federation", "status", "--json", "--operator", str(operator)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [node["site"] for node in said["nodes"]] == federation.sites
    assert all(node["online"] and node["seen"] < 60 for node in said["nodes"])
    assert [run["state"] for run in said["runs"]] == ["finished"]
    assert sorted(said["sites"]) == federation.sites
    assert all(0 < site["left_epsilon"] < 10 for site in said["sites"].values())
    assert main.run(["federation", "status", "--operator", str(operator)]) == 0
    assert all(site in capsys.readouterr().out for site in federation.sites[:1])


@pytest.mark.parametrize(
    "path",
    ["/", "/docs", "/openapi.json", "/health", "/v1/control/list-runs", "/v1/runtime/acquire-task",
     "/v1/runtime/push-messages", "/v1/fleet/register-node"],
)  # fmt: skip
def test_the_open_port_shows_a_stranger_nothing(federation, path):
    with httpx.Client(verify=False, trust_env=False) as client:
        for method in ("GET", "POST"):
            answer = client.request(method, federation.house.url + path, content=b"x")
            assert (answer.status_code, answer.content) == (404, b"")
            assert "server" not in answer.headers


def test_a_stranger_is_no_node_and_no_operator(federation):
    with httpx.Client(verify=False, trust_env=False) as client:
        url = federation.house.url
        answer = client.post(f"{url}/v1/fleet/pull-messages", content=b"x" * 100)
        assert (answer.status_code, answer.content) == (401, b"")
        answer = client.get(f"{url}/dp-risk/v1/status")
        assert answer.status_code == 401
        assert "not signed by an operator" in answer.json()["error"]


def test_a_server_with_another_certificate_is_not_spoken_to(federation, tmp_path, capsys):
    other = tmp_path / "other"
    schema = federation.root / "schema.yaml"
    words = [
        "federation", "init", str(other), "--schema", str(schema), "--dataset", "tiny",
        "--delta", "1e-5", "--host", "127.0.0.1", "--port", str(federation.house.port),
    ]  # fmt: skip
    assert main.run(words) == 0
    assert Operator.load(other / "operator").address == federation.house.address
    assert main.run(["federation", "status", "--operator", str(other / "operator")]) == 5
    assert "certificate is not of this federation's authority" in capsys.readouterr().err


def test_a_revoked_site_is_out_at_once_and_may_come_back(federation, finished):
    site = federation.sites[-1]
    assert main.run(["federation", "revoke", str(federation.folder), site]) == 0
    with federation.client() as client:
        names = [node["site"] for node in client.status()["nodes"]]
        federation.wait_until(
            lambda: [n["site"] for n in client.status()["nodes"]] == federation.sites[:-1],
            seconds=10,
        )
        assert site in [e.get("site") for e in federation.events() if e["event"] == "site removed"]
        letter = federation.site(site) / "site.json"
        assert main.run(["federation", "admit", str(federation.folder), str(letter)]) == 0
        federation.kill(site)
        federation.restart(site)
        federation.wait_until(
            lambda: (
                all(n["online"] for n in client.status()["nodes"])
                and len(client.status()["nodes"]) == SITES
            )
        )
    assert names


def test_a_folder_is_served_once(federation, capsys):
    assert main.run(["federation", "serve", str(federation.folder)]) == 2
    assert "is served already" in capsys.readouterr().err


def test_a_run_that_is_stopped_is_closed_at_every_site(federation, finished, capsys):
    operator = str(federation.folder / "operator")
    federation.run("federation.rounds=200", "federation.timeout=60", name="stopped")
    with federation.client() as client:

        def current() -> dict:
            return client.status()["runs"][-1]

        before = current()["run"]
        federation.wait_until(
            lambda: current()["run"] != before and current()["round"], seconds=120
        )
        run = current()["run"]
        # Whoever stops watching is told how to look again, and the run goes on.
        federation.running.process("stopped").send_signal(signal.SIGINT)
        assert federation.running.wait_for_exit("stopped") == 130
        said = (federation.running.folder / "stopped.log").read_text()
        assert f"--attach {run}" in said
        assert f"federation stop {run} --operator {operator}" in said
        assert current()["state"] == "running"
        assert main.run(["federation", "stop", run, "--operator", operator]) == 0
        assert "what was charged stays charged" in capsys.readouterr().out
        federation.wait_until(lambda: current()["state"] == "stopped")
        assert current()["reason"] is None
    for site in federation.sites:
        assert federation.entries(site)[-1].kind == "close"
    federation.run("--attach", run, name="again")
    assert federation.running.wait_for_exit("again") == 4
    assert f"run {run} was stopped" in (federation.running.folder / "again.log").read_text()


def _rounds_done(client) -> int:
    """Return how far the run is that goes on; the last one that is listed may be over."""
    going = [one for one in client.status()["runs"] if one["state"] == "running"]
    return max((one["round"] or 0 for one in going), default=0)


def test_a_killed_server_goes_on_with_its_run_and_the_operator_waits(federation, finished):
    place = federation.run(f"federation.rounds={ROUNDS}", "federation.timeout=60", name="second")
    with federation.client() as client:
        federation.wait_until(lambda: _rounds_done(client) >= 2, seconds=120)
    child = federation.children()[0]
    federation.kill(SERVER)
    # The child hears that its server is gone, and goes too.
    federation.wait_until(lambda: not Path(f"/proc/{child}").exists(), seconds=10)
    federation.restart(SERVER)
    assert federation.running.wait_for_exit("second") == 0
    log = [json.loads(line) for line in (place / "rounds.jsonl").read_text().splitlines()]
    assert [line["round"] for line in log] == list(range(1, ROUNDS + 1))
    assert "trying again until it answers" in (federation.running.folder / "second.log").read_text()


def test_a_server_that_is_asked_to_end_does(federation, finished):
    federation.running.process(SERVER).terminate()
    assert federation.running.wait_for_exit(SERVER) == 0
    assert federation.events()[-1]["event"] == "ended"
