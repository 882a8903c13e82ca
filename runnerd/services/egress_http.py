"""One connection of a client to the proxy: HTTP/1.1 CONNECT, and plain HTTP with absolute addresses.

Every byte of either side is hostile. What is decided about a request is decided by `Ways`, which this asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol
from urllib.parse import urlsplit

import h11
import trio

from runnerd.services.egress_account import Traffic
from runnerd.services.egress_policy import split_authority

HEAD = 65536
"""Bytes that the head of a request or an answer may have."""
CHUNK = 65536

_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)
_HOP = frozenset(
    (
        b"connection",
        b"expect",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
"""Headers that concern one connection only (RFC 9110 §7.6.1)."""

Headers = list[tuple[bytes, bytes]]


class Refused(Exception):
    """A request that is answered by the proxy itself: the status, and a sentence for the client."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Ways(Protocol):
    """Where connections come from."""

    async def reach(self, host: str, port: int) -> tuple[trio.abc.HalfCloseableStream, Traffic]:
        """Connect, or raise `Refused`."""
        ...


class Patience:
    """Ends what it encloses once nothing has moved for a while."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._scope = trio.CancelScope()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Enclose what must move; leaves it silently when it does not."""
        self.moved()
        with self._scope:
            yield

    def moved(self) -> None:
        """Something moved."""
        self._scope.deadline = trio.current_time() + self._seconds


class Side:
    """HTTP over one stream."""

    def __init__(
        self, stream: trio.abc.HalfCloseableStream, role: type[h11.CLIENT] | type[h11.SERVER]
    ) -> None:
        self.stream = stream
        self.http = h11.Connection(role, max_incomplete_event_size=HEAD)

    async def next(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """The next event. Raises `h11.RemoteProtocolError`, and what the stream raises."""
        while True:
            event = self.http.next_event()
            if event is not h11.NEED_DATA:
                return event
            if self.http.their_role is h11.CLIENT and self.http.they_are_waiting_for_100_continue:
                await self.send(h11.InformationalResponse(status_code=100, headers=[]))
            self.http.receive_data(bytes(await self.stream.receive_some(CHUNK)))

    async def send(self, event: h11.Event) -> None:
        """Send an event."""
        if data := self.http.send(event):
            await self.stream.send_all(data)


async def converse(
    stream: trio.abc.HalfCloseableStream, ways: Ways, *, head_seconds: float, idle_seconds: float
) -> None:
    """Serve one client until it ends, is refused or stays silent. Raises what its stream raises, and
    `h11.ProtocolError` for what is no HTTP.
    """
    client = Side(stream, h11.SERVER)
    while True:
        request = None
        try:
            with trio.move_on_after(head_seconds):
                request = await client.next()
        except h11.RemoteProtocolError as error:
            return await answer(client, Refused(error.error_status_hint, f"this is not HTTP/1.1: {error}"))
        if not isinstance(request, h11.Request):
            return
        try:
            if request.method == b"CONNECT":
                return await _tunnel(client, request, ways, idle_seconds)
            if not await _forward(client, request, ways, idle_seconds):
                return
        except Refused as refused:
            return await answer(client, refused, bare=request.method == b"HEAD")
        client.http.start_next_cycle()


async def answer(client: Side, refused: Refused, *, bare: bool = False) -> None:
    """Say why there is no other answer; the sentence is in the status line too, where many tools show it.

    `bare` leaves the body out, as the answer to HEAD must; one that was begun is left as it is.
    """
    if client.http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
        return
    said = "".join(sign if sign.isprintable() else "?" for sign in str(refused)[:500])
    text = f"runnerd: {said}".encode("ascii", "replace")
    headers = [
        ("Content-Type", "text/plain"),
        ("Content-Length", str(len(text) + 1)),
        ("Connection", "close"),
    ]
    await client.send(h11.Response(status_code=refused.status, headers=headers, reason=text))
    if not bare:
        await client.send(h11.Data(data=text + b"\n"))
    await client.send(h11.EndOfMessage())


async def _tunnel(client: Side, request: h11.Request, ways: Ways, idle_seconds: float) -> None:
    try:
        host, port = split_authority(request.target.decode("ascii"), None)
    except ValueError as error:
        raise Refused(400, f"CONNECT needs host:port, and this is {error}") from error
    if port is None:
        raise Refused(400, "CONNECT needs host:port, and there is no port")
    remote, traffic = await ways.reach(host, port)
    async with remote:
        patience = Patience(idle_seconds)
        with patience.watching():
            while await client.next() is not h11.PAUSED:
                pass
            await client.send(h11.Response(status_code=200, headers=[], reason=b"Connection established"))
            early, _ = client.http.trailing_data
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_pump, client.stream, remote, early, traffic, True, patience, nursery)
                nursery.start_soon(_pump, remote, client.stream, b"", traffic, False, patience, nursery)


