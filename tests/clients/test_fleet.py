"""The connection against a server that is slow, large, foreign or gone; over real sockets."""

from __future__ import annotations

import datetime
import gzip
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message, RecordDict
from flwr.app.message.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto import fab_pb2, fleet_pb2, heartbeat_pb2, message_pb2, run_pb2
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_head_values_from_object_content,
    get_object_id,
    get_object_tree,
)

from clients import fleet
from clients.fleet import Fleet, Server
from clients.node import Ended, Errand, Gone, Lost, NotAdmitted
from dp_risk import wire
from dp_risk.federation.bundle import official_bundle
from dp_risk.federation.parts import MAX_MESSAGE_BYTES, check_expanded
from dp_risk.types import Refused
from tests.clients.test_bundle import OFFICIAL
from tests.federation import weights
from tests.federations.people import house

NODE = 5
KEY = ec.generate_private_key(ec.SECP384R1())
PROTOS = {
    "register-node": fleet_pb2.RegisterNodeFleetRequest,
    "activate-node": fleet_pb2.ActivateNodeRequest,
    "deactivate-node": fleet_pb2.DeactivateNodeRequest,
    "send-node-heartbeat": heartbeat_pb2.SendNodeHeartbeatRequest,
    "pull-messages": fleet_pb2.PullMessagesRequest,
    "push-messages": fleet_pb2.PushMessagesRequest,
    "get-run": run_pb2.GetRunRequest,
    "get-fab": fab_pb2.GetFabRequest,
    "pull-object": message_pb2.PullObjectRequest,
    "push-object": message_pb2.PushObjectRequest,
    "confirm-message-received": message_pb2.ConfirmMessageReceivedRequest,
}


@dataclass
class Link:
    """A tiny SuperLink: one message, and what a test puts in place of an answer."""

    message: Message | None = None
    objects: dict[str, bytes] = field(default_factory=dict)
    wanted: list[str] = field(default_factory=list)
    known: bool = True
    asked: list[tuple[str, Any]] = field(default_factory=list)
    # By path: status, or (status, headers, body), or a callable that writes to the socket.
    instead: dict[str, Any] = field(default_factory=dict)

    def names(self) -> list[str]:
        return [name for name, _ in self.asked]

    def answer(self, name: str, asked: Any) -> Any:
        if name == "activate-node":
            return fleet_pb2.ActivateNodeResponse(node_id=NODE)
        if name == "send-node-heartbeat":
            return heartbeat_pb2.SendNodeHeartbeatResponse(success=self.known)
        if name == "pull-messages" and self.message is not None:
            return fleet_pb2.PullMessagesResponse(
                messages_list=[message_to_proto(remove_content_from_message(self.message))],
                message_object_trees=[get_object_tree(self.message)],
            )
        if name == "push-messages":
            return fleet_pb2.PushMessagesResponse(objects_to_push=self.wanted, session_id="s")
        if name == "push-object":
            return message_pb2.PushObjectResponse(stored=asked.session_id == "s")
        if name == "get-run":
            found = run_pb2.GetRunResponse()
            found.run.fab_hash = OFFICIAL
            return found
        if name == "get-fab":
            return fab_pb2.GetFabResponse(
                fab={"hash_str": asked.hash_str, "content": official_bundle()}
            )
        if name == "pull-object":
            content = self.objects.get(asked.object_id)
            return message_pb2.PullObjectResponse(
                object_found=content is not None, object_available=bool(content),
                object_content=content or b"",
            )  # fmt: skip
        return message_pb2.ConfirmMessageReceivedResponse()


@contextmanager
def serving(said: Link, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serve on loopback; the address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            name = self.path.rsplit("/", 1)[-1]
            body = self.rfile.read(int(self.headers["content-length"]))
            asked = PROTOS[name].FromString(body)
            said.asked.append((name, asked))
            made = said.instead.get(name)
            if callable(made):
                made(self)
                return
            status, headers, content = (
                (200, {}, said.answer(name, asked).SerializeToString())
                if made is None
                else made
                if isinstance(made, tuple)
                else (made, {}, b"")
            )
            self.send_response(status)
            for header in {"content-length": str(len(content)), **headers}.items():
                self.send_header(*header)
            self.end_headers()
            self.wfile.write(content)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        served.daemon_threads = True
        if tls is not None:
            served.socket = tls.wrap_socket(served.socket, server_side=True)
        threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01}).start()
        try:
            yield f"127.0.0.1:{served.server_address[1]}"
        finally:
            served.shutdown()


