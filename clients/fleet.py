"""The connection of a site to a SuperLink: the one file at a site with Flower's internal API.

Flower's own `http_request_response` ends the process on some errors and waits in it for others, so
this speaks to the same routes with Flower's client, messages and node authentication, and with
limits of its own: on sizes, on the time to read, and on what is inflated.
"""

from __future__ import annotations

import hashlib
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message, RecordDict
from flwr.app.message.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto import fab_pb2, fleet_pb2, heartbeat_pb2, message_pb2, run_pb2
from flwr.proto.node_pb2 import Node as NodeProto
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_head_values_from_object_content,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import (
    inflate_object_from_contents,
    validate_object_content,
)
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from clients.bounded import Bounded
from clients.node import Ended, Errand, Gone, Link, Lost, NotAdmitted
from dp_risk.federation.bundle import MAX_BYTES
from dp_risk.federation.parts import (
    MAX_MESSAGE_BYTES,
    MAX_OBJECT_BYTES,
    MAX_OBJECTS,
    check_expanded,
)
from dp_risk.types import Refused

_LIMITS = {"PullObject": MAX_OBJECT_BYTES + 4096, "GetFab": MAX_BYTES + 64 * 1024, "": 2**20}
_TIMEOUT = httpx.Timeout(20.0, connect=5.0)
_READ_SECONDS, _MESSAGE_SECONDS = 120.0, 600.0
# A server takes a site for lost after two of these intervals: the shortest that Flower knows.
_HEARTBEAT, _BEAT = 10.0, 4.0
_UNAUTHORIZED, _FORBIDDEN, _ONLINE = 401, 403, 412


@dataclass(frozen=True, kw_only=True)
class Server:
    """Whom to call, and as whom.

    Parameters
    ----------
    address : str
        HOST:PORT.
    insecure : bool
        Without TLS.
    authority : bytes or None
        PEM of the one authority that is believed; None believes those of the system.
    key : EllipticCurvePrivateKey
        The site's node key (P-384).
    """

    address: str
    insecure: bool
    authority: bytes | None
    key: ec.EllipticCurvePrivateKey


@dataclass(kw_only=True, eq=False)
class Fleet:
    """Opens connections to one server; remembers under which id it is known there."""

    server: Server
    _node: int | None = field(default=None, init=False)

    @contextmanager
    def __call__(self) -> Iterator[Link]:
        """Connect.

        Raises
        ------
        NotAdmitted
            If the server does not know the key.
        Lost
            If it cannot be reached, or takes this site for connected.
        """
        with _calls(self.server) as client:
            self._node = self._known(client) or self._activate(client)
            link = FleetLink(client=client, node=self._node)
            try:
                with _heartbeats(link):
                    yield link
            except Ended:
                # So that a new process can connect at once.
                with suppress(Lost, Gone):
                    node = fleet_pb2.DeactivateNodeRequest(node_id=self._node)
                    link.call(client.DeactivateNode, node)
                raise

    def _known(self, client: FleetHttpClient) -> int | None:
        """Return the id of the last connection, if the server still knows it."""
        if self._node is None:
            return None
        try:
            return self._node if FleetLink(client=client, node=self._node).beat() else None
        except (NotAdmitted, Gone):
            return None

    def _activate(self, client: FleetHttpClient) -> int:
        public = public_key_to_bytes(self.server.key.public_key())
        request = fleet_pb2.ActivateNodeRequest(public_key=public, heartbeat_interval=_HEARTBEAT)
        if self.server.insecure:
            # A server without a roster takes whoever comes; one with a roster says no, or knows.
            with suppress(Lost, Gone):
                _call(client.RegisterNode, fleet_pb2.RegisterNodeFleetRequest(public_key=public))
        try:
            return int(_call(client.ActivateNode, request).node_id)
        except Gone as error:
            raise Lost(str(error)) from None


