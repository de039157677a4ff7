"""The SuperLink of this program behind its two ports, spoken to by Flower's own clients."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager

import httpx
import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message, RecordDict
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.fleet_http_connection import http_request_response
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from dp_risk.federation import node_keys
from dp_risk.federation.bundle import official_bundle
from server.connections import Connection
from server.guard import Guard, Inside, Outside
from server.link import Link, connect, silence

pytestmark = [pytest.mark.deployment, pytest.mark.smoke]


class Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self):
        yield


class Ports:
    """A link on two ports of loopback, in threads."""

    def __init__(self):
        silence(verbose=False)
        self.key = ec.generate_private_key(ec.SECP384R1())
        self.link = Link(official_bundle())
        self.roster = {"a": node_keys.public_text(self.key)}
        self.link.follow(self.roster)
        self.reports = []
        outside = Outside(
            self.link.app, self.link.app, lambda: {pem.encode() for pem in self.roster.values()}
        )
        self._servers = []
        self.outside = self._serve(outside, self.link.app)
        self.inside = self._serve(Inside(self.link.app), None)

    def _serve(self, door, lifespan):
        guard = Guard(door, lifespan=lifespan, report=lambda *said: self.reports.append(said))
        at = socket.socket()
        at.bind(("127.0.0.1", 0))
        server = Server(
            uvicorn.Config(
                guard, http=Connection, ws="none", log_config=None,
                lifespan="on" if lifespan else "off",
            )
        )  # fmt: skip
        thread = threading.Thread(target=server.run, kwargs={"sockets": [at]})
        thread.start()
        self._servers.append((server, thread, at))
        while not server.started:
            time.sleep(0.01)
        return f"127.0.0.1:{at.getsockname()[1]}"

    def stop(self):
        for server, thread, at in self._servers:
            server.should_exit = True
            thread.join()
            at.close()

    def node(self):
        """Return Flower's connection of a node."""
        return http_request_response(
            self.outside, True, None, (self.key, self.key.public_key()), max_retries=0
        )


@pytest.fixture(scope="module")
def ports():
    made = Ports()
    yield made
    made.stop()


def test_a_message_goes_to_a_node_and_its_reply_comes_back(ports):
    task, heard = ports.link.start(), []
    with ports.node() as (node, receive, send, get_run, get_fab, *_):
        assert [(n.site, n.online) for n in ports.link.nodes()] == [("a", True)]
        assert ports.link.nodes()[0].seen < 30
        grid = connect(ports.inside, task, lambda *said: heard.append(said))
        assert list(grid.get_node_ids()) == [node]
        sent = list(grid.push_messages([Message(RecordDict(), node, "query")]))
        message, _ = receive()
        assert message.metadata.message_id == sent[0]
        run = get_run(message.metadata.run_id)
        assert run.run_id == task.run
        assert get_fab(run.fab_hash, task.run).content == official_bundle()
        reply = Message(RecordDict(), reply_to=message)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        send(reply, get_object_tree(reply), 0.0)
        grid.close()
    ports.link.end(task)
    assert ports.link.ended(task)


def test_a_task_that_ended_is_spoken_for_by_nobody(ports):
    task = ports.link.start()
    assert ports.link.keep(task)
    grid = connect(ports.inside, task, lambda *_: None)
    assert list(grid.get_node_ids()) == []
    ports.link.end(task)
    assert not ports.link.keep(task)
    # Flower interrupts the process of a task that it does not know any more.
    with pytest.raises(KeyboardInterrupt):
        grid.get_node_ids()
    grid.close()


def test_a_node_that_left_the_roster_is_a_stranger_and_may_come_back(ports):
    roster = dict(ports.roster)
    with ports.node() as (_, receive, *_):
        # Its first heartbeat is over.
        time.sleep(0.5)
        ports.roster.clear()
        # So is the process of a node.
        with pytest.raises(KeyboardInterrupt):
            receive()
        assert ports.reports[-1] == ("127.0.0.1", "no key of the roster")
        assert ports.link.follow({}) == ([], ["a"])
        assert ports.link.nodes() == []
    assert ports.link.follow(roster) == (["a"], [])
    ports.roster.update(roster)
    with ports.node() as (_, receive, *_):
        assert receive() is None


def test_a_node_cannot_fetch_what_is_for_another(ports):
    other = ec.generate_private_key(ec.SECP384R1())
    ports.roster["b"] = node_keys.public_text(other)
    ports.link.follow(ports.roster)
    mine, theirs = (
        FleetHttpClient.from_server_address(
            ports.outside, True, None, [NodeAuthHttpInterceptor(key, key.public_key())]
        )
        for key in (ports.key, other)
    )
    with mine, theirs:
        about = ActivateNodeRequest(public_key=ports.roster["b"].encode(), heartbeat_interval=30.0)
        with pytest.raises(httpx.HTTPStatusError, match="401"):
            mine.ActivateNode(about)
        node = Node(node_id=theirs.ActivateNode(about).node_id)
        assert not theirs.PullMessages(PullMessagesRequest(node=node)).messages_list
        with pytest.raises(httpx.HTTPStatusError, match="401"):
            mine.PullMessages(PullMessagesRequest(node=node))
