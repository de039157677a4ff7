"""`dp-risk site serve`: what it checks before it connects, what it prints, how it ends."""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from clients.fleet import Server
from clients.site import Site
from dp_risk.cli.site import serve as served
from dp_risk.federation import node_keys
from dp_risk.federation.agreement import Agreement
from dp_risk.federation.house import House
from tests.federation import DELTA, coding, make_site, policy, rows

from .conftest import Run

ROWS = 311


def join(folder: Path, **changes: Any) -> None:
    """Leave in a site's folder what `dp-risk site join` leaves."""
    agreed = Agreement(dataset="tiny", schema=coding().schema.digest, unit="record", delta=DELTA)
    said: dict[str, Any] = {"name": "fed", "hosts": ("localhost",), "port": 8000, "insecure": False}
    place = folder.parent / "fed"
    place.mkdir()
    made = House.create(
        place,
        **{**said, "agreed": agreed, **changes},
        schema=b"name: tiny\n",
        now=datetime.datetime.now(datetime.UTC),
    )
    (folder / "federation.json").write_bytes((made.folder / "federation.json").read_bytes())
    node_keys.load_or_create(folder / "node.key")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return make_site(tmp_path / "site", rows(ROWS), policy())


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[Server]:
    """A server that never answers: the first attempt to connect brings a signal."""
    asked: list[Server] = []

    class Connect:
        number = signal.SIGTERM

        def __init__(self, *, server: Server) -> None:
            asked.append(server)

        @contextmanager
        def __call__(self) -> Iterator[None]:
            os.kill(os.getpid(), self.number)
            yield

    monkeypatch.setattr(served, "Fleet", Connect)
    return asked


def test_it_says_who_calls_whom_and_ends_with_a_signal(run: Run, site: Path, called: list[Server]):
    join(site)
    said = run("site", "serve", site)
    assert said.code == 0, said.err
    first, last = said.out.splitlines()
    assert first.split(" ", 1)[1] == (
        "serving site=site-00 federation=fed address=https://localhost:8000 left_epsilon=10 "
        "lifetime_epsilon=10"
    )
    assert last.split(" ", 1)[1].startswith('ended then="charges are kept')
    assert called[0].address == "localhost:8000"
    assert not called[0].insecure
    assert b"BEGIN CERTIFICATE" in (called[0].authority or b"")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_an_interrupt_has_its_own_code(
    run: Run, site: Path, called: list[Server], monkeypatch: pytest.MonkeyPatch
):
    join(site)
    monkeypatch.setattr(served.Fleet, "number", signal.SIGINT)
    assert run("site", "serve", site).code == 130


def test_json_lines_hold_the_same_and_nothing_of_the_rows(
    run: Run, site: Path, called: list[Server]
):
    join(site, insecure=True)
    said = run("site", "serve", site, "--log-json", "--insecure")
    lines = [json.loads(line) for line in said.out.splitlines()]
    assert [line["event"] for line in lines] == ["serving", "INSECURE", "ended"]
    assert lines[0]["left_epsilon"] == 10
    assert lines[1]["level"] == "warning"
    assert list(lines[2]) == ["time", "level", "event", "then"]
    opened = Site.open(site)
    for number in (ROWS, len(opened.shard.train), len(opened.shard.holdout_units)):
        assert str(number) not in said.out.replace(lines[0]["time"], "")
    opened.ledger.close_file()


def refused(said: Any, text: str) -> None:
    assert (said.code, said.out) == (2, "")
    assert text in said.err
    assert len(said.err.splitlines()) == 1


def test_what_is_missing_is_said_in_one_line(run: Run, site: Path, called: list[Server]):
    refused(run("site", "serve", site.parent / "other"), "no such site")
    refused(run("site", "serve", site), "dp-risk site join")
    join(site)
    for name, text in (
        ("node.key", "node.key"),
        ("policy.yaml", "policy.yaml"),
        ("site.yaml", "not a site"),
        ("rows.parquet", "rows.parquet"),
    ):
        (site / name).rename(site / "away")
        refused(run("site", "serve", site), text)
        (site / "away").rename(site / name)
    assert not called


def test_tls_is_the_federations_choice(run: Run, site: Path, called: list[Server]):
    join(site)
    refused(run("site", "serve", site, "--insecure"), "leave the flag out")
    (site.parent / "fed").rename(site.parent / "old")
    join(site, insecure=True)
    refused(run("site", "serve", site), "has no TLS")
    assert not called


def test_another_dataset_is_another_federation(run: Run, site: Path, called: list[Server]):
    agreed = Agreement(dataset="other", schema="ab" * 32, unit="record", delta=DELTA)
    join(site, agreed=agreed)
    said = run("site", "serve", site)
    refused(said, "something else")
    assert "dataset tiny instead of other" in said.err


def test_a_site_is_served_once(run: Run, site: Path, called: list[Server]):
    join(site)
    with (site / "serve.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        refused(run("site", "serve", site), "another process serves this site")
    assert run("site", "serve", site).code == 0
