"""The client of Firecracker's API, at a socket where a test answers."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from runnerd.machines.firecracker.api import LIMIT, Api, ApiError
from runnerd.machines.firecracker.requests import Request

ASK = Request("PUT", "/vm", {"state": "Paused"})


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fc-", dir="/tmp") as folder:
        yield Path(folder, "api.sock")


async def answering(path: Path, answer: bytes | None, heard: list[bytes], task_status) -> None:
    """Answer every connection alike; None never answers."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    async def serve(stream: trio.SocketStream) -> None:
        said = b""
        while b"\r\n\r\n" not in said or (said.startswith(b"PUT") and not said.endswith(b"}")):
            said += (more := bytes(await stream.receive_some(65536)))
            if not more:
                return
        heard.append(said)
        if answer is None:
            await trio.sleep_forever()
        try:
            await stream.send_all(answer)
        except trio.BrokenResourceError:
            pass

    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(listener))]
    await trio.serve_listeners(serve, listeners, task_status=task_status)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b'HTTP/1.1 400 X\r\nContent-Length: 28\r\n\r\n{"fault_message": "no disk"}', "no disk"),
        (b"HTTP/1.1 500 X\r\nContent-Length: 4\r\n\r\noops", "oops"),
        (b"nonsense\r\n\r\n", "PUT /vm"),
        (b"", "PUT /vm"),
        (b"HTTP/1.1 200 X\r\nContent-Length: 9000000\r\n\r\n" + bytes(LIMIT + 70_000), "more than"),
    ],
)
async def test_refusals_and_nonsense_are_one_error(path: Path, answer: bytes, sentence: str) -> None:
    """Whatever comes for an answer, the error names the request, with Firecracker's words if any."""
    async with trio.open_nursery() as nursery:
        await nursery.start(answering, path, answer, [])
        with pytest.raises(ApiError, match=sentence):
            await Api(path).ask(ASK, deadline=5.0)
        nursery.cancel_scope.cancel()


async def test_answer_is_taken(path: Path) -> None:
    """An empty answer is enough, and a body is read."""
    heard: list[bytes] = []
    async with trio.open_nursery() as nursery:
        body = b'{"firecracker_version": "1.16.1"}'
        answer = b"HTTP/1.1 200 X\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        await nursery.start(answering, path, answer, heard)
        api = Api(path)
        await api.ready(5.0)
        assert await api.version() == "1.16.1"
        await api.ask_all([ASK, ASK], deadline=5.0)
        nursery.cancel_scope.cancel()
    assert heard[-1].startswith(b"PUT /vm HTTP/1.1\r\n")
    assert heard[-1].endswith(b'{"state": "Paused"}')


async def test_silence_ends(path: Path) -> None:
    """No answer is an error in time, and so is nobody who listens."""
    with pytest.raises(ApiError, match=r"did not listen within 0\.05 s"):
        await Api(path).ready(0.05)
    async with trio.open_nursery() as nursery:
        await nursery.start(answering, path, None, [])
        with pytest.raises(ApiError, match=r"PUT /vm: no answer within 0\.1 s"):
            await Api(path).ask(ASK, deadline=0.1)
        nursery.cancel_scope.cancel()
