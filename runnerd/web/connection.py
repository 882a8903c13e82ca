"""One HTTP/1.1 connection over hypercorn's protocol code, without its doors to HTTP/2 and WebSocket.

What hypercorn leaves open on trio is closed here: an answer is finished although the application was
cancelled in its last `send`, a peer that does not read or does not finish its body is let go in bounded
time, and an error of the application becomes a 500 and a log line.

An `Upgrade` is the application's to accept (`Switch`); from then on the stream is its own.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any, cast

import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState, LifespanState
from hypercorn.utils import parse_socket_addr

from runnerd import log

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI application: called with a scope, a `Receive` and a `Send`."""

SWITCH = "runnerd.switch"
"""The ASGI extension whose value is a `Switch`, where the peer asks for another protocol."""

LINGER = 1.0
"""Seconds an answered peer may go on sending its body, so that it reads the answer and not a reset."""

_log = log.get(__name__)


class Switch:
    """The peer asks to speak `protocol` from here on (RFC 9110 §7.8).

    An application that agrees calls `accept` and answers with status 101; with any other answer the
    connection goes on as HTTP.
    """

    def __init__(self, protocol: str) -> None:
        self.protocol = protocol
        self.handler: Callable[[trio.SocketStream], Awaitable[None]] | None = None

    def accept(self, handler: Callable[[trio.SocketStream], Awaitable[None]]) -> None:
        """Have `handler` serve the stream once the peer was told; the connection ends with it."""
        self.handler = handler


