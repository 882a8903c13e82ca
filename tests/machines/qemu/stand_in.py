"""A process that takes QEMU's place: it speaks QMP as QEMU 7.2 does, and has a real agent behind its port.

Run as `stand_in.py AGENT FOLDER QEMU'S-ARGUMENTS…`: AGENT is the packed agent, FOLDER where it may write.
What it saves as its state is a word among the bytes that QEMU has around it, and it loads nothing else. Its
memory is mapped as QEMU maps it, and never used.
"""

from __future__ import annotations

import array
import json
import mmap
import os
import re
import select
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

HEAD = b"QEVM\0\0\0\3"
DEVICES = b"\4\0\0\0\0\x05timer" + bytes(8) + b"the state of a stand-in"
STATE = HEAD + b"its memory" + DEVICES
VERSION = {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "stand-in"}


def end_of(name: str, words: list[str]) -> socket.socket:
    """The socket that the command line gives to a chardev."""
    found = re.search(rf"socket,id={name},fd=(\d+)", " ".join(words))
    assert found, f"no chardev {name}"
    return socket.socket(fileno=int(found[1]))


class StandIn:
    """One machine."""

    def __init__(self, agent: str, folder: str, words: list[str]) -> None:
        self.monitor, self.port = end_of("qmp", words), end_of("agent", words)
        self.status = "inmigrate" if "-incoming" in words else "running"
        self.inside: socket.socket | None = None
        self.descriptor = self.given = -1
        self.memory = self.mapped(" ".join(words))
        self._agent, self._folder = agent, folder

    def mapped(self, words: str) -> mmap.mmap:
        """The memory it was given, shared or not."""
        found = re.search(r"id=mem,size=(\d+)M,mem-path=/proc/self/fd/(\d+),share=(on|off)", words)
        assert found, "no memory"
        flags = mmap.MAP_SHARED if found[3] == "on" else mmap.MAP_PRIVATE
        return mmap.mmap(int(found[2]), int(found[1]) << 20, flags=flags)

    def run(self) -> None:
        """Serve until the monitor is closed; the agent ends with this process, for it loses its port."""
        self.say({"QMP": {"version": VERSION, "capabilities": ["oob"]}})
        if self.status == "running":
            self.wake()
        buffer = b""
        while True:
            heard = [self.monitor, *([self.port, self.inside] if self.inside else [])]
            for end in select.select(heard, [], [])[0]:
                if end is self.monitor:
                    data, rights, _, _ = end.recvmsg(65536, socket.CMSG_SPACE(4))
                    if not data:
                        return
                    for _, _, content in rights:
                        self.descriptor = array.array("i", content)[0]
                    *lines, buffer = (buffer + data).split(b"\n")
                    for line in lines:
                        self.obey(json.loads(line))
                elif self.inside is not None:
                    data = end.recv(65536)
                    if not data:
                        self.inside.close()  # whose end is the agent's
                        self.inside = None
                        break
                    (self.inside if end is self.port else self.port).sendall(data)

    def wake(self) -> None:
        """Start what is inside the machine."""
        self.inside, theirs = socket.socketpair()
        words = [sys.executable, "-I", "-S", "-B", self._agent, "--root", self._folder]
        with theirs:
            subprocess.Popen([*words, "--fd", str(theirs.fileno())], pass_fds=[theirs.fileno()])

    def obey(self, command: dict[str, Any]) -> None:
        """Carry out one command as far as the driver looks at what comes of it."""
        name = command["execute"]
        result: dict[str, Any] = {}
        if name == "query-status":
            result = {"status": self.status}
        elif name == "stop":
            self.status = "paused"
        elif name == "cont":
            self.status = "running"
            if self.inside is None:
                self.wake()
        elif name == "add-fd":
            self.given = self.descriptor
            result = {"fdset-id": 1, "fd": self.given}
        elif name == "xen-save-devices-state":
            assert command["arguments"]["filename"] == "/dev/fdset/1"
            os.write(self.given, HEAD + DEVICES)
        elif name == "remove-fd":
            os.close(self.given)
        self.say({"return": result, "id": command["id"]})
        if name == "migrate":
            os.write(self.descriptor, STATE)
            self.status = "postmigrate"
        elif name == "migrate-incoming":
            taken = b""
            while data := os.read(self.descriptor, 65536):
                taken += data
            assert taken == STATE, taken
        if name in ("migrate", "migrate-incoming"):
            os.close(self.descriptor)
            for status in ("setup", "completed"):
                self.say({"event": "MIGRATION", "data": {"status": status}, "timestamp": {}})

    def say(self, message: dict[str, Any]) -> None:
        """Send one message."""
        self.monitor.sendall(json.dumps(message).encode() + b"\r\n")


if __name__ == "__main__":
    if sys.argv[-2:] == ["-qmp", "stdio"]:
        recorded = Path(__file__).with_name("conversations") / "abilities-7.2.22.jsonl"
        for line in recorded.read_text().splitlines():
            print(json.dumps(json.loads(line).get("from")))
    else:
        StandIn(sys.argv[1], sys.argv[2], sys.argv[3:]).run()
