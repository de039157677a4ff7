"""Connections on loopback: a peer that says nothing, or little, is not waited for."""

from __future__ import annotations

import asyncio
import resource
from contextlib import contextmanager

import pytest
import uvicorn

from server.connections import Connection, Door, _peer, more_files

REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


class Hasty(Connection):
    head_seconds = 0.2


class Small(Door):
    per_peer = 3


class Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self):
        yield


async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def served(scene):
    """Run a scene against a server; it gets a function that opens a connection."""

    async def all_of_it():
        with Small() as door:
            door.bind(("127.0.0.1", 0))
            server = Server(
                uvicorn.Config(app, http=Hasty, ws="none", lifespan="off", log_config=None)
            )
            serving = asyncio.ensure_future(server.serve([door]))
            while not server.started:
                await asyncio.sleep(0.01)
            try:
                await asyncio.wait_for(
                    scene(lambda: asyncio.open_connection(*door.getsockname())), 10
                )
            finally:
                server.should_exit = True
                await serving
            assert not door.held

    asyncio.run(all_of_it())


async def ended(reader) -> bool:
    """Whether the other side closes within a second."""
    try:
        return await asyncio.wait_for(reader.read(), 1) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False


@pytest.mark.parametrize("said", [b"", b"GET / HT", REQUEST[:-2]])
def test_a_request_that_does_not_come_is_not_waited_for(said):
    async def scene(connect):
        reader, writer = await connect()
        writer.write(said)
        assert await ended(reader)
        writer.close()

    served(scene)


def test_a_request_that_comes_byte_by_byte_is_not_waited_for():
    async def scene(connect):
        reader, writer = await connect()
        closed = asyncio.ensure_future(ended(reader))
        for byte in REQUEST:
            if closed.done():
                break
            writer.write(bytes([byte]))
            await asyncio.sleep(0.03)
        assert await closed
        writer.close()

    served(scene)


def test_so_is_the_second_request_of_a_connection():
    async def scene(connect):
        reader, writer = await connect()
        writer.write(REQUEST)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
        # A connection that nobody uses may rest.
        await asyncio.sleep(0.4)
        writer.write(REQUEST)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
        writer.write(REQUEST[:10])
        assert await ended(reader)
        writer.close()

    served(scene)


def test_a_peer_holds_so_many_connections_and_no_more():
    async def scene(connect):
        held = [await connect() for _ in range(3)]
        for reader, writer in held:
            writer.write(REQUEST)
            await reader.readuntil(b"\r\n\r\n")
        reader, writer = await connect()
        assert await ended(reader)
        for _, one in [*held, (None, writer)]:
            one.close()
        await asyncio.sleep(0.1)
        reader, writer = await connect()
        writer.write(REQUEST)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
        writer.close()

    served(scene)


def test_connections_are_counted_before_they_have_said_a_word():
    """A TLS handshake that never comes: neither the app nor uvicorn hears of it for a minute."""

    async def scene(connect):
        silent = [await connect() for _ in range(3)]
        reader, writer = await connect()
        assert await ended(reader)
        for _, one in [*silent, (None, writer)]:
            one.close()

    served(scene)


@pytest.mark.parametrize(
    ("host", "peer"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8:0:0:ffff::1", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_who_is_one_peer(host, peer):
    assert _peer(host) == peer


def test_the_process_may_hold_many_connections():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        more_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == before[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
