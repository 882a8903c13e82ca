"""A process that takes QEMU's place: it says what one version was recorded to say, and has a real agent.

Run as `stand_in.py VERSION AGENT FOLDER QEMU'S-ARGUMENTS…`: VERSION is a folder of `conversations`, made by
`record.py`; AGENT is the packed agent; in FOLDER it may write. Told anything else than that version was told,
in order and to the letter, it ends. Each scene that was played to its end is a line of FOLDER/played.

What it saves as its state are a few bytes of the form that QEMU's have, and it loads nothing else. Its memory
is mapped as QEMU maps it, and never used.
"""

from __future__ import annotations

import array
import itertools
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

CONVERSATIONS = Path(__file__).with_name("conversations")
HEAD = b"QEVM\0\0\0\3"
TIMER = b"\4\0\0\0\0\x05timer" + bytes(8)
FROZEN = HEAD + b"its memory" + TIMER + b"as it was frozen"
KEPT = TIMER + b"as it was kept"
END = b"\6\0\0\0\0"

Lines = list[dict[str, Any]]


def recorded(version: str, scene: str) -> Lines:
    """What was said in a scene: one message a line, `to` QEMU or `from` it."""
    path = CONVERSATIONS / version / f"{scene}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def end_of(name: str, words: list[str]) -> socket.socket:
    """The socket that the command line gives to a chardev."""
    found = re.search(rf"socket,id={name},fd=(\d+)", " ".join(words))
    assert found, f"no chardev {name}"
    return socket.socket(fileno=int(found[1]))


class StandIn:
    """One machine."""

    def __init__(self, version: str, agent: str, folder: str, words: list[str]) -> None:
        self.monitor, self.port = end_of("qmp", words), end_of("agent", words)
        self.inside: socket.socket | None = None
        self.descriptor = self.given = -1
        self.memory = self.mapped(" ".join(words))
        self._version, self._agent, self._folder = version, agent, folder
        self._scene, self._at = "", 0
        self._lines: Lines = []
        self.begin("clone" if "-incoming" in words else "freeze")

    def mapped(self, words: str) -> mmap.mmap:
        """The memory it was given, shared or not."""
        found = re.search(r"id=mem,size=(\d+)M,mem-path=/proc/self/fd/(\d+),share=(on|off)", words)
        assert found, "no memory"
        flags = mmap.MAP_SHARED if found[3] == "on" else mmap.MAP_PRIVATE
        return mmap.mmap(int(found[2]), int(found[1]) << 20, flags=flags)

    def run(self) -> None:
        """Serve until the monitor is closed; the agent ends with this process, for it loses its port."""
        if self._scene == "freeze":
            self.wake()
        self.speak(0)
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

    def begin(self, scene: str) -> None:
        """Go on with another scene, from its first line."""
        self._scene, self._at = scene, 0
        self._lines = recorded(self._version, scene)

    def wake(self) -> None:
        """Start what is inside the machine."""
        self.inside, theirs = socket.socketpair()
        words = [sys.executable, "-I", "-S", "-B", self._agent, "--root", self._folder]
        with theirs:
            subprocess.Popen([*words, "--fd", str(theirs.fileno())], pass_fds=[theirs.fileno()])

    def obey(self, command: dict[str, Any]) -> None:
        """Carry out one command, which must be the next of its scene, and say what QEMU said to it."""
        if self._at == len(self._lines):
            assert self._scene != "freeze", f"it was frozen and is told {command}"
            self.begin("snapshot")
        number = command["id"]
        wanted = self._lines[self._at]["to"]
        assert command == {**wanted, "id": number}, f"{command} instead of {wanted}"
        self._at += 1
        self.act(command["execute"])
        self.speak(number)

    def act(self, name: str) -> None:
        """What a command does beside its answer."""
        if name == "migrate":
            os.write(self.descriptor, FROZEN)
        elif name == "migrate-incoming":
            state = b""
            while data := os.read(self.descriptor, 65536):
                state += data
            if state != FROZEN:
                assert state == FROZEN[: FROZEN.index(TIMER)] + KEPT + END, state
                self.be_another("restore")
        elif name == "cont" and self.inside is None:
            self.wake()
        elif name == "add-fd":
            self.given = self.descriptor
        elif name == "xen-save-devices-state":
            os.write(self.given, HEAD + KEPT)
        elif name == "remove-fd":
            os.close(self.given)
        if name.startswith("migrate") and name != "migrate-set-capabilities":
            os.close(self.descriptor)

    def be_another(self, scene: str) -> None:
        """Only now it shows which scene this is: until here they are the same."""
        lines = recorded(self._version, scene)
        told = [[line["to"] for line in each[: self._at] if "to" in line] for each in (self._lines, lines)]
        assert told[0] == told[1]
        self._scene, self._lines = scene, lines

    def speak(self, number: int) -> None:
        """Say all that QEMU said until it was told something again; answers are to that command."""
        said = [*itertools.takewhile(lambda line: "from" in line, self._lines[self._at :])]
        self._at += len(said)
        if self._at == len(self._lines):
            # Before the last word: who has heard it may end this process.
            with Path(self._folder, "played").open("a") as file:
                file.write(f"{self._scene}\n")
        for line in said:
            message = line["from"]
            answer = {**message, "id": number} if "id" in message else message
            self.monitor.sendall(json.dumps(answer).encode() + b"\r\n")


def answer(lines: Lines) -> None:
    """Be a QEMU without a machine, that is only asked."""
    for line in lines:
        if "to" in line:
            assert json.loads(sys.stdin.readline()) == line["to"]
        else:
            print(json.dumps(line["from"]), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    version, agent, folder, *words = sys.argv[1:]
    if words[-2:] == ["-qmp", "stdio"]:
        answer(recorded(version, "abilities"))
    else:
        StandIn(version, agent, folder, words).run()
