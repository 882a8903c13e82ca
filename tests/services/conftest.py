"""An egress proxy in memory, servers on loopback that it may reach, and the lines it wrote to the log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import ip_address, ip_network

import pytest
import trio
import trio.testing

from runnerd.services.egress import Egress, Limits, Proxy
from runnerd.services.egress_names import NoAddress
from runnerd.services.egress_policy import Policy

Serve = Callable[[trio.SocketStream], Awaitable[None]]

LOCAL = Policy(opened=(ip_network("127.0.0.1/32"),))
"""Guarded, but the servers of a test are reached."""


class Wire:
    """A client of the proxy that says and hears bytes."""

    def __init__(self, stream: trio.StapledStream) -> None:
        self.stream = stream

    async def ask(self, text: str | bytes) -> bytes:
        """Send, and return everything until the proxy ends the connection."""
        await self.stream.send_all(text.encode() if isinstance(text, str) else text)
        return await self.rest()

    async def hear(self, end: bytes) -> bytes:
        """Everything up to and with `end`."""
        heard = bytearray()
        while not heard.endswith(end):
            data = await self.stream.receive_some(1)
            assert data, bytes(heard)
            heard += data
        return bytes(heard)

    async def rest(self) -> bytes:
        """Everything that still comes."""
        heard = bytearray()
        while data := await self.stream.receive_some():
            heard += data
        return bytes(heard)


class World:
    """One proxy, its log, its names, and servers."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.lines: list[str] = []
        self.names: dict[str, list[str]] = {"here.example": ["127.0.0.1"]}
        self.looked_up: list[str] = []
        self.proxy: Proxy

    async def say(self, line: str) -> None:
        self.lines.append(line)

    async def resolve(self, host: str):
        self.looked_up.append(host)
        await trio.lowlevel.checkpoint()
        if host not in self.names:
            raise NoAddress("Name or service not known")
        return [ip_address(each) for each in self.names[host]]

    @asynccontextmanager
    async def open(self, policy: Policy = LOCAL, **limits: float) -> AsyncIterator[World]:
        """Open the proxy with a policy."""
        self.egress = Egress(Limits(**limits), resolve=self.resolve)
        async with self.egress.open(policy, self.say) as self.proxy:
            yield self

    async def server(self, serve: Serve) -> int:
        """Start a server on loopback; its port."""
        listeners = await self.nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        return listeners[0].socket.getsockname()[1]

    def client(self) -> Wire:
        """Connect to the proxy as a machine does."""
        ours, theirs = trio.testing.memory_stream_pair()
        self.nursery.start_soon(self.proxy.serve, theirs)
        return Wire(ours)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with trio.open_nursery() as nursery:
        with trio.fail_after(30):
            yield World(nursery)
        nursery.cancel_scope.cancel()


async def read_head(stream: trio.SocketStream) -> bytes:
    """A request's head, as a server gets it."""
    head = bytearray()
    while not head.endswith(b"\r\n\r\n"):
        data = await stream.receive_some(1)
        if not data:
            break
        head += data
    return bytes(head)


@pytest.fixture
def head_of() -> Callable[[trio.SocketStream], Awaitable[bytes]]:
    return read_head
