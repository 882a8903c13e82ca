"""A real agent and the frames that go to and come from it, without any of the host's code between."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runnerd.machines.guest import wire

ENV = {"PATH": os.environ["PATH"]}


class Host:
    """One side of a socketpair; at the other is an agent of its own."""

    def __init__(self, agent_file: Path, root: Path, *handed: int) -> None:
        self.root = root
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(60)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", agent_file, "--fd", str(theirs.fileno()), "--root", root],
                pass_fds=[theirs.fileno(), *handed],
                start_new_session=True,
            )
        self.frames = wire.Frames()
        self.frames.lost = False
        self.queue: deque[wire.Frame] = deque()
        self.count = 0

    def send(self, kind: int, stream: int, payload: bytes = b"", flags: int = 0) -> None:
        self.socket.sendall(wire.pack(kind, stream, payload, flags))

    def receive(self) -> wire.Frame:
        while not self.queue:
            data = self.socket.recv(65536)
            assert data, "the agent closed its channel"
            self.queue.extend(self.frames.feed(data))
        return self.queue.popleft()

    def hello(self, nonce: str = "one") -> dict[str, Any]:
        self.send(wire.HELLO, 0, json.dumps({"nonce": nonce}).encode())
        while True:
            kind, _, _, payload = self.receive()
            if kind == wire.HELLO_ACK:
                return json.loads(payload)

    def request(self, operation: str, **fields: Any) -> int:
        self.count += 1
        stream = self.count << 2
        self.send(wire.REQ, stream, json.dumps({"op": operation, **fields}).encode())
        return stream

    def answer(self, stream: int) -> dict[str, Any]:
        """The fields of the RES on a stream, which must be the next frame."""
        kind, _, answered, payload = self.receive()
        assert (kind, answered) == (wire.RES, stream)
        return json.loads(payload)

    def call(self, operation: str, **fields: Any) -> dict[str, Any]:
        return self.answer(self.request(operation, **fields))

    def run(self, *argv: str, **fields: Any) -> tuple[dict[str, Any], bytes, bytes]:
        """Run to the end: EXIT's fields, standard output, standard error."""
        stream = self.request("exec", argv=argv, env=ENV, **fields)
        answer = self.answer(stream)
        assert "error" not in answer, answer
        return self.finish(stream)

    def finish(self, stream: int) -> tuple[dict[str, Any], bytes, bytes]:
        """Take an exec's output, returning credit, to its EXIT."""
        output = {wire.FROM_GUEST: bytearray(), wire.ERRORS: bytearray()}
        while True:
            kind, _, sender, payload = self.receive()
            assert sender & ~3 == stream
            if kind == wire.EXIT:
                return json.loads(payload), bytes(output[wire.FROM_GUEST]), bytes(output[wire.ERRORS])
            if kind == wire.WINDOW:
                continue
            assert kind == wire.DATA
            output[sender & 3] += payload
            self.send(wire.WINDOW, sender, len(payload).to_bytes(4, "little"))

    def close(self) -> int:
        """Hang up; the status the agent ends with."""
        self.socket.close()
        return self.process.wait(timeout=120)


def gone(pid: int) -> None:
    """Wait for the end of a process, in whoever's charge."""
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def deaf_host(agent_file: Path, tmp_path: Path) -> Iterator[Host]:
    """A host that has not greeted its agent yet."""
    host = Host(agent_file, tmp_path)
    yield host
    assert host.close() == 0


@pytest.fixture
def host(deaf_host: Host) -> Host:
    """A host in session with an agent that may write in `tmp_path`."""
    deaf_host.hello()
    return deaf_host