class Connection(TCPServer):
    """Serves the requests of one peer, until either side is done; closes the stream when it leaves.

    `grace` bounds in seconds each single write and the end of each answer. An answer sent after
    `close_after` (trio's clock) asks the peer to connect anew. `bound` ends the connection in any case,
    unless it is given another protocol, which bounds itself.
    """

    def __init__(
        self,
        app: App,
        stream: trio.SocketStream,
        *,
        config: Config,
        context: WorkerContext,
        grace: float,
        close_after: float,
        bound: trio.CancelScope,
    ) -> None:
        super().__init__(cast(Any, self._answer), config, context, cast(LifespanState, {}), cast(Any, stream))
        self._app = app
        self._grace = grace
        self._close_after = close_after
        self._bound = bound
        self._scope = trio.CancelScope()
        self._idle = trio.CancelScope(deadline=trio.current_time() + config.keep_alive_timeout)
        self._holding = False
        self._held = b""
        self._unread = trio.Event()
        """Set once nothing more is read from the stream as HTTP."""
        self._switched = False

    async def run(self) -> None:
        """Serve the connection; raises what hypercorn raises when a peer confuses it."""
        try:
            socket = cast(trio.SocketStream, self.stream).socket
            family = int(socket.family)
            client = parse_socket_addr(family, cast(Any, socket.getpeername()))
            server = parse_socket_addr(family, cast(Any, socket.getsockname()))
            with self._scope:
                async with TaskGroup() as tasks:
                    self._task_group = tasks
                    self.protocol = cast(
                        Any,
                        _PlainHttp(
                            self.app, self.config, cast(Any, self.context), cast(Any, tasks),
                            ConnectionState(self.state), False, client, server, self.protocol_send,
                        ),
                    )  # fmt: skip
                    try:
                        with self._idle:
                            await self._read_data()
                    finally:
                        self._unread.set()
        except OSError:
            pass
        finally:
            await trio.aclose_forcefully(self.stream)

    def end_when_idle(self) -> None:
        """Close now if no request is in progress; otherwise hypercorn's context closes after the answer."""
        if self._idle.deadline < math.inf:
            self._idle.cancel()

    async def protocol_send(self, event: Event) -> None:
        """As hypercorn's, but idleness is a deadline instead of a task, an answer's head waits for its
        first bytes, and a peer that does not read is given up after `grace`."""
        if isinstance(event, Updated):
            idle_until = trio.current_time() + self.config.keep_alive_timeout
            self._idle.deadline = idle_until if event.idle else math.inf
        elif self._switched:
            return  # hypercorn ends a request that is none any more
        elif isinstance(event, RawData):
            data, self._held = self._held + event.data, b""
            if self._holding:
                self._held = data
            elif data:
                await self._write(data)
        else:
            await super().protocol_send(event)

    async def _close(self) -> None:
        async with self.send_lock:  # an end of the stream within an answer would fail the answer
            await super()._close()

    async def _write(self, data: bytes) -> None:
        async with self.send_lock:
            # Shielded so that no answer is cut in half, bounded so that no peer holds the shield.
            with trio.CancelScope(shield=True, deadline=trio.current_time() + self._grace) as writing:
                try:
                    await self.stream.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    await self.protocol.handle(Closed())
            if writing.cancelled_caught:
                self._scope.cancel()

    async def _answer(
        self, scope: dict[str, Any], receive: Receive, send: Send, sync_spawn: object, call_soon: object
    ) -> None:
        """Run the application for one request."""
        started = False
        switch = self._offered(scope)
        if switch is not None:
            scope = {**scope, "extensions": {**(scope.get("extensions") or {}), SWITCH: switch}}

        async def relay(message: dict[str, Any]) -> None:
            nonlocal started
            if switch is not None and switch.handler is not None:
                started = True  # its own words are no answer of HTTP's
            elif message["type"] == "http.response.start":
                started = self._holding = True
                await send(self._closing(message) if self._must_close(scope) else message)
                self._holding = False
            elif message["type"] != "http.response.body" or message.get("more_body", False):
                await send(message)
            elif not self._body_pending():
                await self._finish(send, message)
            else:
                await send({**message, "more_body": True})
                await self._linger(receive)
                await self._finish(send, {"type": "http.response.body"})

        try:
            await self._app(scope, receive, relay)
            if switch is not None and switch.handler is not None:
                await self._switch(switch)
        except* Exception as group:
            # The peer's text stays out of the log; the traceback says where.
            _log.error("request_failed", method=scope.get("method"), exc_info=group)
            if not started:
                answer = b'{"error":"the daemon failed on this request; its log says why"}'
                headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
                await relay({"type": "http.response.start", "status": 500, "headers": headers})
                await relay({"type": "http.response.body", "body": answer})

    def _offered(self, scope: dict[str, Any]) -> Switch | None:
        wanted = cast(_PlainHttp, self.protocol).wanted
        has_body = {name for name, _ in scope["headers"]} & {b"content-length", b"transfer-encoding"}
        return Switch(wanted) if wanted and scope["method"] == "GET" and not has_body else None

    async def _switch(self, switch: Switch) -> None:
        """Leave HTTP: nothing of it is read or written any more, and no lifetime of it counts."""
        assert switch.handler is not None
        self._idle.cancel()
        await self._unread.wait()
        try:
            if _http(self.protocol).trailing_data[0]:
                return  # a peer speaks the new protocol after it was told that we do
            head = f"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {switch.protocol}"
            await self._write(head.encode() + b"\r\n\r\n")
            self._switched = True
            self._bound.deadline = math.inf
            await switch.handler(cast(trio.SocketStream, self.stream))
        finally:
            self._switched = True
            self._scope.cancel()

    async def _finish(self, send: Send, message: dict[str, Any]) -> None:
        # hypercorn tells the application of the end inside this last send, whereupon quart cancels the
        # send itself: without the shield the connection would neither be reused nor closed.
        with trio.move_on_after(self._grace, shield=True) as finishing:
            await send(message)
        if finishing.cancelled_caught:  # nor would a peer whose answer has no end hear of that
            self._scope.cancel()

    async def _linger(self, receive: Receive) -> None:
        """Discard what is left of a body; a peer that does not come to its end is cut off."""
        with trio.move_on_after(LINGER):
            while True:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
        self._scope.cancel()

    def _body_pending(self) -> bool:
        return _http(self.protocol).their_state is h11.SEND_BODY

    def _must_close(self, scope: dict[str, Any]) -> bool:
        # A length beside chunks: whoever stands before us may see another request begin (RFC 9112 §6.1).
        doubtful = {name for name, _ in scope["headers"]} >= {b"content-length", b"transfer-encoding"}
        return doubtful or self._body_pending() or trio.current_time() > self._close_after

    @staticmethod
    def _closing(message: dict[str, Any]) -> dict[str, Any]:
        return {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}


class _PlainHttp(H11Protocol):
    """HTTP/1.0 and 1.1 only. `wanted` is the protocol that the request being served asks to go on in."""

    wanted = ""

    async def _check_protocol(self, event: h11.Request) -> None:
        return

    async def _create_stream(self, request: h11.Request) -> None:
        if request.http_version not in (b"1.0", b"1.1"):
            await self._send_error_response(505)
            await self.send(Closed())
            return
        asked = [value for name, value in request.headers if name == b"upgrade"]
        self.wanted = asked[0].decode("latin-1") if asked and request.http_version == b"1.1" else ""
        if asked:
            # Without the header hypercorn opens none of its own doors.
            request = h11.Request(
                method=request.method,
                target=request.target,
                headers=[(name, value) for name, value in request.headers if name != b"upgrade"],
                http_version=request.http_version,
            )
        await super()._create_stream(request)


def _http(protocol: Any) -> h11.Connection:
    return cast(h11.Connection, protocol.connection)
