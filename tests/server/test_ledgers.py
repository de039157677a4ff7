"""What sites' ledgers say of a run: kept where it holds, and a reason where it does not."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Context, Message
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.app import make_app
from dp_risk import wire
from dp_risk.privacy import keys, run_statement
from dp_risk.privacy.plan import Plan
from dp_risk.privacy.release import canonical
from dp_risk.privacy.schedule import costs
from server import ledgers
from server.budget import SiteView
from server.grids import InProcessGrid
from server.ledgers import collect, judge
from server.rounds import execute
from server.statements import checked
from tests import federation
from tests.federation import Server, history, plan, signing_key, together
from tests.privacy.test_run_statement import json_values, places

from .test_job import job

Sites = Callable[..., list[Path]]
PLAN = plan()
NONE: dict[str, int] = {}


def grid(folders: list[Path], app: Any = None) -> InProcessGrid:
    return InProcessGrid(app or make_app(), {n + 2: str(f) for n, f in enumerate(folders)})


def stated(folder: Path, asked: Plan = PLAN) -> dict[str, Any]:
    """What a site says when a run of one round is closed, as it arrives and is checked."""
    server = Server(folder)
    server.enrol(asked)
    server.train(asked)
    reply = server.ask("query.close", {"run": asked.run})
    return checked(wire.read_statement(reply), closing=True)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    place = tmp_path_factory.mktemp("here") / "site-00"
    return stated(federation.make_site(place, federation.rows(), federation.policy()))


def told(statement: Any, *, released: Any = NONE, site: str = "site-00") -> ledgers.Evidence:
    return judge(PLAN, site, SiteView(statement=statement), released)


def signed(closing: Any, key: bytes = signing_key("site-00")) -> Any:
    body = {name: v for name, v in closing["statement"].items() if name != "signature"}
    private = Ed25519PrivateKey.from_private_bytes(key)
    return {
        **closing,
        "statement": {
            **body,
            "signature": keys.sign(private, run_statement.CONTEXT, canonical(body)),
        },
    }


def test_an_honest_statement_is_kept_and_says_the_runs_epsilon(
    honest: dict[str, Any], tmp_path: Path
) -> None:
    view = SiteView(statement=honest)
    found = collect(tmp_path, PLAN, {"site-00": view}, {"site-00": [("training", 0)]})["site-00"]
    assert found.missing is None
    assert found.statement == honest["closing"]["statement"]
    kept = json.loads((tmp_path / "ledgers" / "site-00.json").read_text())
    read = run_statement.check(kept["statement"], kept["entries"])
    assert costs(read.schedule, PLAN.delta) == dict(PLAN.costs)


def test_it_is_not_kept_of_a_message_that_ends_no_run(honest: dict[str, Any]) -> None:
    assert "closing" not in checked(honest)


def test_who_was_away_and_who_gave_none_is_told_apart(honest: dict[str, Any]) -> None:
    away = judge(PLAN, "site-00", None, NONE)
    assert away.statement is None
    assert away.missing == "it was away when the run was closed"
    gave = told({**honest, "closing": None})
    assert gave.statement is None
    assert gave.missing is not None
    assert "it gave none" in gave.missing


WRONG: dict[str, Callable[[Any], Any]] = {
    "no mapping": lambda c: [],
    "more": lambda c: {**c, "ballast": 1},
    "no entries": lambda c: {**c, "entries": []},
    "no list of entries": lambda c: {**c, "entries": {"0": 1}},
    "too many entries": lambda c: {**c, "entries": c["entries"] * 50},
    "a long text": lambda c: {**c, "entries": [{**c["entries"][0], "text": "x" * 10**6}]},
    "deep text": lambda c: {**c, "entries": [{**c["entries"][0], "text": "[" * 10_000}]},
    "texts that are none": lambda c: {**c, "entries": [{**c["entries"][0], "text": 3}]},
    "a chain with a hole": lambda c: {**c, "entries": [c["entries"][0], *c["entries"][2:]]},
    "entries that are lists": lambda c: {**c, "entries": [[1]]},
    "another site": lambda c: signed({**c, "statement": {**c["statement"], "site": "site-01"}}),
    "another key": lambda c: signed(c, signing_key("site-01")),
    "a bloated statement": lambda c: signed(
        {**c, "statement": {**c["statement"], "ballast": "x" * 10**6}}
    ),
}
LONG = ("too many entries", "a long text", "a bloated statement")


@pytest.mark.parametrize("wrong", WRONG)
def test_a_lying_site_has_no_statement(honest: dict[str, Any], wrong: str) -> None:
    found = told({**honest, "closing": WRONG[wrong](copy.deepcopy(honest["closing"]))})
    assert found.statement is None
    assert not found.entries
    assert found.missing is not None
    assert len(found.missing) < 200
    assert "\n" not in found.missing
    assert ("longer than the run" in found.missing) == (wrong in LONG)


def test_a_statement_of_another_run_plan_key_or_account_is_none(
    honest: dict[str, Any], tmp_path: Path
) -> None:
    view = SiteView(statement=honest)
    for other, why in (
        (replace(PLAN, run="run-2"), "of another run"),
        (replace(PLAN, seed=5), "of another plan"),
        (replace(PLAN, rounds=2), "of another plan"),
        (replace(PLAN, dataset="other"), "of another"),
        (replace(PLAN, participants={"site-00": "ab" * 32}), "signed with another key"),
    ):
        found = judge(other, "site-00", view, NONE)
        assert found.statement is None
        assert why in str(found.missing)
    assert "of another site" in str(judge(PLAN, "site-01", view, NONE).missing)
    assert "fewer charges than releases" in str(told(honest, released={"training": 2}).missing)
    assert told(honest, released={"training": 1}).statement is not None
    outside = replace(PLAN, participants={"../../away": federation.KEY})
    found = collect(tmp_path / "out", outside, {"../../away": view}, {})["../../away"]
    assert found.missing == "the site's name is no name of a file"
    assert not (tmp_path / "out").exists()


@settings(max_examples=150, deadline=None)
@given(data=st.data(), value=json_values, anew=st.booleans())
def test_whatever_a_site_says_the_record_has_a_statement_that_holds_or_none(
    honest: dict[str, Any], data: st.DataObject, value: Any, anew: bool
) -> None:
    closing = copy.deepcopy(honest["closing"])
    *way, last = data.draw(places(honest["closing"]))
    here = closing
    for key in way:
        here = here[key]
    here[last] = value
    if anew and isinstance(closing["statement"], dict):
        try:
            closing = signed(closing)
        except ValueError:
            return
    found = told({**honest, "closing": closing})
    assert (found.statement is None) == (found.missing is not None)
    if found.statement is not None:
        run_statement.check(found.statement, found.entries)
        assert len(json.dumps(found.statement)) < 2 * len(json.dumps(honest["closing"]))


@pytest.mark.parametrize("trust", ["local", "distributed"])
def test_a_run_records_statements_of_all_its_sites(
    tmp_path: Path, sites: Sites, trust: str
) -> None:
    folders = sites(3, **(together(3) if trust == "distributed" else {}))
    (tmp_path / "out").mkdir()
    asked = job(tmp_path / "out", sites=3)
    record = execute(grid(folders), replace(asked, privacy=replace(asked.privacy, trust=trust)))
    for site, folder in zip(record["sites"], folders, strict=True):
        kept = json.loads((tmp_path / "out" / "ledgers" / f"{site['site']}.json").read_text())
        assert kept["statement"] == site["statement"]
        assert site["no_statement"] is None
        found = run_statement.check(site["statement"], kept["entries"])
        assert max(costs(found.schedule, record["delta"]).values()) == record["epsilon_spent"]
        assert found.head == site["ledger_head"] == history(folder)[-1][1]


class Lying:
    """Sites of which one tells what it likes of a run that is over."""

    def __init__(self, node: int, change: Callable[[Any], Any]) -> None:
        self.node, self.change, self.app = node, change, make_app()

    def __call__(self, message: Message, context: Context) -> Message:
        reply = self.app(message, context)
        if message.metadata.message_type != "query.close" or context.node_id != self.node:
            return reply
        said = wire.read_statement(reply.content)
        said["closing"] = self.change(said["closing"])
        return Message(wire.statement_record(said), reply_to=message)


def test_a_run_with_a_lying_site_ends_and_says_so(tmp_path: Path, sites: Sites) -> None:
    folders = sites(2)
    (tmp_path / "out").mkdir()
    app = Lying(3, WRONG["a chain with a hole"])
    record = execute(grid(folders, app), job(tmp_path / "out"))
    first, second = record["sites"]
    assert first["statement"] is not None
    assert second["statement"] is None
    assert "the chain is broken" in second["no_statement"]
    assert [path.name for path in (tmp_path / "out" / "ledgers").iterdir()] == ["site-00.json"]


def test_a_site_that_is_away_at_the_close_has_none(tmp_path: Path, sites: Sites) -> None:
    folders, app = sites(2), make_app()

    def silent(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "query.close" and context.node_id == 3:
            raise RuntimeError("gone")
        return app(message, context)

    (tmp_path / "out").mkdir()
    record = execute(grid(folders, silent), job(tmp_path / "out", timeout=1.0))
    assert [site["statement"] is None for site in record["sites"]] == [False, True]
    assert record["sites"][1]["no_statement"] == "it was away when the run was closed"


def test_a_server_killed_between_the_closes_gets_all_statements_in_the_end(
    tmp_path: Path, sites: Sites
) -> None:
    class Killed(BaseException):
        pass

    class Mortal(InProcessGrid):
        def push_messages(self, messages: Any) -> Any:
            asked = list(messages)
            if asked[0].metadata.message_type == "query.close":
                super().push_messages(asked[:1])
                raise Killed
            return super().push_messages(asked)

    folders = sites(2)
    (tmp_path / "out").mkdir()
    one = replace(job(tmp_path / "out"), resumable=True)
    with pytest.raises(Killed):
        execute(Mortal(make_app(), {n + 2: str(f) for n, f in enumerate(folders)}), one)
    assert [history(folder)[-1][0] for folder in folders] == ["close", "release"]
    place = tmp_path / "out" / "ledgers"
    place.mkdir()
    (place / ".site-00.json.0123456789abcdef").write_text("half of it")
    record = execute(grid(folders), one)
    assert [site["no_statement"] for site in record["sites"]] == [None, None]
    assert sorted(path.name for path in place.iterdir()) == ["site-00.json", "site-01.json"]


def test_a_reason_that_no_page_can_hold_is_no_statement(honest: dict[str, Any]) -> None:
    half = {"kind": "raise", "lifetime_epsilon": 9.0, "by": "me", "reason": "\ud800", "time": "now"}
    with pytest.raises(ValueError, match="amendments is missing or impossible"):
        checked({**honest, "amendments": [half]})
    checked({**honest, "amendments": [{**half, "reason": "two\nlines \U0001f600"}]})
    closing = copy.deepcopy(honest["closing"])
    closing["statement"]["amendments"] = [{**half, "sequence": 0}]
    found = told({**honest, "closing": signed(closing)})
    assert found.statement is None
    assert "an amendment is not well formed" in str(found.missing)


def test_times_of_entries_are_too_coarse_to_measure_a_batch(honest: dict[str, Any]) -> None:
    for entry in honest["closing"]["entries"]:
        assert "." not in entry["time"]
