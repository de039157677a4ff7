"""The desk, asked by the operator's own client over ASGI."""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
import time
from pathlib import Path

import httpx
import pytest

from dp_risk.cli.federation.client import BASE, Client, SignedTooEarly
from dp_risk.federation import requests
from dp_risk.federation.house import OPERATORS, House
from dp_risk.federation.operator import Operator
from dp_risk.types import ConfigurationError, FederationError, VerificationError
from server.desk import Desk
from server.link import Node
from server.queue import FAILED, FINISHED, RUNNING, Queue
from tests.deployment.loopback import make
from tests.server.test_queue import FEDERATION, JOB, PRIVACY


class Transport(httpx.BaseTransport):
    """Hands requests to an ASGI app without a socket; `spoil` may change them on the way."""

    def __init__(self, app):
        self.app = app
        self.spoil = lambda request: request

    def handle_request(self, request):
        async def ask():
            there = httpx.ASGITransport(app=self.app)
            answer = await there.handle_async_request(self.spoil(copied(request)))
            content = await answer.aread()
            return httpx.Response(answer.status_code, headers=answer.headers, content=content)

        return asyncio.run(ask())


def copied(request, **changes):
    method, url = changes.get("method", request.method), changes.get("url", request.url)
    headers, content = dict(request.headers), changes.get("content", request.read())
    headers.pop("content-length", None)
    headers.update(changes.get("headers", {}))
    return httpx.Request(method, url, headers=headers, content=content)


@pytest.fixture(scope="module")
def house(tmp_path_factory) -> House:
    root = tmp_path_factory.mktemp("desk")
    make(root, sites=3, insecure=True)
    return House.open(root / "fed")


class Setting:
    def __init__(self, house: House, folder: Path):
        self.house = house
        self.woken = 0
        self.budgets = folder / "budgets.json"
        self.queue = Queue(folder / "runs", folder / "heads.json")
        self.queue.tidy()
        self.transport = Transport(self.desk())
        self.client = Client(Operator.load(house.folder / "operator"), self.transport)

    def desk(self):
        return Desk(
            self.house,
            self.queue,
            nodes=lambda: [Node(site="a", online=True, seen=1.5)],
            budgets=self.budgets,
            wake=self.wake,
        )

    def wake(self):
        self.woken += 1


@pytest.fixture
def setting(house, tmp_path) -> Setting:
    return Setting(house, tmp_path)


def test_status_says_what_there_is(setting):
    setting.budgets.write_text(json.dumps({"a": {"left_epsilon": 1.0}}))
    said = setting.client.status()
    assert (said["federation"]["name"], said["federation"]["dataset"]) == ("loopback", "tiny")
    assert said["nodes"] == [{"site": "a", "online": True, "seen": 1.5}]
    assert said["sites"] == {"a": {"left_epsilon": 1.0}}
    assert said["runs"] == []


def test_a_run_is_queued_once_however_often_it_is_sent(setting):
    for _ in range(3):
        said = setting.client.submit("r1", JOB, "a: 1\n")
        assert (said["run"], said["state"], said["operator"]) == ("r1", "queued", "operator")
    assert setting.woken == 3
    assert [run["run"] for run in setting.client.status()["runs"]] == ["r1"]
    with pytest.raises(ConfigurationError, match="another run already"):
        setting.client.submit("r1", {**JOB, "seed": 9}, "a: 1\n")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"dataset": "other"}, "data: other; this federation agreed on tiny"),
        ({"privacy": {**PRIVACY, "delta": 1e-6}}, "privacy.delta: 1e-06"),
        ({"privacy": {**PRIVACY, "unit": "account"}}, "privacy.unit: account"),
        ({"federation": {**FEDERATION, "sites": 4}}, "federation.sites: 4; the roster has 3"),
        ({"schema": {**JOB["schema"], "name": "other"}}, "data.schema: "),
        ({"schema": {"name": "none"}}, "data.schema: "),
        ({"federation": {**FEDERATION, "sites": "many"}}, "holds no job"),
        ({"folder": "/tmp/x"}, "job: folder is set by the server"),
        ({"surplus": 1}, "holds no job"),
        ({"privacy": None}, "holds no job"),
    ],
)
def test_a_run_that_no_site_could_accept_is_refused_in_one_line(setting, changes, line):
    with pytest.raises(ConfigurationError, match=line) as error:
        setting.client.submit("r1", {**JOB, **changes}, "")
    assert "\n" not in str(error.value)
    assert setting.client.status()["runs"] == []


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"run": 1}', b"\xff", b"[" * 5000])
def test_what_is_no_request_for_a_run_is_refused(setting, body):
    with pytest.raises(ConfigurationError, match="holds no run"):
        setting.client._json("POST", "runs", body)


