"""A connection that a process in the machine made to an offered port, as a stream on the host."""

from __future__ import annotations

from typing import NoReturn

import trio

from runnerd.machines.driver import MachineLost
from runnerd.machines.exchange import Chunk, Eof, Exchange
from runnerd.machines.frames import FROM_GUEST


class GuestConnection(trio.abc.HalfCloseableStream):
    """Behaves as a socket: what was sent before a close arrives, and a lost machine is a broken pipe."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._sending = trio.Lock()
        self._rest = bytearray()
        self._heard_all = False
        self._no_more = False
        self._closed = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Up to `max_bytes` bytes, b"" at the end; raises BrokenResourceError when it was cut off."""
        if self._closed:
            raise trio.ClosedResourceError("this connection was closed")
        if max_bytes is not None and max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        while not self._rest:
            if self._heard_all:
                await trio.lowlevel.checkpoint()
                return b""
            await self._hear()
        count = len(self._rest) if max_bytes is None else min(max_bytes, len(self._rest))
        data = bytes(self._rest[:count])
        del self._rest[:count]
        self._exchange.took(FROM_GUEST, count)
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything, as fast as the machine takes it; raises BrokenResourceError when it is cut off."""
        async with self._sending:
            if self._closed or self._no_more:
                raise trio.ClosedResourceError("nothing can be sent on this connection any more")
            try:
                await self._exchange.send(memoryview(data))
            except MachineLost as error:
                self._broken(error)
            if self._exchange.over:
                self._broken(None)

    async def wait_send_all_might_not_block(self) -> None:
        """Returns at once: credit comes when it comes."""
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        """Say that nothing more will be sent."""
        async with self._sending:
            if self._closed:
                raise trio.ClosedResourceError("this connection was closed")
            if not self._no_more:
                self._no_more = True
                self._exchange.send_eof()

    async def aclose(self) -> None:
        """Close both directions; what was sent still arrives."""
        if not self._closed:
            self._closed = True
            self._exchange.drop()
        await trio.lowlevel.checkpoint()

    async def _hear(self) -> None:
        try:
            item = await self._exchange.next()
        except MachineLost as error:
            self._broken(error)
        if isinstance(item, Chunk):
            self._rest = item.data
        elif isinstance(item, Eof):
            self._heard_all = True
        else:
            self._broken(None)

    def _broken(self, cause: MachineLost | None) -> NoReturn:
        raise trio.BrokenResourceError("the connection in the machine ended") from cause
