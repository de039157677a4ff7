"""The guard: who is let in, how much may come, and how slowly."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from server.guard import DESK, FLEET, RUNTIME, Guard, Inside, Limits, Outside

LIMITS = Limits(
    head_bytes=2000,
    body_bytes=1000,
    desk_bytes=100,
    waiting_bytes=1500,
    requests=6,
    requests_per_peer=4,
    seconds=0.2,
    bytes_per_second=1e6,
)
PULL, PUSH = "/v1/fleet/pull-messages", "/v1/runtime/push-messages"


def node() -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    key = ec.generate_private_key(ec.SECP384R1())
    encoding, kind = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return key, key.public_key().public_bytes(encoding, kind)


MEMBER, STRANGER = node(), node()


def signed(key=MEMBER, text=b"2026-11-23T00:00:00+00:00", pem=None):
    signature = key[0].sign(text, ec.ECDSA(hashes.SHA256()))
    return [
        (b"flwr-public-key", b64encode(pem or key[1])),
        (b"flwr-signature", b64encode(signature)),
        (b"flwr-timestamp", text),
    ]


class App:
    """Takes note of what reaches it, and answers."""

    def __init__(self, name):
        self.name = name
        self.bodies = []
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, scope, receive, send):
        event = await receive()
        self.bodies.append(event["body"])
        assert event["more_body"] is False
        await self.go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": self.name.encode()})


class Port:
    """A guarded port that is spoken to without a socket."""

    def __init__(self, inside=False, limits=LIMITS):
        self.link, self.desk, self.reports = App("link"), App("desk"), []
        door = Inside(self.link) if inside else Outside(self.link, self.desk, lambda: {MEMBER[1]})
        self.guard = Guard(
            door, lifespan=None, report=lambda *said: self.reports.append(said), limits=limits
        )
        self.read = 0

    async def ask(self, path, headers=(), chunks=(b"",), method="POST", peer="192.0.2.1", wait=0):
        """Return the status and the body of the answer; None where there is none."""
        left, sent = list(chunks), []

        async def receive():
            if not left:
                await asyncio.sleep(60)
            await asyncio.sleep(wait)
            self.read += len(left[0])
            return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

        async def send(event):
            sent.append(event)

        scope = {
            "type": "http", "method": method, "path": path, "headers": list(headers),
            "client": (peer, 1234), "query_string": b"",
        }  # fmt: skip
        await self.guard(scope, receive, send)
        if not sent:
            return None
        return sent[0]["status"], b"".join(event["body"] for event in sent[1:])


def ask(path, headers=(), **more):
    port = Port(inside=more.pop("inside", False))
    return asyncio.run(port.ask(path, headers, **more)), port


@pytest.mark.parametrize("path", sorted(FLEET))
def test_a_node_of_the_roster_reaches_flower(path):
    answer, port = ask(path, signed(), chunks=[b"one", b"two"])
    assert answer == (200, b"link")
    assert port.link.bodies == [b"onetwo"]


@pytest.mark.parametrize(
    "headers",
    [
        [],
        signed(STRANGER),
        signed(STRANGER, pem=MEMBER[1]),
        signed()[:2],
        signed()[:1],
        [*signed(), signed()[0]],
        [*signed()[:2], (b"flwr-timestamp", b"another")],
        [(b"flwr-public-key", b"%%%"), *signed()[1:]],
        [signed()[0], (b"flwr-signature", b"AAAA"), signed()[2]],
        [(b"flwr-public-key", "ä".encode()), *signed()[1:]],
    ],
    ids=lambda headers: str(len(headers)),
)
def test_nobody_else_does_and_not_a_byte_of_theirs_is_read(headers):
    answer, port = ask(PULL, headers, chunks=[b"x" * 500])
    assert answer == (401, b"")
    assert (port.read, port.link.bodies) == (0, [])
    assert port.reports == [("192.0.2.1", "no key of the roster")]


def test_a_revoked_node_is_refused_with_its_next_request():
    roster = {MEMBER[1]}
    port = Port()
    port.guard = Guard(
        Outside(port.link, port.desk, lambda: roster), lifespan=None, report=lambda *_: None
    )
    assert asyncio.run(port.ask(PULL, signed())) == (200, b"link")
    roster.clear()
    assert asyncio.run(port.ask(PULL, signed())) == (401, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/", "/health", "/docs", "/openapi.json", "/v1/control/start-run", "/v1/responses",
        "/v1/fleet/register-node", "/v1/fleet/unregister-node", "/v1/fleet/", "/dp-risk/v1",
        "/v1/runtime/acquire-task", "/v1/fleet/pull-messages/", "/v1/fleet/../control/start-run",
        "//v1/fleet/pull-messages", "/V1/FLEET/PULL-MESSAGES", *sorted(RUNTIME),
    ],
)  # fmt: skip
def test_every_other_path_is_an_empty_404(path):
    answer, port = ask(path, [*signed(), (b"flwr-task-token", b"t")], chunks=[b"x"])
    assert answer == (404, b"")
    assert (port.read, port.link.bodies, port.desk.bodies) == (0, [], [])


@given(path=st.text(), method=st.sampled_from(["GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE"]))
def test_only_listed_paths_ever_reach_an_app(path, method):
    answer, port = ask(path, signed(), method=method)
    reached = port.link.bodies or port.desk.bodies
    known = method == "POST" and path in FLEET
    known = known or (method in ("GET", "POST") and path.startswith(DESK))
    assert bool(reached) == known
    assert known or answer in ((404, b""), (431, b""))


@pytest.mark.parametrize("path", sorted(RUNTIME))
def test_the_child_reaches_its_task_over_loopback(path):
    token = [(b"flwr-task-token", b"t")]
    for peer in ("127.0.0.1", "::1"):
        assert ask(path, token, inside=True, peer=peer)[0] == (200, b"link")
    assert ask(path, token, inside=True, peer="192.0.2.1")[0] == (404, b"")
    assert ask(path, [], inside=True, peer="127.0.0.1")[0] == (404, b"")
    assert ask(path, [*token, *token], inside=True, peer="127.0.0.1")[0] == (404, b"")
    assert ask(path, token, inside=True, peer="127.0.0.1", method="GET")[0] == (404, b"")


@pytest.mark.parametrize(
    "path", ["/v1/runtime/acquire-task", "/v1/runtime/start-automation", PULL, DESK + "status"]
)
def test_the_inner_port_serves_nothing_else(path):
    headers = [*signed(), (b"flwr-task-token", b"t")]
    assert ask(path, headers, inside=True, peer="127.0.0.1")[0] == (404, b"")


@given(sizes=st.lists(st.integers(0, 400), min_size=1, max_size=8))
def test_a_body_is_limited_however_it_is_cut(sizes):
    answer, port = ask(PULL, signed(), chunks=[b"x" * size for size in sizes])
    if sum(sizes) <= LIMITS.body_bytes:
        assert answer == (200, b"link")
        assert port.link.bodies == [b"x" * sum(sizes)]
    else:
        assert answer == (413, b"")
        assert port.link.bodies == []
        assert port.read <= LIMITS.body_bytes + 400


@pytest.mark.parametrize("length", [b"1001", b"9" * 5000, b"-1", b"1e3", b"+5"])
def test_a_length_that_is_too_large_or_none_is_refused_unread(length):
    answer, port = ask(PULL, [*signed(), (b"content-length", length)], chunks=[b"x"])
    assert answer in ((413, b""), (431, b""))
    assert port.read == 0


def test_the_desk_has_a_limit_of_its_own():
    assert ask(DESK + "runs", chunks=[b"x" * 100])[0] == (200, b"desk")
    assert ask(DESK + "runs", chunks=[b"x" * 101])[0] == (413, b"")


def test_large_headers_are_refused():
    answer, _ = ask(PULL, [*signed(), (b"cookie", b"x" * 3000)])
    assert answer == (431, b"")


def test_a_body_that_does_not_come_is_not_waited_for():
    answer, port = ask(PULL, signed(), chunks=[b"x"] * 50, wait=0.02)
    assert answer == (408, b"")
    assert port.read < 50


def test_a_body_that_keeps_its_rate_may_take_longer():
    port = Port(limits=Limits(seconds=0.1, bytes_per_second=1000))
    chunks = [b"x" * 100] * 6
    assert asyncio.run(port.ask(PULL, signed(), chunks, wait=0.05)) == (200, b"link")


def test_a_peer_that_leaves_gets_no_answer():
    port, sent = Port(), []

    async def gone():
        return {"type": "http.disconnect"}

    async def send(event):
        sent.append(event)

    scope = {"type": "http", "method": "POST", "path": PULL, "headers": signed(), "client": None}
    asyncio.run(port.guard(scope, gone, send))
    assert (sent, port.link.bodies) == ([], [])


def test_requests_at_the_same_time_are_capped_for_a_peer_and_for_all():
    async def crowd():
        port = Port()
        port.desk.go.clear()
        busy = [
            asyncio.ensure_future(port.ask(DESK + "x", peer=peer)) for peer in ["a"] * 4 + ["b"] * 2
        ]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        again = [await port.ask(DESK + "x", peer="a"), await port.ask(DESK + "x", peer="c")]
        port.desk.go.set()
        done = await asyncio.gather(*busy)
        return again, done, await port.ask(DESK + "x", peer="a"), port.reports

    again, done, after, reports = asyncio.run(crowd())
    assert again == [(503, b""), (503, b"")]
    assert done == [(200, b"desk")] * 6
    assert after == (200, b"desk")
    assert [why for _, why in reports] == [
        "too many requests at the same time from one peer",
        "too many requests at the same time",
    ]


def test_strangers_at_the_desk_leave_room_for_the_sites():
    """Who asks the desk is known only when the body is there, and that may take long."""

    async def crowd():
        port = Port(limits=replace(LIMITS, unknown=3, unknown_per_peer=2))
        port.desk.go.clear()
        peers = ["a", "a", "b"]
        busy = [asyncio.ensure_future(port.ask(DESK + "x", peer=peer)) for peer in peers]
        await asyncio.sleep(0.01)
        more = [await port.ask(DESK + "x", peer=peer) for peer in ("a", "c")]
        site = await port.ask(PULL, signed(), peer="a")
        port.desk.go.set()
        await asyncio.gather(*busy)
        return more, site, await port.ask(DESK + "x", peer="a"), port.reports

    more, site, after, reports = asyncio.run(crowd())
    assert more == [(503, b""), (503, b"")]
    assert (site, after) == ((200, b"link"), (200, b"desk"))
    assert [why for _, why in reports] == [
        "too many requests to the desk from one peer",
        "too many requests to the desk",
    ]


def test_bodies_that_wait_are_capped_together():
    async def crowd():
        port = Port()
        port.link.go.clear()
        first = asyncio.ensure_future(port.ask(PULL, signed(), [b"x" * 900]))
        await asyncio.sleep(0.05)
        second = await port.ask(PULL, signed(), [b"x" * 900])
        port.link.go.set()
        return await first, second, await port.ask(PULL, signed(), [b"x" * 900])

    assert asyncio.run(crowd()) == ((200, b"link"), (503, b""), (200, b"link"))


def test_an_app_that_fails_says_nothing_of_it():
    async def broken(scope, receive, send):
        raise RuntimeError("a secret")

    port = Port()
    port.guard = Guard(
        Outside(broken, port.desk, lambda: {MEMBER[1]}),
        lifespan=None,
        report=lambda *said: port.reports.append(said),
    )
    assert asyncio.run(port.ask(PULL, signed())) == (500, b"")
    assert port.reports == [("192.0.2.1", "internal error: RuntimeError")]


def test_a_websocket_is_closed():
    port, sent = Port(), []

    async def send(event):
        sent.append(event)

    asyncio.run(port.guard({"type": "websocket", "path": PULL, "headers": []}, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]
