"""What a node of the roster may push, and that the server and its child outlive it."""

from __future__ import annotations

import itertools
import json
import threading
import time
from contextlib import contextmanager

import httpx
import pytest
from flwr.app import Message, RecordDict
from flwr.app.message.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto import fleet_pb2, message_pb2
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_id,
    get_object_tree,
)
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from dp_risk import wire
from server import fence, hearing
from server.exchange import ask, statements
from server.link import connect
from tests.deployment.test_link import Ports

pytestmark = [pytest.mark.deployment]


@pytest.fixture(scope="module")
def ports():
    made = Ports()
    yield made
    made.stop()


class Liar:
    """A node of the roster that says what it likes."""

    def __init__(self, ports):
        auth = NodeAuthHttpInterceptor(ports.key, ports.key.public_key())
        self.client = FleetHttpClient.from_server_address(ports.outside, True, None, [auth])
        pem = ports.roster["a"].encode()
        about = fleet_pb2.ActivateNodeRequest(public_key=pem, heartbeat_interval=30.0)
        self.node = Node(node_id=self.client.ActivateNode(about).node_id)

    def message(self):
        """Return the head of the message that waits."""
        found = self.client.PullMessages(fleet_pb2.PullMessagesRequest(node=self.node))
        [head] = found.messages_list
        return head

    def push(self, head, tree, objects):
        """Push a reply: its head, the tree that is announced, and these objects."""
        said = fleet_pb2.PushMessagesRequest(
            node=self.node, messages_list=[head], message_object_trees=[tree]
        )
        try:
            session = self.client.PushMessages(said).session_id
        except httpx.HTTPStatusError:
            return []
        return [self.put(head.metadata.run_id, session, content) for content in objects]

    def put(self, run, session, content):
        """Push an object; return whether it is kept."""
        said = message_pb2.PushObjectRequest(
            node=self.node, run_id=run, session_id=session,
            object_id=get_object_id(content), object_content=content,
        )  # fmt: skip
        try:
            return self.client.PushObject(said).stored
        except httpx.HTTPStatusError:
            return False


@contextmanager
def asked(ports, *, seconds=60.0):
    """Yield a grid, a liar, the head of a message that it got, and ways to answer."""
    task = ports.link.start()
    liar = Liar(ports)
    grid = connect(ports.inside, task, lambda *_: None)
    try:
        [sent] = grid.push_messages(
            [Message(wire.request_record({}), liar.node.node_id, "query.status", ttl=seconds)]
        )
        yield grid, liar, sent
    finally:
        liar.client.DeactivateNode(fleet_pb2.DeactivateNodeRequest(node_id=liar.node.node_id))
        liar.client.close()
        grid.close()
        ports.link.end(task)


def reply(liar, content=None, **inside):
    """Return an honest head, and the parts of a reply whose own metadata may say otherwise."""
    message = Message(content or wire.refusal_record(), reply_to=message_from_proto(liar.message()))
    head = message_to_proto(remove_content_from_message(message))
    for name, value in inside.items():
        message.metadata.__dict__[f"_{name}"] = value
    parts = get_all_nested_objects(message)
    head.metadata.message_id = message.object_id
    return head, get_object_tree(message), [part.deflate() for part in parts.values()]


def replies(grid, sent, *, seconds=5.0):
    """Return what comes for a message in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = list(grid.pull_messages([sent]))
        if found:
            return found
        time.sleep(0.05)
    return []


def test_an_honest_reply_arrives(ports):
    with asked(ports) as (grid, liar, sent):
        assert all(liar.push(*reply(liar)))
        [got] = replies(grid, sent)
    assert wire.is_refusal(got.content)
    assert got.metadata.src_node_id == liar.node.node_id


def test_who_answers_what_is_not_for_the_answer_to_say(ports):
    """The server checked the head; the same fields inside the reply are the node's own words."""
    with asked(ports) as (grid, liar, sent):
        liar.push(*reply(liar, src_node_id=77, reply_to_message_id="0" * 64, run_id=5))
        [got] = replies(grid, sent)
    assert got.metadata.src_node_id == liar.node.node_id
    assert got.metadata.reply_to_message_id == sent


