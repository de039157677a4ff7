"""The way of a child to the sites: replies are taken apart as what a liar may have sent.

With `server/link.py` the one place of the server that knows Flower's inner parts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import httpx
from flwr.app import Error, Message
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode
from flwr.common.serde import metadata_from_proto
from flwr.proto import message_pb2, runtime_pb2
from flwr.supercore.inflatable.inflatable_object import (
    get_object_head_values_from_object_content,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.superlink.grid import HttpGrid

from dp_risk.federation.parts import MAX_MESSAGE_BYTES, MAX_OBJECTS, check_expanded
from dp_risk.types import Refused

LOG = logging.getLogger("dp_risk.server")


@dataclass(kw_only=True, eq=False)
class _Coming:
    """A reply of which not every part is there."""

    head: Any
    parts: list[str]
    objects: dict[str, bytes] = field(default_factory=dict)


class HearingGrid(HttpGrid):  # type: ignore[misc]
    """Flower's grid, for which no reply is an error and none is waited for.

    Flower's own believes what a reply says of its sender and its question, waits for hours for its
    parts, and raises whatever its bytes raise.

    Parameters
    ----------
    address : str
        HOST:PORT of the runtime API, without TLS.
    token : str
        Of the task.
    listener : callable
        Hears every reply, and the name in the roster of the site that sent it.
    """

    def __init__(
        self, address: str, *, token: str, listener: Callable[[str, Message], None]
    ) -> None:
        super().__init__(address, insecure=True, token=token)
        self._listener = listener
        self._names: dict[int, str] = {}
        self._coming: dict[str, _Coming] = {}

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to these messages that are there, whole or of no use."""
        wanted = list(message_ids)
        # A head comes once: asked for it again, Flower says that the message is gone.
        unknown = [number for number in wanted if number not in self._coming]
        found = self._runtime_client.PullMessages(
            runtime_pb2.PullAppMessagesRequest(message_ids=unknown)
        )
        for head, tree in zip(found.messages_list, found.message_object_trees, strict=True):
            parts = list(dict.fromkeys(part.object_id for part in iterate_object_tree(tree)))
            self._coming[head.metadata.reply_to_message_id] = _Coming(head=head, parts=parts)
        replies = []
        for asked, coming in list(self._coming.items()):
            reply = self._reply(coming) if asked in wanted else None
            if reply is not None or asked not in wanted:
                del self._coming[asked]
            if reply is not None:
                self._listener(self.site(reply.metadata.src_node_id), reply)
                replies.append(reply)
        return replies

    def site(self, node: int) -> str:
        """Return the name in the roster of the site that a node is; empty where it is none."""
        if node not in self._names:
            self._names = {found.node_id: found.name for found in self.get_nodes()}
        return self._names.get(node, "")

    def _reply(self, coming: _Coming) -> Message | None:
        """Return a reply; None as long as a part of it is on its way.

        Who answers what is taken from the head, which the server checked.
        """
        metadata = metadata_from_proto(coming.head.metadata)
        try:
            if not self._fetched(coming):
                return None
            check_expanded(
                metadata.message_id, coming.objects, MAX_MESSAGE_BYTES,
                get_object_head_values_from_object_content,
            )  # fmt: skip
            message = inflate_object_from_contents(metadata.message_id, coming.objects)
            if isinstance(message, Message) and message.has_content():
                return make_message(metadata=metadata, content=message.content)
        except httpx.HTTPError:
            raise
        # A liar chooses the bytes, and so what they raise.
        except Exception as error:
            LOG.warning(
                "node %d sent no readable reply: %s", metadata.src_node_id, type(error).__name__
            )
        unreadable = Error(code=ErrorCode.MESSAGE_UNAVAILABLE, reason="no readable reply")
        return make_message(metadata=metadata, error=unreadable)

    def _fetched(self, coming: _Coming) -> bool:
        """Fetch the parts that have arrived; return whether that is all.

        Raises
        ------
        Refused
            If one is gone, or they are too many or too large.
        """
        if len(coming.parts) > MAX_OBJECTS:
            raise Refused(f"a reply of more than {MAX_OBJECTS} objects")
        for part in coming.parts:
            if part in coming.objects:
                continue
            found = self._runtime_client.PullObject(
                message_pb2.PullObjectRequest(
                    node=self.node, run_id=self.run.run_id, object_id=part
                )
            )
            if not found.object_found:
                raise Refused("a part of the reply is gone")
            if not found.object_available:
                return False
            coming.objects[part] = bytes(found.object_content)
            if sum(map(len, coming.objects.values())) > MAX_MESSAGE_BYTES:
                raise Refused(f"a reply above {MAX_MESSAGE_BYTES} bytes")
        # It frees the server's memory.
        self._runtime_client.ConfirmMessageReceived(
            message_pb2.ConfirmMessageReceivedRequest(
                node=self.node,
                run_id=self.run.run_id,
                message_object_id=coming.head.metadata.message_id,
            )
        )
        return True
