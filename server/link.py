"""Flower's SuperLink inside this program: what the server knows of its inner parts.

The state is in memory: nodes come from the roster, runs from the queue; what lasts is elsewhere.
Nothing of Flower's command line or control API is needed, so none of it is served. The child's
half is `server/hearing.py`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid

from server.fence import Fence, Reply
from server.guard import App

# How many intervals without a heartbeat Flower lets pass before a node is offline.
_PATIENCE = 2
_HEARTBEAT_SECONDS = 30


@dataclass(frozen=True, kw_only=True)
class Task:
    """A Flower run that was started: what a child needs to speak in its name.

    Parameters
    ----------
    run, task : int
        Flower's ids; not the run of a job.
    token : str
        Secret of the task.
    """

    run: int
    task: int
    token: str


@dataclass(frozen=True, kw_only=True)
class Node:
    """A site's node.

    Parameters
    ----------
    site : str
        Name in the roster.
    online : bool
        Whether it is connected.
    seen : float or None
        Seconds since its last heartbeat; None if it was never there.
    """

    site: str
    online: bool
    seen: float | None


class Link:
    """A SuperLink without ports and processes of its own.

    Parameters
    ----------
    bundle : bytes
        The app bundle of every run.
    """

    def __init__(self, bundle: bytes) -> None:
        from flwr.cli.config_utils import get_fab_metadata
        from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
        from flwr.superlink.main import create_app

        app: Any = create_app(_config(), SuperLinkLifespan)
        self._state = app.state.linkstate_factory.state()
        self.app: App = Fence(app, read=_reply, asked=self._asked, children=self._children)
        self._bundle = bundle
        self._name, self._version = get_fab_metadata(bundle)
        self._nodes: dict[str, tuple[bytes, int]] = {}

    def follow(self, roster: Mapping[str, str]) -> tuple[list[str], list[str]]:
        """Let in the nodes of a roster and no others; return the sites that came and that went.

        Parameters
        ----------
        roster : mapping of str to str
            Public key of each site's node, PEM.
        """
        from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID

        keys = {site: pem.encode() for site, pem in roster.items()}
        gone = [site for site, (key, _) in self._nodes.items() if keys.get(site) != key]
        for site in gone:
            key, node = self._nodes.pop(site)
            self._state.delete_node(NOOP_FLWR_AID, node)
            # Else the same key could never come back.
            self._state.node_public_key_to_node_id.pop(key, None)
        come = [site for site in keys if site not in self._nodes]
        for site in come:
            node = self._state.create_node(
                NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, keys[site], _HEARTBEAT_SECONDS, name=site
            )
            self._nodes[site] = (keys[site], node)
        return come, gone

    def nodes(self) -> list[Node]:
        """Return every site of the roster, by name."""
        from flwr.supercore.constant import NodeStatus
        from flwr.supercore.date import now

        at = {node: site for site, (_, node) in self._nodes.items()}
        found = []
        for info in self._state.get_node_info(node_ids=list(at)):
            seen = None
            if info.online_until:
                last = info.online_until - _PATIENCE * info.heartbeat_interval
                seen = max(0.0, now().timestamp() - last)
            online = info.status == NodeStatus.ONLINE
            found.append(Node(site=at[info.node_id], online=online, seen=seen))
        return sorted(found, key=lambda node: node.site)

    def start(self) -> Task:
        """Start a Flower run and claim its task; it ends when nobody calls `keep` for a minute."""
        from flwr.common.constant import NOOP_FLWR_AID
        from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
        from flwr.supercore.fab import Fab

        digest = hashlib.sha256(self._bundle).hexdigest()
        self._state.store_fab(Fab(digest, self._bundle, {}))
        run = self._state.create_run(
            self._name, self._version, digest, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID,
            TaskType.SERVER_APP,
        )  # fmt: skip
        task = self._state.get_run_info(run_ids=[run])[0].primary_task_id
        token = self._state.claim_task(task)
        # A child takes long to start, and only a running task has a minute for that.
        self._state.activate_task(task)
        return Task(run=run, task=task, token=token)

    def keep(self, task: Task) -> bool:
        """Say that a task's child is alive; False where Flower has ended the run."""
        return bool(self._state.acknowledge_task_heartbeat(task.task))

    def end(self, task: Task) -> None:
        """End a Flower run: its token is void and its messages are gone."""
        self._state.stop_run(task.run)
        self._state.cleanup_run(task.run)

    def _asked(self, message: str, node: int) -> bool:
        """Whether a message was sent to a node and waits for its answer."""
        found = self._state.message_ins_store.get(message)
        return found is not None and found.metadata.dst_node_id == node

    def _children(self, name: str) -> list[str] | None:
        """Return the ids of the children of an object in the store, or None."""
        found = self._state.object_store.store.get(name)
        return None if found is None else list(found.child_object_ids)

    def ended(self, task: Task) -> bool:
        """Whether a Flower run is over."""
        from flwr.common.constant import Status

        return bool(self._state.get_run_status({task.run})[task.run].status == Status.FINISHED)


