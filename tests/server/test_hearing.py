"""Replies whose parts come later than their heads."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Message
from flwr.common.serde import message_to_proto
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.run import Run

from dp_risk import wire
from server.hearing import HearingGrid
from tests import federation

_ = federation.KEY  # Flower makes messages only for a task that it knows.


class Runtime:
    """Flower's runtime API with one reply: its head comes once, its parts one poll later."""

    def __init__(self, asked: str, reply: Message) -> None:
        self.asked, self.reply, self.polls = asked, reply, 0
        self.parts = {k: o.deflate() for k, o in get_all_nested_objects(reply).items()}

    def PullMessages(self, request: Any) -> Any:  # noqa: N802
        self.polls += 1
        if self.asked not in request.message_ids:
            return SimpleNamespace(messages_list=[], message_object_trees=[])
        assert self.polls == 1, "asked for a head again, Flower answers that it is gone"
        head = message_to_proto(self.reply)
        head.metadata.reply_to_message_id = self.asked
        return SimpleNamespace(
            messages_list=[head], message_object_trees=[get_object_tree(self.reply)]
        )

    def PullObject(self, request: Any) -> Any:  # noqa: N802
        ready = self.polls > 1
        content = self.parts[request.object_id] if ready else b""
        return SimpleNamespace(object_found=True, object_available=ready, object_content=content)

    def ConfirmMessageReceived(self, request: Any) -> None:  # noqa: N802
        """Let go of a reply."""

    def GetNodes(self, request: Any) -> Any:  # noqa: N802
        return SimpleNamespace(nodes=[])


def test_a_reply_is_heard_once_its_parts_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    reply = Message(wire.refusal_record(), 2, "query.status")
    reply.metadata.__dict__["_message_id"] = reply.object_id
    runtime, heard = Runtime("question", reply), []
    monkeypatch.setattr(HearingGrid, "_runtime_client", property(lambda self: runtime))
    grid = HearingGrid("127.0.0.1:1", token="t", listener=lambda site, one: heard.append(one))
    grid.set_run(Run.create_empty(1))
    assert grid.pull_messages(["question"]) == []
    [found] = grid.pull_messages(["question"])
    assert wire.is_refusal(found.content)
    assert heard == [found]
