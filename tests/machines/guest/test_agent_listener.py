"""An agent that hosts connect to, as in a machine with a vsock device; a Unix socket stands for it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runnerd.machines.guest import wire

AGENT = """
import socket, sys
from runnerd.machines.guest import __main__ as agent, system

def listener(port):
    assert port == 5005
    taken = socket.socket(fileno=int(sys.argv[1]))
    taken.setblocking(False)
    return taken

system.vsock_listener = listener
agent.main(["--vsock", "5005", "--root", sys.argv[2]])
"""


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    """Where an agent listens."""
    path = str(tmp_path / "v.sock")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    process = subprocess.Popen(
        [sys.executable, "-c", AGENT, str(listener.fileno()), str(tmp_path)],
        pass_fds=[listener.fileno()],
        start_new_session=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    listener.close()
    yield path
    assert process.poll() is None  # nothing that a host does ends it
    process.kill()
    process.wait()


def greet(path: str, nonce: str) -> tuple[socket.socket, dict]:
    """Connect, and wait for the agent's answer to a greeting."""
    host = socket.socket(socket.AF_UNIX)
    host.settimeout(20)
    host.connect(path)
    host.sendall(wire.pack(wire.HELLO, 0, json.dumps({"nonce": nonce}).encode()))
    frames = wire.Frames()
    frames.lost = False
    while True:
        for kind, _, _, payload in frames.feed(host.recv(65536)):
            if kind == wire.HELLO_ACK:
                return host, json.loads(payload)


def test_hosts_come_and_go(path: str) -> None:
    """Each host that connects is served by the same agent, also after one that left within a frame."""
    first, hello = greet(path, "one")
    first.sendall(wire.pack(wire.PING, 0, b"half")[:10])
    first.close()
    second, again = greet(path, "two")
    assert again["pid"] == hello["pid"]
    second.close()


def test_latest_host_is_served(path: str) -> None:
    """A host that is gone without a word does not keep the next one out: its connection is closed."""
    first, _ = greet(path, "one")
    second, _ = greet(path, "two")
    assert first.recv(100) == b""
    second.sendall(wire.pack(wire.PING, 0, b"there?"))
    frames = wire.Frames()
    frames.lost = False
    answers = []
    while not answers:
        answers = frames.feed(second.recv(65536))
    assert answers[0][0] == wire.PONG
    for host in (first, second):
        host.close()