def _reply(body: bytes) -> Reply:
    """Read what a node pushes; raise where it is not one reply and its tree."""
    from flwr.proto.fleet_pb2 import PushMessagesRequest

    said = PushMessagesRequest.FromString(body)
    [message], [tree] = said.messages_list, said.message_object_trees
    if tree.object_id != message.metadata.message_id:
        raise ValueError("the tree of another message")
    return Reply(
        sender=message.metadata.src_node_id,
        node=said.node.node_id,
        question=message.metadata.reply_to_message_id,
        tree=tree,
    )


def connect(address: str, task: Task, listener: Callable[[str, Message], None]) -> Grid:
    """Return the grid of a task, for the process that runs the ServerApp.

    Parameters
    ----------
    address : str
        HOST:PORT of the server's inner port, on loopback and without TLS.
    task : Task
        From `Link.start`.
    listener : callable
        Hears every reply, and the name in the roster of the site that sent it.
    """
    from flwr.common.constant import SUPERLINK_NODE_ID
    from flwr.supercore.run import Run
    from flwr.supercore.task_identity import TaskIdentity

    from server.hearing import HearingGrid

    # A proxy has no business between two processes of one machine.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "*"
    grid = HearingGrid(address, token=task.token, listener=listener)
    TaskIdentity.task_id, TaskIdentity.run_id = task.task, task.run
    TaskIdentity.node_id = SUPERLINK_NODE_ID
    grid.set_run(Run.create_empty(task.run))
    return grid


def silence(*, verbose: bool) -> None:
    """Let Flower's own log speak only where it is asked for."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    logging.getLogger("flwr").setLevel(logging.INFO if verbose else logging.CRITICAL)


def _config() -> Any:
    """Return the settings of a SuperLink that starts nothing and listens nowhere."""
    from flwr.common.constant import (
        ISOLATION_MODE_PROCESS,
        TRANSPORT_TYPE_GRPC_RERE,
    )
    from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME
    from flwr.superlink.config_loader import SuperLinkLifespanConfig, load_control_authn_plugin

    return SuperLinkLifespanConfig(
        control_address="",
        health_server_address=None,
        host="127.0.0.1",
        port=0,
        insecure=True,
        certificates=None,
        # Nobody knows it, so nobody else claims a task.
        superexec_auth_secret=secrets.token_bytes(32),
        authn_plugin=load_control_authn_plugin(),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type=TRANSPORT_TYPE_GRPC_RERE,
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=None,
        ssl_certfile=None,
        ssl_keyfile=None,
        database=FLWR_IN_MEMORY_DB_NAME,
        isolation=ISOLATION_MODE_PROCESS,
        runtime_dependency_install=False,
    )