@pytest.fixture
def link() -> Iterator[tuple[Link, Fleet]]:
    said = Link()
    with serving(said) as address:
        yield said, Fleet(server=Server(address=address, insecure=True, authority=None, key=KEY))


def message(arrays: Any = None) -> tuple[Message, dict[str, bytes]]:
    made = Message(wire.request_record({"run": "a"}, arrays or weights(1.5)), NODE, "train")
    return named(made), {k: v.deflate() for k, v in get_all_nested_objects(made).items()}


def named(made: Message) -> Message:
    made.metadata.__dict__["_message_id"] = made.object_id
    return made


def receive(link: tuple[Link, Fleet]) -> RecordDict:
    with link[1]() as connection:
        errand = connection.receive()
        assert errand is not None
        return connection.content(errand)


def test_a_message_arrives_whole(link):
    link[0].message, link[0].objects = message()
    with link[1]() as connection:
        assert connection.node == NODE
        errand = connection.receive()
        assert not errand.message.content
        errand.message.content = connection.content(errand)
        request = wire.read_request(errand.message)
    assert request.values == {"run": "a"}
    assert all((array == 1.5).all() for array in request.weights.values())
    assert "confirm-message-received" in link[0].names()


def test_nothing_is_there(link):
    with link[1]() as connection:
        assert connection.receive() is None


def test_the_bundle_of_a_run_is_the_one_that_the_run_names(link):
    with link[1]() as connection:
        assert connection.bundle(1) == official_bundle()
        other = fab_pb2.GetFabResponse(fab={"hash_str": OFFICIAL, "content": b"other"})
        link[0].instead["get-fab"] = (200, {}, other.SerializeToString())
        with pytest.raises(Refused, match="digest"):
            connection.bundle(1)


def answered(connection: Any) -> Errand:
    asked, _ = message()
    answer = Message(wire.refusal_record(), reply_to=asked)
    return Errand(node=NODE, message=asked, parts=(), answer=answer)


def test_what_the_server_wants_of_an_answer_is_sent(link):
    with link[1]() as connection:
        errand = answered(connection)
        names = list(get_all_nested_objects(errand.answer))
        link[0].wanted = names[:2]
        connection.send(errand)
        first = [asked for name, asked in link[0].asked if name == "push-messages"]
        pushed = [asked.object_id for name, asked in link[0].asked if name == "push-object"]
        assert pushed == names[:2]
        link[0].wanted = []
        connection.send(errand)
    again = [asked for name, asked in link[0].asked if name == "push-messages"]
    assert again == first * 2
    assert first[0].clientapp_runtime_list == [0.0]
    assert link[0].names().count("push-object") == 2


def test_an_answer_that_is_not_kept_is_not_sent(link):
    no = message_pb2.PushObjectResponse(stored=False).SerializeToString()
    link[0].instead["push-object"] = (200, {}, no)
    with link[1]() as connection:
        errand = answered(connection)
        link[0].wanted = list(get_all_nested_objects(errand.answer))
        with pytest.raises(Lost):
            connection.send(errand)


@pytest.mark.parametrize(
    ("status", "error"),
    [(401, NotAdmitted), (412, Lost), (403, Lost), (404, Lost), (503, Lost), (500, Lost)],
)
def test_a_server_that_lets_nobody_in(link, status, error):
    link[0].instead["activate-node"] = status
    with pytest.raises(error) as raised, link[1]():
        pytest.fail("connected")
    assert type(raised.value) is error


@pytest.mark.parametrize(("status", "error"), [(401, Lost), (403, Gone), (500, Lost)])
def test_a_server_that_forgets_a_connection(link, status, error):
    with link[1]() as connection:
        link[0].instead["pull-messages"] = status
        with pytest.raises(error) as raised:
            connection.receive()
        assert type(raised.value) is error