def test_a_reply_whose_parts_never_come_holds_nobody_up(ports):
    with asked(ports) as (grid, liar, sent):
        head, tree, objects = reply(liar)
        liar.push(head, tree, objects[:1])
        start = time.monotonic()
        assert list(grid.pull_messages([sent])) == []
        assert time.monotonic() - start < 2.0


def named(kind, children, body):
    """Return an object as Flower writes it."""
    return b"%s %s %d\x00" % (kind, ",".join(children).encode(), len(body)) + body


def rooted(liar, child):
    """Return a reply whose content is another object; `child` maps ids to (content, children)."""
    head, _, objects = reply(liar)
    root = next(one for one in objects if one.startswith(b"Message "))
    top = next(iter(child))
    body = root[root.index(b"\x00") + 1 :]
    whole = named(b"Message", [top], body)
    head.metadata.message_id = get_object_id(whole)

    def tree(name):
        return message_pb2.ObjectTree(object_id=name, children=[tree(n) for n in child[name][1]])

    top_tree = message_pb2.ObjectTree(object_id=head.metadata.message_id, children=[tree(top)])
    return head, top_tree, [*(content for content, _ in child.values()), whole]


def garbage():
    """Return contents that Flower takes in and cannot put together."""
    for one in (
        named(b"RecordDict", [], b"{"),
        named(b"RecordDict", [], b"[" * 100_000),
        named(b"RecordDict", [], b'{"a": "%s"}' % (b"0" * 64)),
        named(b"ConfigRecord", [], b"\xff\xff\xff"),
        named(b"Array", [], b"{}"),
    ):
        yield {get_object_id(one): (one, [])}


@pytest.mark.parametrize("number", range(5))
def test_garbage_is_no_answer_and_no_harm(ports, number):
    with asked(ports) as (grid, liar, sent):
        liar.push(*rooted(liar, list(garbage())[number]))
        [got] = replies(grid, sent)
        assert got.metadata.reply_to_message_id == sent
        assert not got.has_content() or not statements({1: got.content})


def test_what_is_no_message_is_no_answer(ports):
    with asked(ports) as (grid, liar, sent):
        head, _, _ = reply(liar)
        alone = named(b"RecordDict", [], b"{}")
        head.metadata.message_id = get_object_id(alone)
        liar.push(head, message_pb2.ObjectTree(object_id=get_object_id(alone)), [alone])
        [got] = replies(grid, sent)
    assert not got.has_content()
    assert got.metadata.reply_to_message_id == sent


def test_a_reply_that_expands_is_not_put_together(ports, monkeypatch):
    """A megabyte that an array names a thousand times."""
    monkeypatch.setattr(hearing, "MAX_MESSAGE_BYTES", 2**24)
    part = named(b"ArrayChunk", [], b"\x00" * 2**20)
    about = {"dtype": "float64", "shape": [1], "stype": "numpy.ndarray"}
    body = json.dumps({**about, "arraychunk_ids": [0] * 1000}).encode()
    array = named(b"Array", [get_object_id(part)], body)
    arrays = named(
        b"ArrayRecord", [get_object_id(array)], json.dumps({"a": get_object_id(array)}).encode()
    )
    top = named(
        b"RecordDict", [get_object_id(arrays)], json.dumps({"a": get_object_id(arrays)}).encode()
    )
    chain = [top, arrays, array, part]
    ids = [get_object_id(one) for one in chain]
    child = {
        n: (one, ids[at + 1 : at + 2]) for at, (n, one) in enumerate(zip(ids, chain, strict=True))
    }
    with asked(ports) as (grid, liar, sent):
        liar.push(*rooted(liar, child))
        [got] = replies(grid, sent)
    assert not got.has_content()


