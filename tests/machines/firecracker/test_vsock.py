"""The handshake through Firecracker's vsock socket."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from runnerd.machines.firecracker import vsock


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fc-", dir="/tmp") as folder:
        yield Path(folder, "v.sock")


async def played(path: Path, answers: list[bytes], task_status) -> None:
    """Each connection gets the next answer, and is closed unless the answer is an OK."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    async def serve(stream: trio.SocketStream) -> None:
        assert await stream.receive_some(100) == b"CONNECT 5005\n"
        answer = answers.pop(0)
        await stream.send_all(answer)
        if answer.startswith(b"OK "):
            await trio.sleep_forever()

    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(listener))]
    await trio.serve_listeners(serve, listeners, task_status=task_status)


async def test_agent_is_waited_for(path: Path) -> None:
    """While nobody listens in the machine it is tried again; what follows the line is the agent's."""
    async with trio.open_nursery() as nursery:
        await nursery.start(played, path, [b"", b"ERROR\n", b"OK 1073741824\nhello"])
        stream = await vsock.connect(path, 5005, deadline=10.0)
        async with stream:
            assert await stream.receive_some(100) == b"hello"
        nursery.cancel_scope.cancel()


async def test_waiting_ends(path: Path) -> None:
    """No socket, and nobody behind it, end in time."""
    with pytest.raises(trio.TooSlowError):
        await vsock.connect(path, 5005, deadline=0.1)
    async with trio.open_nursery() as nursery:
        await nursery.start(played, path, [b""] * 1000)
        with pytest.raises(trio.TooSlowError):
            await vsock.connect(path, 5005, deadline=0.2)
        nursery.cancel_scope.cancel()