async def _pump(
    source: trio.abc.HalfCloseableStream,
    sink: trio.abc.HalfCloseableStream,
    data: bytes | bytearray,
    traffic: Traffic,
    outwards: bool,
    patience: Patience,
    nursery: trio.Nursery,
) -> None:
    """Carry one direction to its end, which closes that direction alone; a break ends both."""
    try:
        while True:
            if data:
                await sink.send_all(data)
                if outwards:
                    traffic.sent += len(data)
                else:
                    traffic.received += len(data)
                patience.moved()
            data = await source.receive_some(CHUNK)
            if not data:
                return await sink.send_eof()
    except _GONE:
        nursery.cancel_scope.cancel()


async def _forward(client: Side, request: h11.Request, ways: Ways, idle_seconds: float) -> bool:
    """Pass one request on, and its answer back; True when the client may send another."""
    host, port, path, authority = _address(request.target)
    stream, traffic = await ways.reach(host, port)
    async with stream:
        server = Side(stream, h11.CLIENT)
        headers: Headers = [(b"Host", authority), *_passed(request.headers, b"host")]
        if any(name == b"transfer-encoding" for name, _ in request.headers):
            headers = [*_without(headers, b"content-length"), (b"Transfer-Encoding", b"chunked")]
        headers += [(b"Connection", b"close"), (b"Via", b"1.1 runnerd")]
        patience = Patience(idle_seconds)
        with patience.watching():
            try:
                await server.send(h11.Request(method=request.method, target=path, headers=headers))
            except _GONE:
                raise Refused(502, f"{host} ended the connection") from None
            upload = _Upload(client, server, traffic, patience)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(upload.run, nursery)
                refused = await _relay(server, client, host, traffic, patience)
                nursery.cancel_scope.cancel()
            if refused is not None and not upload.broken:
                raise refused
            return client.http.our_state is h11.DONE and client.http.their_state is h11.DONE
        raise Refused(504, f"{host} and the client were silent for {idle_seconds:g} s")


class _Upload:
    """Carries a request's body to the server."""

    def __init__(self, client: Side, server: Side, traffic: Traffic, patience: Patience) -> None:
        self.broken = False
        """The client sent what is no HTTP, or went away."""
        self._client = client
        self._server = server
        self._traffic = traffic
        self._patience = patience

    async def run(self, nursery: trio.Nursery) -> None:
        """Carry it to its end. A server that stops listening may have answered, which others see to."""
        while True:
            try:
                event = await self._client.next()
            except (*_GONE, h11.RemoteProtocolError):
                self.broken = True
                nursery.cancel_scope.cancel()
                return
            if not isinstance(event, h11.Data | h11.EndOfMessage):
                return
            try:
                if isinstance(event, h11.EndOfMessage):
                    return await self._server.send(h11.EndOfMessage())
                await self._server.send(event)
            except _GONE:
                return
            self._traffic.sent += len(event.data)
            self._patience.moved()


async def _relay(
    server: Side, client: Side, host: str, traffic: Traffic, patience: Patience
) -> Refused | None:
    """Carry the answer to the client; where there is none, return what to answer instead."""
    while True:
        try:
            event = await server.next()
        except (*_GONE, h11.RemoteProtocolError):
            # What was begun is cut off, so that nobody takes it for whole.
            return Refused(502, f"{host} did not answer with HTTP/1.1")
        patience.moved()
        if isinstance(event, h11.Response):
            headers = [*_passed(event.headers), (b"Via", b"1.1 runnerd")]
            if any(name == b"transfer-encoding" for name, _ in event.headers):
                headers = _without(headers, b"content-length")
            head = h11.Response(status_code=event.status_code, headers=headers, reason=event.reason)
            await client.send(head)
        elif isinstance(event, h11.Data):
            traffic.received += len(event.data)
            await client.send(event)
        elif isinstance(event, h11.EndOfMessage):
            await client.send(h11.EndOfMessage())
            return None
        elif not isinstance(event, h11.InformationalResponse):
            return Refused(502, f"{host} did not answer")


def _address(target: bytes) -> tuple[str, int, bytes, bytes]:
    """Host, port, path and Host header of an absolute address. Raises `Refused`."""
    text = target.decode("ascii", "replace")
    try:
        parts = urlsplit(text)
        if parts.scheme == "https":
            raise Refused(400, "https goes through this proxy by CONNECT")
        if parts.scheme != "http":
            raise Refused(400, "this is a proxy: it takes CONNECT and absolute http:// addresses")
        authority = parts.netloc.rpartition("@")[2]
        host, port = split_authority(authority, 80)
    except ValueError as error:
        raise Refused(400, f"the address is {error}") from error
    assert port is not None
    path = parts.path or "/"
    return host, port, f"{path}?{parts.query}".encode() if parts.query else path.encode(), authority.encode()


def _passed(headers: Iterable[tuple[bytes, bytes]], *others: bytes) -> Headers:
    """The headers that go on: none that concerns one connection, by its name or by `Connection`."""
    kept = [(name.lower(), name, value) for name, value in headers]
    named = b",".join(value for lower, _, value in kept if lower == b"connection")
    left_out = _HOP | {word.strip().lower() for word in named.split(b",")} - {b"content-length"}
    return [(name, value) for lower, name, value in kept if lower not in left_out | set(others)]


def _without(headers: Headers, name: bytes) -> Headers:
    return [(each, value) for each, value in headers if each.lower() != name]
