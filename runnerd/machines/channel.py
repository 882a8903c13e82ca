"""The host's side of one agent: frames in and out of one byte stream, and the end of it when they are wrong.

A breach of the protocol ends this channel, with a reason, and nothing else.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from runnerd import log
from runnerd.machines.connection import GuestConnection
from runnerd.machines.driver import Connection, MachineLost
from runnerd.machines.exchange import Answer, End, Eof, Exchange, decode
from runnerd.machines.frames import (
    CONTROL,
    DATA,
    EOF,
    ERRORS,
    EXIT,
    FILLER,
    FROM_GUEST,
    GUEST,
    HELLO,
    HELLO_ACK,
    MORE,
    PING,
    PONG,
    REQ,
    RES,
    TO_GUEST,
    VERSION,
    WINDOW,
    Breach,
    Decoder,
    Frame,
    pack,
)

READ = 16384
"""Bytes taken from the stream at once: what a hostile agent can make of them costs the loop little time."""
ROOM = 8
"""Data frames waiting for the stream before senders wait."""
CONNECTIONS = 64
"""Connections an agent may have at the same time."""
UNREAD = 4096
"""Frames without data that may wait for the stream: an agent that makes the host answer reads the answers."""
RESEND = 1.0
"""Seconds without an answer after which the HELLO is sent again, behind a filler."""

_log = log.get(__name__)


class Channel:
    """One agent. Nothing happens unless `run` is running; after its end everything raises MachineLost."""

    def __init__(
        self, stream: trio.abc.Stream, *, nonce: Callable[[], str] = lambda: os.urandom(8).hex()
    ) -> None:
        self.lost = trio.Event()
        self.reason = ""
        self.on_lost: Callable[[], None] = lambda: None
        """Called once, when `reason` is known and before `lost` is set."""
        self.hello: dict[str, Any] = {}
        """What the agent said of itself."""
        self._stream = stream
        self._invent = nonce
        self._nonce = nonce()
        self._decoder = Decoder()
        self._exchanges: dict[int, Exchange] = {}
        self._handlers: dict[int, Connection] = {}
        self._count = 0
        self._urgent: deque[bytes] = deque()
        self._bulk: deque[bytes] = deque()
        self._work = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()
        self._greeted = trio.Event()
        self._pings: deque[tuple[bytes, trio.Event]] = deque()
        self._nursery: trio.Nursery | None = None

    @property
    def ended(self) -> bool:
        """Whether this channel is of no more use."""
        return self.lost.is_set()

    @property
    def quiet(self) -> bool:
        """Whether nothing is under way: no request, no process, no connection."""
        return not (self._exchanges or self._urgent or self._bulk)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read and write until the stream ends, breaks or is closed; what the agent does never raises."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                if not self.ended:
                    nursery.start_soon(self._write)
                    task_status.started()
                    await self._read()
                nursery.cancel_scope.cancel()
        finally:
            self.close("its channel was closed")
            await trio.aclose_forcefully(self._stream)

    def close(self, reason: str) -> None:
        """End the channel; the first reason stays."""
        if self.ended:
            return
        self.reason = reason
        self.on_lost()
        self.lost.set()
        for exchange in self._exchanges.values():
            exchange.wake()
        self._room.unpark_all()
        self._greeted.set()
        for _, event in self._pings:
            event.set()
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    async def connect(self, deadline: float) -> dict[str, Any]:
        """Greet the agent and wait at most `deadline` seconds for its answer; raises MachineLost.

        The greeting may wait in the stream until the agent opens its end.
        """
        hello = pack(HELLO, 0, json.dumps({"nonce": self._nonce, "protocol": VERSION}).encode())
        self.send(hello)
        with trio.move_on_after(deadline):
            with trio.move_on_after(RESEND):
                await self._greeted.wait()
            if not self._greeted.is_set():
                self.send(FILLER + hello)
                await self._greeted.wait()
        if not self._greeted.is_set():
            self.close(f"the agent did not answer within {deadline:g} s")
        self._check()
        return self.hello

    async def connect_again(self, deadline: float) -> None:
        """Greet an agent that lost its host for a moment, and offer it anew what it was offered.

        What was still under way is over. Raises MachineLost, also when a port is refused.
        """
        for exchange in self._exchanges.values():
            exchange.arrived(End({}), over=True)
        self._exchanges.clear()
        self._urgent.clear()
        self._bulk.clear()
        self._pings.clear()
        self._room.unpark_all()
        self._nonce = self._invent()
        self._decoder = Decoder()
        self._greeted = trio.Event()
        await self.connect(deadline)
        try:
            for port in tuple(self._handlers):
                await self.call("listen", port=port)
        except (OSError, ValueError) as error:
            self.close(f"its ports could not be offered again: {error}")
            raise MachineLost(self.reason) from error

    async def call(self, operation: str, *, deadline: float = 10.0, **arguments: Any) -> dict[str, Any]:
        """Ask for one operation; the answer's fields.

        Raises OSError or ValueError when the agent refuses. No answer within `deadline` seconds ends
        the channel and raises MachineLost.
        """
        exchange = self.open()
        try:
            with trio.move_on_after(deadline):
                await exchange.request(operation, arguments)
                return await exchange.answer()
        finally:
            exchange.drop()
        self.close(f"the agent did not answer {operation!r} within {deadline:g} s")
        raise MachineLost(self.reason)

    async def ping(self, deadline: float = 5.0) -> None:
        """Ask whether the agent is there; raises MachineLost, and ends the channel, when it is not."""
        self._check()
        answered = trio.Event()
        payload = len(self._pings).to_bytes(8, "little")
        self._pings.append((payload, answered))
        self.send(pack(PING, 0, payload))
        with trio.move_on_after(deadline):
            await answered.wait()
        if not answered.is_set():
            self.close(f"the agent did not answer within {deadline:g} s")
        self._check()

    async def listen(self, port: int, handler: Connection) -> None:
        """Offer a port on the machine's loopback; each connection to it is served by `handler`.

        A handler's exception ends its connection and is logged. Raises OSError when the port is taken.
        """
        offered = self._handlers.get(port)
        self._handlers[port] = handler
        try:
            await self.call("listen", port=port)
        except OSError:
            del self._handlers[port]
            if offered is not None:
                self._handlers[port] = offered
            raise

    def open(self) -> Exchange:
        """A new exchange, over once the agent has sent its last frame. Raises MachineLost."""
        self._check()
        self._count += 1
        stream = self._count << 2 & (GUEST - 4)
        exchange = self._exchanges[stream] = Exchange(self, stream)
        return exchange

    def start(self, task: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Run a task beside the channel; it ends with the channel at the latest. Raises MachineLost."""
        self._check()
        assert self._nursery is not None
        self._nursery.start_soon(task, *arguments)

    def send(self, frame: bytes) -> None:
        """Queue a control frame; it goes out before all data."""
        self._queue(self._urgent, frame)

    def send_in_order(self, frame: bytes) -> None:
        """Queue a small frame behind the data queued before it."""
        self._queue(self._bulk, frame)

    async def send_data(self, frame: bytes) -> None:
        """Queue a data frame when there is room; senders take turns. Raises MachineLost."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while len(self._bulk) >= ROOM and not self.ended:
            await self._room.park()
        self._check()
        self.send_in_order(frame)

    def _queue(self, queue: deque[bytes], frame: bytes) -> None:
        queue.append(frame)
        self._work.unpark_all()
        if len(self._urgent) + len(self._bulk) > UNREAD:
            self.close("it does not read what it is sent")

    def _check(self) -> None:
        if self.ended:
            raise MachineLost(self.reason)

    async def _write(self) -> None:
        try:
            while True:
                if self._urgent:
                    frames = b"".join(self._urgent)
                    self._urgent.clear()
                    await self._stream.send_all(frames)
                elif self._bulk:
                    frame = self._bulk.popleft()
                    self._room.unpark()
                    await self._stream.send_all(frame)
                else:
                    await self._work.park()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # The reader sees the end too, but behind what the agent still said.
            await self.lost.wait()

    async def _read(self) -> None:
        try:
            while data := await self._stream.receive_some(READ):
                for frame in self._decoder.feed(bytes(data)):
                    self._take(frame)
                    if self.ended:  # an answer to it was one too many; the next frame is nobody's
                        return
            self.close("it closed its channel")
        except Breach as error:
            self.close(f"it broke the protocol: {error}")
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.close("its channel broke")

    def _take(self, frame: Frame) -> None:
        """Give one frame to whom it concerns. Raises Breach."""
        kind, flags, stream, payload = frame
        if kind == HELLO_ACK:
            return self._take_hello(payload)
        if kind == PONG:
            return self._take_pong(payload)
        if kind == REQ:
            return self._take_connection(stream, decode(payload))
        exchange = self._exchanges.get(stream & ~3)
        if exchange is None:
            raise Breach(f"a frame for stream {stream:#x}, which is not open")
        side = stream & 3
        opened = bool(stream & GUEST)
        if kind == DATA and side in (FROM_GUEST, ERRORS) and (exchange.answered or opened):
            exchange.arrived_data(side, payload)
        elif kind == WINDOW and side == TO_GUEST:
            exchange.arrived_window(payload)
        elif kind == EOF and side == FROM_GUEST and opened:
            exchange.arrived(Eof(), over=False)
        elif kind == RES and side == CONTROL and not opened:
            exchange.arrived(Answer(decode(payload)), over=not flags & MORE)
        elif kind == EXIT and side == CONTROL and (exchange.answered or opened):
            exchange.arrived(End(decode(payload)), over=True)
        else:
            raise Breach(f"a frame of type {kind} that has no place on stream {stream:#x}")
        if exchange.over:
            del self._exchanges[stream]

    def _take_hello(self, payload: bytes) -> None:
        fields = decode(payload)
        if fields.get("nonce") != self._nonce:
            if self._decoder.synchronised:
                raise Breach("an answer to a HELLO that was never sent")
            return  # what an earlier host asked for
        if fields.get("protocol") != VERSION:
            said = f"protocol {fields.get('protocol')!r:.20}, this host speaks {VERSION}"
            raise Breach(f"{said}: build the image anew")
        self.hello = fields
        self._decoder.synchronised = True
        self._greeted.set()

    def _take_pong(self, payload: bytes) -> None:
        if not self._pings or self._pings[0][0] != payload:
            raise Breach("a PONG without its PING")
        self._pings.popleft()[1].set()

    def _take_connection(self, stream: int, fields: dict[str, Any]) -> None:
        port = fields.get("port")
        handler = self._handlers.get(port) if isinstance(port, int) else None
        if fields.get("op") != "accept" or not isinstance(port, int) or handler is None:
            raise Breach("a request that is none of an agent's")
        if stream & 3 or not stream & GUEST or stream in self._exchanges:
            raise Breach(f"a connection on stream {stream:#x}, which is not free")
        if sum(bool(number & GUEST) for number in self._exchanges) >= CONNECTIONS:
            raise Breach(f"more than {CONNECTIONS} connections")
        exchange = self._exchanges[stream] = Exchange(self, stream)
        self.start(self._serve, port, handler, exchange)

    async def _serve(self, port: int, handler: Connection, exchange: Exchange) -> None:
        """Run one connection's handler; its errors are its own."""
        connection = GuestConnection(exchange)
        try:
            await handler(connection)
        except (MachineLost, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the other side went away
        except Exception:
            _log.error("connection handler failed", port=port, exc_info=True)
        finally:
            exchange.drop()
