"""Speaks to one Firecracker over its socket: a request at a time, bounded, with its own words on refusal."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h11
import trio

from runnerd.machines.firecracker.requests import Request

LIMIT = 1 << 20
"""Bytes of one answer."""
WORDS = 500


class ApiError(Exception):
    """Firecracker refused a request, or did not answer; says which."""


class Api:
    """One Firecracker, by its API socket."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def ready(self, deadline: float) -> None:
        """Wait until it listens. Raises `ApiError`."""
        with trio.move_on_after(deadline):
            while True:
                try:
                    stream = await trio.open_unix_socket(self._path)
                except OSError:
                    await trio.sleep(0.005)
                else:
                    await stream.aclose()
                    return
        raise ApiError(f"Firecracker did not listen within {deadline:g} s")

    async def version(self, deadline: float = 5.0) -> str:
        """What it says it is. Raises `ApiError`."""
        answer = await self.ask(Request("GET", "/version", {}), deadline=deadline)
        return str(answer.get("firecracker_version", ""))

    async def ask_all(self, requests: Iterable[Request], *, deadline: float) -> None:
        """Make requests in order, each within `deadline` seconds. Raises `ApiError` at the first refusal."""
        for request in requests:
            await self.ask(request, deadline=deadline)

    async def ask(self, request: Request, *, deadline: float) -> dict[str, Any]:
        """Make one request and return what it answers. Raises `ApiError`."""
        what = f"{request.method} {request.path}"
        try:
            with trio.fail_after(deadline):
                status, body = await self._exchange(request)
        except trio.TooSlowError:
            raise ApiError(f"{what}: no answer within {deadline:g} s") from None
        except (OSError, trio.BrokenResourceError, h11.ProtocolError) as error:
            raise ApiError(f"{what}: {str(error) or type(error).__name__}") from error
        try:
            answer = json.loads(body) if body else {}
        except (ValueError, RecursionError):
            answer = {}
        if not 200 <= status < 300:
            fault = answer.get("fault_message") if isinstance(answer, dict) else None
            raise ApiError(f"{what}: {str(fault or body[:WORDS])[:WORDS]}")
        return answer if isinstance(answer, dict) else {}

    async def _exchange(self, request: Request) -> tuple[int, bytes]:
        body = json.dumps(request.body).encode() if request.method != "GET" else b""
        headers = [("Host", "localhost"), ("Accept", "application/json"), ("Connection", "close")]
        headers += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        connection = h11.Connection(h11.CLIENT)
        async with await trio.open_unix_socket(self._path) as stream:
            for event in (
                h11.Request(method=request.method, target=request.path, headers=headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                await stream.send_all(connection.send(event) or b"")
            return await _answer(connection, stream)


async def _answer(connection: h11.Connection, stream: trio.SocketStream) -> tuple[int, bytes]:
    status, body = 0, bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some(65536))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > LIMIT:
                raise OSError(f"an answer of more than {LIMIT} bytes")
        elif isinstance(event, h11.EndOfMessage):
            return status, bytes(body)
        elif isinstance(event, h11.ConnectionClosed):
            raise OSError("it closed the connection")
