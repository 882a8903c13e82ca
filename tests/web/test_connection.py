"""Behaviour of runnerd.web.connection, over real sockets."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest
import trio
from quart_trio import QuartTrio

from runnerd.web import connection


def quart():
    app = QuartTrio(__name__, static_folder=None)

    @app.get("/")
    async def root():
        return "hello"

    return app


GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


async def test_a_connection_is_used_again(serving, echo):
    """Two requests on one connection get two answers, also when both are sent at once."""
    async with serving(echo) as server, await server.connect() as stream:
        await stream.send_all(GET + b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc")
        data = b""
        with trio.fail_after(5):
            while data.count(b"HTTP/1.1 200") < 2 or not data.endswith(b"3"):
                data += await stream.receive_some()


@pytest.mark.parametrize("header", [b"connection: close\r\n", b""])
async def test_quart_connections_are_closed(serving, header):
    """A connection ends at once after `Connection: close`, and after the idle time otherwise."""
    async with serving(quart(), keep_alive=0.3) as server, await server.connect() as stream:
        await stream.send_all(GET[:-2] + header + b"\r\n")
        with trio.fail_after(3):
            data = b""
            while chunk := await stream.receive_some():
                data += chunk
        assert data.endswith(b"hello")


async def test_upgrades_are_not_taken(serving, echo):
    """HTTP/2 in clear text and WebSocket are answered as plain HTTP/1.1."""
    h2c = b"upgrade: h2c\r\nhttp2-settings: A\r\nconnection: upgrade, http2-settings\r\n"
    websocket = (
        b"upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n"
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )
    async with serving(echo) as server:
        for upgrade in (h2c, websocket):
            reply = await server.send(GET[:-2] + upgrade + b"\r\n")
            assert (reply.status, reply.body) == (200, b"0")


async def test_http2_by_prior_knowledge_is_refused(serving, echo):
    """The HTTP/2 preface is a version that is not spoken here."""
    async with serving(echo) as server:
        reply = await server.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        assert reply.status == 505


async def test_an_error_of_the_application_is_a_500(serving):
    """The peer learns that something failed, not what, and the connection goes on."""

    async def broken(scope, receive, send):
        raise ValueError("private")

    async with serving(broken) as server, await server.connect() as stream:
        for _ in range(2):
            await stream.send_all(GET)
            data = await stream.receive_some()
            while not data.endswith(b"}"):
                data += await stream.receive_some()
            assert data.startswith(b"HTTP/1.1 500")
            assert b"private" not in data


async def test_an_early_answer_reaches_a_peer_that_is_still_sending(serving):
    """A refusal before the end of the body is read by its sender, and the connection ends."""

    async def refuse(scope, receive, send):
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": b"no"})

    async with serving(refuse) as server:
        head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3000000\r\n\r\n"
        reply = await server.send(head + b"x" * 3_000_000)
        assert (reply.status, reply.body, reply.headers["connection"]) == (413, b"no", "close")
        async with await server.connect() as stream:  # this one never sends its body
            with trio.fail_after(connection.LINGER + 3):
                await stream.send_all(head)
                while await stream.receive_some():
                    pass


async def test_a_peer_that_does_not_read_is_given_up(serving):
    """An answer that nobody takes ends the connection after the grace."""
    ended = trio.Event()

    async def endless(scope, receive, send):
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
        finally:
            ended.set()

    async with serving(endless, grace=0.3) as server, await server.connect() as stream:
        await stream.send_all(GET)
        with trio.fail_after(5):
            await ended.wait()


async def test_an_answer_that_is_not_sent_in_time_ends_the_connection(serving, echo, monkeypatch):
    """On a host that stood still meanwhile: a peer whose answer has no end would wait for it."""
    write = connection.Connection._write

    async def stands_still(self, data):
        time.sleep(0.5)  # noqa: ASYNC251 - as a process does that the kernel does not run
        await write(self, data)

    monkeypatch.setattr(connection.Connection, "_write", stands_still)
    async with serving(echo, grace=0.2) as server, await server.connect() as stream:
        await stream.send_all(GET)
        with trio.fail_after(20), suppress(trio.BrokenResourceError):
            while await stream.receive_some():
                pass


async def test_no_second_request_hides_behind_a_doubtful_end(serving, echo):
    """After a body with a length and chunks the connection ends: what follows is not taken for a request."""
    doubtful = (
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    )
    async with serving(echo) as server, await server.connect() as stream:
        with trio.fail_after(3):
            await stream.send_all(doubtful + GET)
            data = b""
            while chunk := await stream.receive_some():
                data += chunk
        assert data.count(b"HTTP/1.1 ") == 1
        assert b"connection: close" in data.lower()


def switching(handler):
    """An application that agrees to go on as `shout/1`, and answers anything else with what it was asked."""

    async def app(scope, receive, send):
        switch = scope["extensions"].get(connection.SWITCH)
        body = b"" if switch is None else switch.protocol.encode()
        if body == b"shout/1":
            switch.accept(handler)
        status = 101 if body == b"shout/1" else 200
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(b"content-length", b"%d" % len(body))],
            }
        )
        await send({"type": "http.response.body", "body": body})

    return app


async def shout(stream):
    """Give back in capitals whatever comes."""
    while data := await stream.receive_some():
        await stream.send_all(data.upper())


SWITCHING = GET[:-2] + b"connection: upgrade\r\nupgrade: shout/1\r\n\r\n"


async def until(stream, text):
    """Read until the text has come, or the connection has ended."""
    data = b""
    with trio.fail_after(5):
        while text not in data and (more := await stream.receive_some()):
            data += more
    return data


async def test_an_application_may_take_an_upgrade(serving):
    """After status 101 the stream is the handler's: no HTTP, no lifetime; it ends with the handler."""
    async with (
        serving(switching(shout), lifetime=0.2, grace=0.2, keep_alive=0.2) as server,
        await server.connect() as stream,
    ):
        await stream.send_all(SWITCHING)
        head = await until(stream, b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        assert b"\r\nupgrade: shout/1\r\n" in head
        await trio.sleep(0.8)
        await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
        assert await until(stream, b"\r\n\r\n") == b"GET / HTTP/1.1\r\n\r\n"
        await stream.send_eof()
        with trio.fail_after(5):
            assert await stream.receive_some() == b""


async def test_stopping_ends_what_was_switched(serving):
    """A handler that does not end by itself is cancelled when the server's grace is over."""
    ended = trio.Event()

    async def stays(stream):
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with serving(switching(stays), grace=0.2) as server, await server.connect() as stream:
        await stream.send_all(SWITCHING)
        await until(stream, b"\r\n\r\n")
        server.stop.set()
        with trio.fail_after(5):
            await ended.wait()
            assert await stream.receive_some() == b""


@pytest.mark.parametrize(
    "request_",
    [
        SWITCHING.replace(b"shout/1", b"other/1"),
        SWITCHING.replace(b"HTTP/1.1", b"HTTP/1.0"),
        SWITCHING.replace(b"GET", b"POST"),
        SWITCHING[:-2] + b"content-length: 3\r\n\r\nabc",
    ],
)
async def test_what_is_not_taken_goes_on_as_http(serving, request_):
    """Another protocol, HTTP/1.0, another method and a request with a body are answered as ever."""
    async with serving(switching(shout)) as server:
        assert (await server.send(request_)).status == 200


async def test_who_speaks_too_early_is_cut_off(serving):
    """Bytes of the new protocol before the daemon agreed to it end the connection."""
    async with serving(switching(shout)) as server, await server.connect() as stream:
        await stream.send_all(SWITCHING + b"early")
        assert await until(stream, b"EARLY") == b""


async def test_a_handler_that_fails_ends_its_connection_alone(serving):
    """The error is logged; the peer sees the end, not another HTTP answer."""

    async def fails(stream):
        raise ValueError("private")

    async with serving(switching(fails)) as server:
        for _ in range(2):
            async with await server.connect() as stream:
                await stream.send_all(SWITCHING)
                data = await until(stream, b"500")
                assert data.count(b"HTTP/1.1") == 1
                assert b"private" not in data
        assert (await server.send(GET)).status == 200
