"""The in-process grid: real messages, no shared objects, no text of an exception."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_to_proto

from clients.app import make_app
from dp_risk import wire
from server.exchange import ask
from server.grids import InProcessGrid

SECRET = "jane-doe-4711"


def test_two_sites_never_share_an_object() -> None:
    seen: list[Any] = []
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        weights = wire.read_request(message).weights
        seen.append((message.content, context, context.state, weights["w"]))
        context.state["mine"] = wire.arrays_to_record(weights)
        message.content["spoilt"] = wire.arrays_to_record({"w": np.ones(1)})
        return Message(wire.request_record({"n": len(seen)}, weights), reply_to=message)

    grid = InProcessGrid(app, {2: "a", 3: "b"})
    sent = {"w": np.zeros(4)}
    content = wire.request_record({}, sent)
    messages = [grid.create_message(content, "train", node, "0") for node in (2, 3)]
    replies = list(grid.send_and_receive(messages))
    assert len(seen) == 2
    for one, two in zip(*seen, strict=True):
        assert one is not two
    assert not np.shares_memory(seen[0][3], seen[1][3])
    assert not np.shares_memory(seen[0][3], sent["w"])
    assert "spoilt" not in content
    assert {r.metadata.src_node_id for r in replies} == {2, 3}
    for reply, (inside, *_) in zip(replies, seen, strict=True):
        assert reply.content is not inside


def said(answers: dict[int, RecordDict]) -> dict[int, dict[str, object]]:
    return {node: wire.read_statement(content) for node, content in answers.items()}


def test_state_stays_with_its_site() -> None:
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        found = "been" in context.state
        context.state["been"] = wire.arrays_to_record({"w": np.ones(1)})
        where = str(context.node_config["site"])
        return Message(wire.statement_record({"been": found, "site": where}), reply_to=message)

    grid = InProcessGrid(app, {2: "a", 3: "b"})
    first = said(ask(grid, [2], "query", {}, None, 1.0))
    second = said(ask(grid, [2, 3], "query", {}, None, 1.0))
    assert first == {2: {"been": False, "site": "a"}}
    assert second == {2: {"been": True, "site": "a"}, 3: {"been": False, "site": "b"}}


def test_an_exception_becomes_an_error_without_its_text() -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        raise ValueError(SECRET)

    grid = InProcessGrid(app, {2: "a"})
    message = grid.create_message(wire.request_record({}), "train", 2, "0")
    [reply] = grid.send_and_receive([message])
    assert reply.has_error()
    assert not reply.has_content()
    assert SECRET.encode() not in message_to_proto(reply).SerializeToString()
    assert SECRET not in str(reply.error.reason)


def test_an_error_is_no_answer(tmp_path: Path) -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if context.node_config["site"] == "b":
            raise ValueError
        return Message(RecordDict(), reply_to=message)

    grid = InProcessGrid(app, {2: "a", 3: "b"})
    assert set(ask(grid, [2, 3], "train", {}, None, 1.0)) == {2}


def test_a_reply_is_pulled_once(sites: Callable[..., list[Path]]) -> None:
    folders = {n + 2: str(folder) for n, folder in enumerate(sites())}
    grid = InProcessGrid(make_app(), folders)
    assert sorted(grid.get_node_ids()) == [2, 3]
    message = grid.create_message(wire.request_record({}), "query.status", 2, "0")
    ids = list(grid.push_messages([message]))
    assert len(list(grid.pull_messages(ids))) == 1
    assert list(grid.pull_messages(ids)) == []
    assert list(grid.pull_messages(["unknown"])) == []


def test_sites_side_by_side_answer_in_their_own_time_and_fail_alone() -> None:
    gate = threading.Event()

    def app(message: Message, context: Context) -> Message:
        where = context.node_config["site"]
        if where == "b":
            assert gate.wait(5)
        if where == "c":
            raise RuntimeError(SECRET)
        return Message(wire.statement_record({"site": where}), reply_to=message)

    heard: list[int] = []
    with ThreadPoolExecutor(3) as executor:
        grid = InProcessGrid(
            app, {2: "a", 3: "b", 4: "c"}, lambda _, reply: heard.append(1), executor
        )
        messages = [
            grid.create_message(wire.request_record({}), "query", n, "0") for n in (2, 3, 4)
        ]
        ids = list(grid.push_messages(messages))
        early = []
        while len(early) < 2:
            early += grid.pull_messages(ids)
        assert {reply.metadata.src_node_id for reply in early} == {2, 4}
        assert SECRET not in str([message_to_proto(reply) for reply in early])
        assert not list(grid.send_and_receive(messages[1:2], timeout=0.01))
        gate.set()
        late = []
        while not late:
            late += grid.pull_messages(ids)
        assert late[0].metadata.src_node_id == 3
    assert len(heard) == 4
