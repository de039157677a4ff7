"""One question to many sites, and their answers in time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from dp_risk import wire
from dp_risk.privacy.release import Release
from dp_risk.types import FederationError
from server import judging
from server.statements import checked

LOG = logging.getLogger("dp_risk.server")
_POLL_SECONDS = 0.1


def wait_for_nodes(grid: Grid, count: int, timeout: float) -> list[int]:
    """Return at least `count` node ids.

    Raises
    ------
    FederationError
        When too few sites are there in time.
    """
    deadline = time.monotonic() + timeout
    while True:
        nodes = sorted(grid.get_node_ids())
        if len(nodes) >= count:
            return nodes[:count]
        if time.monotonic() > deadline:
            raise FederationError(f"{len(nodes)} of {count} sites are there after {timeout:g} s")
        time.sleep(_POLL_SECONDS)


def ask(
    grid: Grid,
    nodes: list[int],
    kind: str,
    values: Mapping[str, Any] | Callable[[int], Mapping[str, Any]],
    weights: wire.Arrays | None,
    timeout: float,
) -> dict[int, RecordDict]:
    """Send one request to every node; return the contents of the answers that came in time.

    `values` may depend on the node.
    """
    if not nodes:
        return {}
    messages = []
    for node in nodes:
        said = values(node) if callable(values) else values
        content, group = wire.request_record(said, weights), str(said.get("round"))
        # Nobody waits for an answer after the deadline: nobody shall pay for one.
        messages.append(Message(content, node, kind, ttl=timeout, group_id=group))
    waiting = [i for i in grid.push_messages(messages) if i is not None]
    deadline = time.monotonic() + timeout
    answers: dict[int, RecordDict] = {}
    while True:
        for reply in grid.pull_messages(waiting):
            waiting.remove(reply.metadata.reply_to_message_id)
            if reply.has_content():
                answers[reply.metadata.src_node_id] = reply.content
        if not waiting or time.monotonic() > deadline:
            return answers
        time.sleep(_POLL_SECONDS)


def statements(answers: Mapping[int, RecordDict]) -> dict[int, dict[str, Any]]:
    """Return the statements among the answers; refusals and impossible ones are left out."""
    out = {}
    for node, content in answers.items():
        try:
            out[node] = checked(wire.read_statement(content))
        except (ValueError, KeyError, TypeError) as error:
            if not wire.is_refusal(content):
                LOG.warning("node %d made no statement: %s", node, error)
    return out


def releases(
    answers: Mapping[int, RecordDict],
    keys: Mapping[int, str],
    *,
    run: str,
    purpose: str,
    round: int,
) -> dict[int, Release | str]:
    """Return the releases among the answers that belong to this round, or why one does not.

    `keys` holds each node's public key, with which it signs.
    """
    out: dict[int, Release | str] = {}
    for node, content in answers.items():
        found = judging.read(content)
        if not isinstance(found, str):
            reason = judging.misplaced(found, keys[node], run=run, purpose=purpose, round=round)
            found = reason or found
        out[node] = found
    return out
