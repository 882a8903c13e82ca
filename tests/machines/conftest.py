"""Real agents as processes of this host, and a channel whose other end a test plays itself."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from runnerd.machines import frames
from runnerd.machines.channel import Channel
from runnerd.machines.driver import Command, Driver, Exit, Machine, Size
from runnerd.machines.pyz import pack

SIZE = Size()


@pytest.fixture(scope="session")
def agent_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packed agent."""
    out = tmp_path_factory.mktemp("agent") / "agent.pyz"
    pack(out)
    return out


async def leased(driver: Driver, image: str = "ubuntu", size: Size = SIZE) -> Machine:
    """A machine that a job has."""
    machine = await driver.clone(await driver.build_template(image, size))
    await machine.thaw()
    await machine.lease()
    return machine


async def run(machine: Machine, script: str) -> tuple[Exit, str]:
    """How a script ended in a machine, and all that it said."""
    said = bytearray()

    async def hear(_stream: str, data: bytes) -> None:
        said.extend(data)

    env = {"PATH": os.environ["PATH"]}
    with trio.fail_after(120):
        ended = await machine.exec(Command(argv=("sh", "-c", script), env=env, cwd=machine.paths.work), hear)
    return ended, said.decode()


def start_agent(agent_file: Path, root: Path) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A running agent that may write in `root`, and the host's end of its channel."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", agent_file, "--fd", str(theirs.fileno()), "--root", root],
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    return process, ours


@pytest.fixture
async def agent_channel(agent_file: Path, tmp_path: Path) -> AsyncIterator[Channel]:
    """A connected channel to a real agent that may write in `tmp_path`."""
    process, ours = start_agent(agent_file, tmp_path)
    channel = Channel(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(channel.run)
            await channel.connect(60)
            yield channel
            channel.close("the test is over")
    finally:
        assert process.wait(timeout=120) == 0


class Peer:
    """The guest's end of a channel, played by a test: it may send anything."""

    def __init__(self, channel: Channel, stream: trio.abc.Stream) -> None:
        self.channel = channel
        self.stream = stream
        self._received = bytearray()

    async def send(self, kind: int, stream: int = 0, payload: bytes = b"", flags: int = 0) -> None:
        """Send one frame."""
        await self.send_bytes(frames.pack(kind, stream, payload, flags))

    async def send_bytes(self, data: bytes) -> None:
        """Send bytes that need not be a frame."""
        await self.stream.send_all(data)

    async def receive(self) -> frames.Frame:
        """The next frame from the host."""
        size = frames.HEADER.size
        while True:
            if len(self._received) >= size:
                magic, kind, flags, _, stream, length = frames.HEADER.unpack_from(self._received)
                assert magic == frames.MAGIC
                if len(self._received) >= size + length:
                    payload = bytes(self._received[size : size + length])
                    del self._received[: size + length]
                    return frames.Frame(kind, flags, stream, payload)
            data = await self.stream.receive_some()
            if not data:
                raise trio.EndOfChannel("the host closed the channel")
            self._received += data

    async def greet(self) -> None:
        """Answer the host's HELLO as an agent would."""
        hello = await self.receive()
        assert hello.kind == frames.HELLO
        nonce = json.loads(hello.payload)["nonce"]
        await self.send(
            frames.HELLO_ACK, 0, json.dumps({"nonce": nonce, "protocol": frames.VERSION}).encode()
        )


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    """A channel that is connected to the test itself, over memory."""
    ours, theirs = trio.testing.memory_stream_pair()
    channel = Channel(ours)
    async with trio.open_nursery() as nursery:
        await nursery.start(channel.run)
        played = Peer(channel, theirs)
        async with trio.open_nursery() as greeting:
            greeting.start_soon(played.greet)
            await channel.connect(5)
        yield played
        channel.close("the test is over")
