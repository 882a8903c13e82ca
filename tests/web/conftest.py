"""Real sockets for the tests of this folder: a guarded server on a free port, and a raw client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio

from runnerd.web import guard


class Reply:
    """One HTTP answer as it came over the wire."""

    def __init__(self, data: bytes) -> None:
        self.raw = data
        head, _, self.body = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split(" ")[1]) if data else 0
        self.headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """A served application; counts what is left of its connections."""

    def __init__(self, port: int, stop: trio.Event) -> None:
        self.port = port
        self.stop = stop

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def send(self, data: bytes, *, within: float = 10.0) -> Reply:
        """Send bytes on a new connection and read until the answer is whole or the server closes."""
        with trio.fail_after(within):
            stream = await self.connect()
            async with stream:
                try:
                    await stream.send_all(data)
                except trio.BrokenResourceError:
                    pass
                return Reply(await read_answer(stream))


async def read_answer(stream: trio.SocketStream) -> bytes:
    """Read one answer with a content length, or whatever comes until the end."""
    data = b""
    while True:
        head, blank, body = data.partition(b"\r\n\r\n")
        for line in head.split(b"\r\n") if blank else ():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length" and len(body) >= int(value):
                return data
        try:
            chunk = await stream.receive_some()
        except trio.BrokenResourceError:
            return data
        if not chunk:
            return data
        data += chunk


Serving = Callable[..., Any]


@pytest.fixture
def serving() -> Serving:
    """Serve an application for the length of a block, with the guard's own arguments."""

    @asynccontextmanager
    async def block(app: Any, **options: Any) -> AsyncIterator[Server]:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(guard.serve, app, listeners, stop=stop, **options))
            yield Server(listeners[0].socket.getsockname()[1], stop)
            stop.set()

    return block


Echo = Callable[[dict[str, Any], Any, Any], Awaitable[None]]


@pytest.fixture
def echo() -> Echo:
    """An application that answers with the length of the body it read."""

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return
            size += len(message["body"])
            if not message["more_body"]:
                break
        text = b"%d" % size
        headers = [(b"content-length", b"%d" % len(text))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text})

    return app