def redirect(handler: Any) -> None:
    handler.send_response(307)
    handler.send_header("location", "/v1/fleet/get-run")
    handler.send_header("content-length", "0")
    handler.end_headers()


def endless(handler: Any) -> None:
    handler.send_response(200)
    handler.end_headers()
    with closing(handler.wfile):
        while True:
            handler.wfile.write(b"\x00" * 65536)


def drip(handler: Any) -> None:
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b"\x00")
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("instead", "error"),
    [
        ((200, {}, b"\xff\xff garbage"), Lost),
        ((200, {"content-encoding": "gzip"}, gzip.compress(b"\x00" * 10**6)), Refused),
        (redirect, Lost),
        (endless, Refused),
        (drip, Lost),
        (lambda handler: handler.connection.shutdown(socket.SHUT_RDWR), Lost),
        ((200, {"content-length": "50"}, b"short"), Lost),
    ],
)
def test_an_answer_that_is_none(link, instead, error, monkeypatch):
    monkeypatch.setattr(fleet, "_READ_SECONDS", 0.3)
    monkeypatch.setattr(fleet, "_TIMEOUT", 0.5)
    with link[1]() as connection:
        link[0].instead["pull-messages"] = instead
        with pytest.raises(error):
            connection.receive()
        assert link[0].names().count("get-run") == 0


def test_nobody_listens():
    server = Server(address="127.0.0.1:1", insecure=True, authority=None, key=KEY)
    with pytest.raises(Lost, match="refused"), Fleet(server=server)():
        pytest.fail("connected")


def test_one_authority_is_believed_and_no_other(tmp_path):
    now = datetime.datetime.now(datetime.UTC)
    ours = house(tmp_path / "ours", hosts=("127.0.0.1",), now=now)
    other = house(tmp_path / "other", hosts=("127.0.0.1",), now=now)
    elsewhere = house(tmp_path / "elsewhere", hosts=("10.0.0.1",), now=now)
    said = Link()
    for server, believed, fine in (
        (ours, ours.authority.read_bytes(), True),
        (ours, other.authority.read_bytes(), False),
        (ours, None, False),
        (elsewhere, elsewhere.authority.read_bytes(), False),
    ):
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(server.certificate, server.certificate_key)
        with serving(said, tls) as address:
            called = Server(address=address, insecure=False, authority=believed, key=KEY)
            if fine:
                with Fleet(server=called)() as connection:
                    assert connection.receive() is None
                said.asked.clear()
            else:
                with pytest.raises(Lost, match="certificate verify failed"), Fleet(server=called)():
                    pytest.fail("connected")
    assert not said.asked


def test_an_object_with_another_digest_is_refused(link):
    link[0].message, link[0].objects = message()
    link[0].objects = {name: content + b" " for name, content in link[0].objects.items()}
    with pytest.raises(Refused, match="digest"):
        receive(link)


def test_an_object_that_is_gone(link):
    link[0].message, _ = message()
    with pytest.raises(Gone):
        receive(link)


def test_an_object_that_is_not_there_yet_is_waited_for(link, monkeypatch):
    link[0].message, link[0].objects = message()
    late = next(iter(link[0].objects))
    content, link[0].objects[late] = link[0].objects[late], b""
    monkeypatch.setattr(fleet.time, "sleep", lambda _: link[0].objects.update({late: content}))
    assert set(receive(link)) == {"request", "weights"}
    link[0].objects[late] = b""
    monkeypatch.setattr(fleet.time, "sleep", lambda _: None)
    monkeypatch.setattr(fleet, "_MESSAGE_SECONDS", 0.0)
    with pytest.raises(Refused, match="in time"):
        receive(link)


def test_too_many_objects_or_bytes_are_refused(link, monkeypatch):
    link[0].message, link[0].objects = message()
    monkeypatch.setattr(fleet, "MAX_OBJECTS", 3)
    with pytest.raises(Refused, match="objects"):
        receive(link)
    assert "pull-object" not in link[0].names()
    monkeypatch.setattr(fleet, "MAX_OBJECTS", 1000)
    monkeypatch.setattr(fleet, "MAX_MESSAGE_BYTES", 500)
    with pytest.raises(Refused, match="bytes"):
        receive(link)