def bomb(head, levels):
    """Return a tree of few nodes: each level names the one below twice, as a leaf.

    The server's store would keep what each name stands for, and expand 2 ** levels of them.
    """
    names = [f"{level:064x}" for level in range(1, levels + 1)]
    tree = message_pb2.ObjectTree
    nodes = [tree(object_id=names[0])]
    for below, name in itertools.pairwise(names):
        leaf = tree(object_id=below)
        nodes.append(tree(object_id=name, children=[leaf, leaf]))
    return tree(object_id=head.metadata.message_id, children=nodes)


def test_a_tree_that_grows_in_the_store_is_not_taken(ports):
    with asked(ports) as (grid, liar, sent):
        head, _, _ = reply(liar)
        liar.push(head, bomb(head, 22), [])
        start = time.monotonic()
        assert list(grid.pull_messages([sent])) == []
        assert time.monotonic() - start < 2.0


def test_a_node_asks_nothing_in_the_servers_name(ports):
    """Flower stores such a message, and hands it to the child as if it were a reply."""
    with asked(ports) as (grid, liar, sent):
        head, tree, objects = reply(liar)
        head.metadata.reply_to_message_id = ""
        head.metadata.src_node_id = head.metadata.dst_node_id
        assert liar.push(head, tree, objects) == []
        assert replies(grid, sent, seconds=0.3) == []


def test_a_reply_is_pushed_again_in_the_same_words_only(ports):
    with asked(ports) as (grid, liar, sent):
        head, tree, objects = reply(liar)
        liar.push(head, tree, [])
        other = message_pb2.ObjectTree(object_id=tree.object_id)
        other.children.add(object_id="1" * 64)
        assert liar.push(head, other, objects) == []
        assert all(liar.push(head, tree, objects))
        assert len(replies(grid, sent)) == 1


def test_a_tree_of_too_many_objects_is_not_taken(ports):
    with asked(ports) as (_, liar, _):
        head, tree, objects = reply(liar)
        tree.children.extend(
            message_pb2.ObjectTree(object_id=f"{n:064x}") for n in range(fence.MAX_OBJECTS)
        )
        assert liar.push(head, tree, objects) == []


def test_the_bytes_of_a_reply_are_counted(ports, monkeypatch):
    monkeypatch.setattr(fence, "MAX_MESSAGE_BYTES", 4_000)
    with asked(ports) as (_, liar, _):
        many = [named(b"ArrayChunk", [], bytes([n]) * 1000) for n in range(5)]
        head, tree, _ = reply(liar)
        tree.children.extend(message_pb2.ObjectTree(object_id=get_object_id(one)) for one in many)
        assert liar.push(head, tree, many) == [True, True, True, False, False]


DEEP, HUGE = "[" * 100_000, json.dumps({"site": "a", "holdout": 10**400})


@pytest.mark.parametrize("text", [DEEP, HUGE, '{"a": 1', "7", "1" * 5000])
def test_a_statement_that_cannot_be_read_is_none(text):
    content = RecordDict({wire.STATEMENT: wire.ConfigRecord({"json": text})})
    assert statements({1: content}) == {}


def test_a_liar_is_a_site_that_does_not_answer(ports):
    task = ports.link.start()
    liar, grid = Liar(ports), connect(ports.inside, task, lambda *_: None)

    def lie():
        until = time.monotonic() + 5
        while time.monotonic() < until:
            try:
                liar.push(*reply(liar, reply_to_message_id="x"))
                return
            # No message waits yet.
            except ValueError:
                time.sleep(0.05)

    thread = threading.Thread(target=lie)
    thread.start()
    got = ask(grid, [liar.node.node_id], "query.status", {}, None, 5.0)
    thread.join()
    grid.close()
    liar.client.DeactivateNode(fleet_pb2.DeactivateNodeRequest(node_id=liar.node.node_id))
    ports.link.end(task)
    assert list(got) == [liar.node.node_id]
