"""Behaviour of runnerd.web.guard, over real sockets."""

from __future__ import annotations

import os
import random
import socket
import struct
from contextlib import suppress

import trio
from quart_trio import QuartTrio

SEEDS = [
    b"POST /hook HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n0123456789",
    b"GET / HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\x81\x85abcd12345",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    b"POST /hook HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: x\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
    b"connection: upgrade, http2-settings\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: x\r\nupgrade: h2c\r\nhttp2-settings: A\r\n"
    b"connection: upgrade, http2-settings\r\n\r\n",
    b"GET /nope HTTP/1.1\r\nhost: x\r\n\r\n" * 3,
    b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nshort",
    b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\nhello",
]
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


def mutated(rng: random.Random) -> bytes:
    data = bytearray(rng.choice(SEEDS))
    for _ in range(rng.randint(0, 6)):
        at, kind = rng.randrange(len(data) or 1), rng.random()
        if not data:
            break
        if kind < 0.5:
            data[at] = rng.randrange(256)
        elif kind < 0.7:
            del data[at : at + rng.randint(1, 8)]
        elif kind < 0.9:
            data[at:at] = rng.randbytes(rng.randint(1, 20))
        else:
            del data[at:]
    return bytes(data)


async def misbehave(port: int, seed: int) -> None:
    """Send one broken conversation, and leave politely, rudely or late."""
    rng = random.Random(seed)
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        try:
            if rng.random() < 0.3:
                stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await stream.send_all(mutated(rng))
            if rng.random() < 0.3:
                await stream.send_eof()
            if rng.random() < 0.8:
                with trio.move_on_after(0.02):
                    await stream.receive_some(1000)
        except (trio.BrokenResourceError, OSError):
            pass


def quart():
    app = QuartTrio(__name__, static_folder=None)

    @app.post("/hook")
    async def hook():
        from quart import request

        return str(len(await request.get_data()))

    return app


def held() -> tuple[int, int]:
    """Count the tasks and the open descriptors of this process."""
    return trio.lowlevel.current_statistics().tasks_living, len(os.listdir("/proc/self/fd"))


async def test_malformed_connections_harm_nobody_and_leave_nothing(serving):
    """Hundreds of broken conversations: the server still answers, its tasks and descriptors are back."""
    async with serving(quart(), keep_alive=1, lifetime=3, grace=2) as server:
        before = held()
        for batch in range(0, 600, 30):
            async with trio.open_nursery() as nursery:
                for seed in range(batch, batch + 30):
                    nursery.start_soon(misbehave, server.port, seed)
            assert (await server.send(SEEDS[0])).body == b"10"
        with trio.fail_after(60):
            while held() > before:  # noqa: ASYNC110 - the end of a connection has no event
                await trio.sleep(0.05)


async def test_slow_headers_and_silence_are_cut_off(serving, echo):
    """A peer that says nothing, or one byte at a time, does not outlive the idle time."""
    async with serving(echo, keep_alive=0.3) as server:
        for drip in (b"", b"GET /"):
            async with await server.connect() as stream:
                with trio.fail_after(30), suppress(trio.BrokenResourceError):  # or it is cut off at a byte
                    for byte in drip:
                        await stream.send_all(bytes([byte]))
                        await trio.sleep(0.01)
                    assert await stream.receive_some() == b""


async def test_a_body_that_never_ends_is_cut_off(serving, echo):
    """A request in progress ends with the connection's lifetime, whatever the application does."""
    async with serving(echo, lifetime=0.2, grace=0.2) as server, await server.connect() as stream:
        with trio.fail_after(3):
            await stream.send_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n")
            try:
                while await stream.receive_some():
                    pass
            except trio.BrokenResourceError:
                pass


async def test_a_connection_past_its_lifetime_ends_after_its_answer(serving, echo):
    """An old connection is answered and told to close, so that no request is lost."""
    async with serving(echo, lifetime=0.1, grace=5) as server, await server.connect() as stream:
        await trio.sleep(0.15)
        await stream.send_all(GET)
        data = b""
        with trio.fail_after(3):
            while chunk := await stream.receive_some():
                data += chunk
        assert data.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in data


async def test_more_peers_than_allowed_wait(serving, echo):
    """Connections beyond the limit are served when others have ended."""
    async with serving(echo, max_connections=2, keep_alive=0.5) as server:
        async with trio.open_nursery() as nursery:
            replies = []

            async def ask() -> None:
                replies.append((await server.send(GET)).status)

            for _ in range(12):
                nursery.start_soon(ask)
        assert replies == [200] * 12


async def test_stop_lets_a_request_end_and_takes_no_more(serving):
    """A request in progress is answered after the stop; an idle connection closes at once."""
    working, finish = trio.Event(), trio.Event()

    async def slow(scope, receive, send):
        working.set()
        await finish.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with serving(slow, keep_alive=30) as server:
        idle, busy = await server.connect(), await server.connect()
        async with idle, busy:
            await busy.send_all(GET)
            with trio.fail_after(3):
                await working.wait()
                server.stop.set()
                assert await idle.receive_some() == b""
                finish.set()
                assert (await busy.receive_some()).startswith(b"HTTP/1.1 204")


async def test_stop_does_not_wait_for_ever(serving):
    """A request that does not end is cancelled after the grace."""
    cancelled = trio.Event()

    async def stuck(scope, receive, send):
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    with trio.fail_after(3):
        async with serving(stuck, grace=0.2) as server:
            stream = await server.connect()
            await stream.send_all(GET)
            await trio.sleep(0.05)
        assert cancelled.is_set()
        await stream.aclose()