@dataclass(frozen=True, kw_only=True, eq=False)
class FleetLink:
    """One connection: Flower's calls with bounded answers."""

    client: FleetHttpClient
    node: int
    forgotten: threading.Event = field(default_factory=threading.Event)

    @property
    def _as_node(self) -> NodeProto:
        return NodeProto(node_id=self.node)

    def call(self, remote: Callable[[Any], Any], request: Any) -> Any:
        """Call; a server that does not know the connection any more has lost it."""
        try:
            return _call(remote, request)
        except NotAdmitted:
            raise Lost("the server does not know this connection any more") from None

    def beat(self) -> bool:
        """Say that this site is there; return whether the server knows it."""
        request = heartbeat_pb2.SendNodeHeartbeatRequest(
            node=self._as_node, heartbeat_interval=_HEARTBEAT
        )
        return bool(_call(self.client.SendNodeHeartbeat, request).success)

    def receive(self) -> Errand | None:
        """Return the next message, if there is one."""
        if self.forgotten.is_set():
            raise Lost("the server does not know this connection any more")
        asked = fleet_pb2.PullMessagesRequest(node=self._as_node)
        found = self.call(self.client.PullMessages, asked)
        if not found.messages_list:
            return None
        try:
            tree = found.message_object_trees[0]
            head = message_from_proto(found.messages_list[0])
            parts = tuple(dict.fromkeys(part.object_id for part in iterate_object_tree(tree)))
        except Exception as error:
            raise Lost(f"no readable message: {type(error).__name__}") from None
        if head.metadata.message_id != tree.object_id or head.metadata.dst_node_id != self.node:
            raise Lost("a message that is not for this site")
        return Errand(node=self.node, message=head, parts=parts)

    def bundle(self, run: int) -> bytes:
        """Return the app bundle of a run."""
        asked = run_pb2.GetRunRequest(node=self._as_node, run_id=run)
        digest = self.call(self.client.GetRun, asked).run.fab_hash
        fab = fab_pb2.GetFabRequest(node=self._as_node, hash_str=digest, run_id=run)
        content = bytes(self.call(self.client.GetFab, fab).fab.content)
        if hashlib.sha256(content).hexdigest() != digest:
            raise Refused("a bundle with another digest than its run")
        return content

    def content(self, errand: Errand) -> RecordDict:
        """Pull the objects of a message and inflate them."""
        if len(errand.parts) > MAX_OBJECTS:
            raise Refused(f"a message of more than {MAX_OBJECTS} objects")
        deadline, left = time.monotonic() + _MESSAGE_SECONDS, MAX_MESSAGE_BYTES
        run, head = errand.message.metadata.run_id, errand.message.metadata
        objects: dict[str, bytes] = {}
        for part in errand.parts:
            objects[part] = self._pull(run, part, deadline)
            left -= len(objects[part])
            if left < 0:
                raise Refused(f"a message above {MAX_MESSAGE_BYTES} bytes")
        received = message_pb2.ConfirmMessageReceivedRequest(
            node=self._as_node, run_id=run, message_object_id=head.message_id
        )
        # It frees the server's memory only: a message that is here is not lost with it.
        with suppress(Lost, Gone):
            self.call(self.client.ConfirmMessageReceived, received)
        check_expanded(
            head.message_id, objects, MAX_MESSAGE_BYTES, get_object_head_values_from_object_content
        )
        found = inflate_object_from_contents(head.message_id, objects)
        if not isinstance(found, Message) or found.metadata.message_type != head.message_type:
            raise Refused("a message that is not the one that was announced")
        return found.content

    def _pull(self, run: int, part: str, deadline: float) -> bytes:
        asked = message_pb2.PullObjectRequest(node=self._as_node, run_id=run, object_id=part)
        while True:
            found = self.call(self.client.PullObject, asked)
            if not found.object_found:
                raise Gone("an object of the message is gone")
            if found.object_available:
                break
            if time.monotonic() > deadline:
                raise Refused("a message that does not arrive in time")
            # The server's other half is still sending it.
            time.sleep(0.1)
        content = bytes(found.object_content)
        if hashlib.sha256(content).hexdigest() != part:
            raise Refused("an object with another digest than its id")
        validate_object_content(content)
        return content

    def send(self, errand: Errand) -> None:
        """Send the answer."""
        answer = errand.answer
        assert answer is not None
        answer.metadata.__dict__["_message_id"] = answer.object_id
        with no_object_id_recompute():
            objects = get_all_nested_objects(answer)
            pushed = self.call(
                self.client.PushMessages,
                fleet_pb2.PushMessagesRequest(
                    node=self._as_node,
                    messages_list=[message_to_proto(remove_content_from_message(answer))],
                    message_object_trees=[get_object_tree(answer)],
                    # How long it took depends on the rows: it is not said.
                    clientapp_runtime_list=[0.0],
                ),
            )
            wanted = set(pushed.objects_to_push)
            for name, part in objects.items():
                if name not in wanted:
                    continue
                stored = self.call(
                    self.client.PushObject,
                    message_pb2.PushObjectRequest(
                        node=self._as_node,
                        run_id=answer.metadata.run_id,
                        session_id=pushed.session_id,
                        object_id=name,
                        object_content=part.deflate(),
                    ),
                ).stored
                if not stored:
                    raise Lost("the server did not keep the answer")


@contextmanager
def _calls(server: Server) -> Iterator[FleetHttpClient]:
    scheme = "http" if server.insecure else "https"
    version = RuntimeVersionMetadata.from_local_component("SuperNode")
    with httpx.Client(verify=_verify(server), timeout=_TIMEOUT) as http:
        bounded = Bounded(
            http, headers=dict(version.as_metadata()), limits=_LIMITS, seconds=_READ_SECONDS
        )
        with FleetHttpClient(
            f"{scheme}://{server.address}",
            interceptors=[NodeAuthHttpInterceptor(server.key, server.key.public_key()), bounded],
            timeout=_TIMEOUT,
        ) as client:
            yield client


def _verify(server: Server) -> ssl.SSLContext | bool:
    if server.authority is None:
        return True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=server.authority.decode("ascii"))
    return context


def _call(remote: Callable[[Any], Any], request: Any) -> Any:
    try:
        return remote(request)
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        if status == _UNAUTHORIZED:
            raise NotAdmitted(
                "the server does not admit this site: it is not on the roster (`dp-risk federation "
                "admit`), or the clocks differ; trying again"
            ) from None
        if status == _FORBIDDEN:
            raise Gone("the run is over") from None
        if status == _ONLINE:
            raise Lost(
                "the server takes this site for connected: by another process with its key, or by "
                f"one that died less than {2 * _HEARTBEAT:g} s ago"
            ) from None
        raise Lost(f"the server says {status}") from None
    except httpx.HTTPError as error:
        raise Lost(f"{type(error).__name__}: {str(error)[:200]}") from None
    except ValueError:
        raise Lost("an answer that is none of Flower's") from None


@contextmanager
def _heartbeats(link: FleetLink) -> Iterator[None]:
    """Say that this site is there, also while it computes; a failure is for the loop to notice."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(_BEAT * random.uniform(0.8, 1.0)):
            with suppress(Exception):
                if not link.beat():
                    link.forgotten.set()

    thread = threading.Thread(target=beat, daemon=True, name="heartbeat")
    thread.start()
    try:
        yield
    finally:
        done.set()
        # It may be inside a call; the client is closed under it then.
        thread.join(timeout=1.0)
