"""Connections on loopback: a peer that says nothing, or little, is not waited for."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from contextlib import contextmanager
from typing import ClassVar

import pytest
import uvicorn

from server.connections import Connection

REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


class Hasty(Connection):
    head_seconds = 0.2
    per_peer = 3
    _held: ClassVar = Counter()


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
        with socket.socket() as door:
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

    asyncio.run(all_of_it())
    assert not +Hasty._held


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
