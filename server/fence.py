"""What a node may leave with the server: one reply to each question, of bounded size.

Flower keeps in memory whatever a node pushes: questions in the server's name, trees of objects that
grow when they are put together, replies for another node, objects without end.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dp_risk.federation.parts import MAX_MESSAGE_BYTES, MAX_OBJECTS
from server.guard import App, Event, Receive, Scope, Send

PUSH_MESSAGES, PUSH_OBJECT = "/v1/fleet/push-messages", "/v1/fleet/push-object"
_FORBIDDEN = 403
# Questions to one node that may be open at the same time are far fewer.
_REMEMBERED = 16


class Reply(NamedTuple):
    """What a node pushes.

    Parameters
    ----------
    sender, node : int
        Who sends it by the reply's own words, and who pushes it.
    question : str
        Id of the message that is answered; empty where it is none.
    tree : object
        `object_id` and `children`, trees themselves.
    """

    sender: int
    node: int
    question: str
    tree: Any


@dataclass(kw_only=True, eq=False)
class _Pushed:
    """What a node pushed: its last replies, by question, and the room that is left."""

    digests: OrderedDict[str, bytes] = field(default_factory=OrderedDict)
    room: int = 0


class Fence:
    """An ASGI app in front of Flower's; bodies are in memory already.

    Parameters
    ----------
    app : ASGI app
        Flower's.
    read : callable
        Decodes a body of `PUSH_MESSAGES`; raises where it is not one reply and its tree.
    asked : callable
        Whether a message, by its id, was sent to a node and waits for its answer.
    children : callable
        Returns the ids of the children under which an object is known already, or None.
    """

    def __init__(
        self,
        app: App,
        *,
        read: Callable[[bytes], Reply],
        asked: Callable[[str, int], bool],
        children: Callable[[str], Sequence[str] | None],
    ) -> None:
        self._app = app
        self._read = read
        self._asked = asked
        self._children = children
        self._pushed: dict[bytes, _Pushed] = {}
        # What is known of objects must not change between the look and the push.
        self._one = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        path = scope["path"] if scope["type"] == "http" else ""
        if path not in (PUSH_MESSAGES, PUSH_OBJECT):
            await self._app(scope, receive, send)
            return
        first = await receive()
        body, given = first.get("body", b""), False

        async def again() -> Event:
            nonlocal given
            if given:
                return await receive()
            given = True
            return first

        key = dict(scope["headers"]).get(b"flwr-public-key", b"")
        if path == PUSH_OBJECT:
            if self._fits(key, len(body)):
                await self._app(scope, again, send)
            else:
                await _refuse(send)
            return
        answer: list[Event] = []

        async def keep(event: Event) -> None:
            answer.append(event)

        async with self._one:
            if self._takes(key, body):
                await self._app(scope, again, keep)
            else:
                await _refuse(keep)
        # Not before: a peer that does not read must hold up nobody.
        for event in answer:
            await send(event)

    def _takes(self, key: bytes, body: bytes) -> bool:
        try:
            reply = self._read(body)
        # A liar chooses the bytes, and so what they raise.
        except Exception:
            return False
        if reply.sender != reply.node or not reply.question:
            return False
        if not bounded(reply.tree, self._children):
            return False
        pushed = self._pushed.setdefault(key, _Pushed())
        digest = hashlib.sha256(body).digest()
        known = pushed.digests.get(reply.question)
        if known is not None:
            # Sent again because the connection was lost: the same words.
            return known == digest
        if self._asked(reply.question, reply.node):
            pushed.digests[reply.question] = digest
            pushed.room = MAX_MESSAGE_BYTES
            while len(pushed.digests) > _REMEMBERED:
                pushed.digests.popitem(last=False)
        # What nobody asked for is not stored by Flower.
        return True

    def _fits(self, key: bytes, size: int) -> bool:
        """Whether there is room for one more object of a node's reply."""
        pushed = self._pushed.get(key)
        if pushed is None or pushed.room < size:
            return False
        pushed.room -= size
        return True


def bounded(tree: Any, children: Callable[[str], Sequence[str] | None]) -> bool:
    """Whether a tree is as large when it is built from what is known of each object.

    An object stands for its children, wherever it is named: one that has others elsewhere makes
    a few names a tree of any size.

    Parameters
    ----------
    tree : object
        `object_id` and `children`, trees themselves.
    children : callable
        Ids of the children of an object that is known already, or None.
    """
    seen: dict[str, list[str]] = {}
    waiting, count = [tree], 0
    while waiting:
        node = waiting.pop()
        count += 1
        named = [child.object_id for child in node.children]
        known = children(node.object_id)
        if count > MAX_OBJECTS or seen.setdefault(node.object_id, named) != named:
            return False
        if known is not None and list(known) != named:
            return False
        waiting += node.children
    return True


async def _refuse(send: Send) -> None:
    headers = [(b"content-length", b"0")]
    await send({"type": "http.response.start", "status": _FORBIDDEN, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
