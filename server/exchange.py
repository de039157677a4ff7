"""One question to many sites, and their answers in time."""

from __future__ import annotations

import logging
import math
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
# Seconds of silence after which a site is asked again.
_AGAIN_SECONDS = 10.0


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

    A message is lost when a connection breaks while it is on its way, and nobody is told. So who is
    silent is asked again after a while, and again after twice as long: a site answers the same
    request once, and repeats what it has stored. `values` may depend on the node.
    """
    deadline, pause = time.monotonic() + timeout, _AGAIN_SECONDS
    silent, answers = set(nodes), dict[int, RecordDict]()
    waiting: dict[str, int] = {}
    again = -math.inf
    while silent:
        now = time.monotonic()
        if now > deadline:
            break
        if now >= again:
            # Nobody waits for an answer after the deadline: nobody shall pay for one.
            ttl, asked = max(deadline - now, 1.0), sorted(silent)
            messages = [_message(n, kind, values, weights, ttl) for n in asked]
            pushed = zip(grid.push_messages(messages), asked, strict=False)
            waiting |= {number: node for number, node in pushed if number is not None}
            if math.isfinite(again):
                pause *= 2
            again = now + pause
        for reply in grid.pull_messages(list(waiting)):
            node = waiting.pop(reply.metadata.reply_to_message_id, None)
            if node is None or node not in silent:
                continue
            silent.remove(node)
            if reply.has_content():
                answers[node] = reply.content
        waiting = {number: node for number, node in waiting.items() if node in silent}
        if silent:
            time.sleep(_POLL_SECONDS)
    return answers


def _message(
    node: int,
    kind: str,
    values: Mapping[str, Any] | Callable[[int], Mapping[str, Any]],
    weights: wire.Arrays | None,
    ttl: float,
) -> Message:
    said = values(node) if callable(values) else values
    content, group = wire.request_record(said, weights), str(said.get("round"))
    return Message(content, node, kind, ttl=ttl, group_id=group)


def statements(
    answers: Mapping[int, RecordDict], *, closing: bool = False
) -> dict[int, dict[str, Any]]:
    """Return the statements among the answers; refusals and impossible ones are left out.

    `closing` keeps what they say of a run that is over.
    """
    out = {}
    for node, content in answers.items():
        try:
            out[node] = checked(wire.read_statement(content), closing=closing)
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