def test_a_run_is_followed_and_its_files_are_fetched_without_the_journal(setting):
    client, queue = setting.client, setting.queue
    client.submit("r1", JOB, "a: 1\n")
    folder = queue.run_folder("r1")
    (folder / "rounds.jsonl").write_text('{"round": 1}\n')
    queue.change("r1", state=RUNNING)
    queue.note("r1", {"round": 1, "rounds": 5, "epsilon_spent": 0.25})
    said = client.follow("r1", 0)
    assert (said["state"], said["round"], said["rounds"]) == ("running", 1, 5)
    assert (said["epsilon_spent"], said["lines"], said["offset"]) == (0.25, [{"round": 1}], 13)
    assert client.follow("r1", 13)["lines"] == []
    with pytest.raises(ConfigurationError, match="is running, it has no files yet"):
        client.files("r1")
    queue.change("r1", state=FINISHED)
    (folder / "journal").mkdir()
    (folder / "journal" / "secret").write_text("x")
    (folder / "manifest.json").write_text(
        json.dumps({"files": {"config.yaml": "", "rounds.jsonl": ""}})
    )
    with tarfile.open(fileobj=io.BytesIO(client.files("r1"))) as archive:
        assert archive.getnames() == ["config.yaml", "rounds.jsonl", "manifest.json"]


def test_a_run_is_stopped(setting):
    setting.client.submit("r1", JOB, "")
    assert setting.client.stop("r1")["state"] == "stopped"
    setting.client.submit("r2", JOB, "")
    setting.queue.change("r2", state=RUNNING)
    said = setting.client.stop("r2")
    assert (said["state"], said["stop"], setting.woken) == ("running", True, 4)
    with pytest.raises(ConfigurationError, match="no run of this id"):
        setting.client.stop("r3")


def test_why_a_run_failed_is_told(setting):
    setting.client.submit("r1", JOB, "")
    setting.queue.change("r1", state=FAILED, reason="too few", exit_code=4)
    said = setting.client.follow("r1", 0)
    assert (said["state"], said["reason"], said["exit_code"]) == ("failed", "too few", 4)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda r: copied(r, content=r.read() + b" "),
        lambda r: copied(r, url=str(r.url).replace("runs", "status")),
        lambda r: copied(r, url=str(r.url) + "?offset=1"),
        lambda r: copied(r, headers={requests.OPERATOR: "another"}),
        lambda r: copied(r, headers={requests.SIGNATURE: "0" * 128}),
        lambda r: copied(r, headers={requests.TIME: "1"}),
        lambda r: httpx.Request(r.method, r.url, content=r.read()),
    ],
    ids=["body", "path", "query", "operator", "signature", "time", "unsigned"],
)
def test_a_request_that_was_changed_on_the_way_is_refused(setting, spoil):
    setting.transport.spoil = spoil
    with pytest.raises((VerificationError, FederationError)):
        setting.client.submit("r1", JOB, "")
    assert setting.queue.entries() == []


def test_a_request_that_was_heard_before_is_refused(setting):
    heard = []

    def keep(request):
        heard.append(request)
        return heard[0]

    setting.transport.spoil = keep
    setting.client.status()
    with pytest.raises(VerificationError, match="heard before"):
        setting.client.status()


def test_a_clock_that_is_behind_a_new_server_is_told_to_come_again(setting, monkeypatch):
    now = time.time()
    monkeypatch.setattr("dp_risk.cli.federation.client.time.time", lambda: now - 30)
    with pytest.raises(SignedTooEarly, match="signed before the server was started"):
        setting.client.status()
    # Only operators hear of it.
    setting.transport.spoil = lambda r: copied(r, headers={requests.SIGNATURE: "0" * 128})
    with pytest.raises(VerificationError, match="not signed by an operator"):
        setting.client.status()


def test_an_operator_who_was_removed_is_shut_out(setting):
    path = setting.house.folder / OPERATORS
    before = path.read_bytes()
    try:
        path.write_text("other: " + "a" * 64 + "\n")
        with pytest.raises(VerificationError, match="not signed by an operator"):
            setting.client.status()
        path.write_text("other: nonsense\n")
        with pytest.raises(VerificationError, match=r"cannot read who its operators are$"):
            setting.client.status()
    finally:
        path.write_bytes(before)
    assert setting.client.status()["runs"] == []


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "runs"), ("POST", "status"), ("GET", "nothing"), ("GET", "runs/r1/stop"), ("GET", "")],
)
def test_other_paths_and_methods_are_none(setting, method, path):
    with pytest.raises(FederationError, match="answers 40"):
        setting.client._json(method, path)


def test_the_clients_paths_are_the_guards():
    from server.guard import DESK

    assert BASE == DESK