def array(chunk: bytes, times: int) -> tuple[bytes, bytes]:
    """Return a chunk of an array, and the array that names it so many times."""
    part = b"ArrayChunk  %d\x00" % len(chunk) + chunk
    about = {"dtype": "float64", "shape": [1], "stype": "numpy.ndarray"}
    body = json.dumps({**about, "arraychunk_ids": [0] * times}).encode()
    return part, b"Array %s %d\x00" % (get_object_id(part).encode(), len(body)) + body


@pytest.mark.parametrize("where", ["chunks of an array", "arrays of a record"])
def test_what_expands_in_memory_is_refused(link, where):
    """A megabyte that is named a thousand times."""
    times = (1000, 1) if where == "chunks of an array" else (1, 1000)
    made, objects = message({"a": np.zeros(1)})
    tree = get_object_tree(made)
    part, whole = array(b"\x00" * 2**20, times[0])
    names = json.dumps({f"w{n}": get_object_id(whole) for n in range(times[1])}).encode()
    record = b"ArrayRecord %s %d\x00" % (get_object_id(whole).encode(), len(names)) + names
    parts = json.dumps({"weights": get_object_id(record)}).encode()
    content = b"RecordDict %s %d\x00" % (get_object_id(record).encode(), len(parts)) + parts
    root = objects[tree.object_id]
    body = root[root.index(b"\x00") + 1 :]
    root = b"Message %s %d\x00" % (get_object_id(content).encode(), len(body)) + body
    chain = {get_object_id(one): one for one in (part, whole, record, content, root)}
    with pytest.raises(Refused, match="expands"):
        check_expanded(
            get_object_id(root), chain, MAX_MESSAGE_BYTES,
            get_object_head_values_from_object_content,
        )  # fmt: skip


def test_a_head_that_announces_another_message_is_refused(link):
    link[0].message, link[0].objects = message()
    other = Message(link[0].message.content, NODE, "query.close")
    other.metadata.__dict__["_message_id"] = link[0].message.metadata.message_id
    pulled = fleet_pb2.PullMessagesResponse(
        messages_list=[message_to_proto(remove_content_from_message(other))],
        message_object_trees=[get_object_tree(link[0].message)],
    )
    link[0].instead["pull-messages"] = (200, {}, pulled.SerializeToString())
    with pytest.raises(Refused, match="announced"):
        receive(link)


def test_a_message_for_another_node_is_not_taken(link):
    made = Message(wire.request_record({}), NODE + 1, "train")
    link[0].message = named(made)
    with link[1]() as connection, pytest.raises(Lost, match="not for this site"):
        connection.receive()


def test_heartbeats_go_on_while_the_site_computes(link, monkeypatch):
    monkeypatch.setattr(fleet, "_BEAT", 0.02)
    with link[1]() as connection:
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            np.linalg.svd(np.ones((50, 50)))
        assert link[0].names().count("send-node-heartbeat") > 5
        link[0].known = False
        time.sleep(0.2)
        with pytest.raises(Lost, match="does not know"):
            connection.receive()


def test_a_heartbeat_that_fails_ends_nothing(link, monkeypatch):
    monkeypatch.setattr(fleet, "_BEAT", 0.02)
    link[0].instead["send-node-heartbeat"] = 401
    with link[1]() as connection:
        time.sleep(0.2)
        assert link[0].names().count("send-node-heartbeat") > 2
        assert connection.receive() is None


def test_a_broken_connection_is_taken_up_again_under_its_id(link):
    def lose(connect: Callable[[], Any]) -> None:
        with pytest.raises(Lost), connect():
            raise Lost("cut")

    lose(link[1])
    with link[1]() as connection:
        assert connection.node == NODE
    assert link[0].names().count("activate-node") == 1
    link[0].known = False
    lose(link[1])
    assert link[0].names().count("activate-node") == 2
    assert "deactivate-node" not in link[0].names()


def test_who_ends_says_goodbye(link):
    with pytest.raises(Ended), link[1]():
        raise Ended
    assert link[0].names()[-1] == "deactivate-node"
