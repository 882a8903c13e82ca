"""Writes down what the driver and the QEMU of this host say to each other.

    python tests/machines/qemu/record.py FOLDER

makes `abilities-VERSION.jsonl`, `save-VERSION.jsonl` and `load-VERSION.jsonl` in FOLDER: one message a line,
under `to` what QEMU was told and under `from` what it said. The long answers of the first are cut down to
what the driver looks at, by `trimmed`; nothing else is changed.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from pathlib import Path
from typing import Any

import trio

from runnerd.machines.qemu import abilities, migration, vmm
from runnerd.machines.qemu.qmp import Qmp

QEMU = "qemu-system-x86_64"
MEMORY = 16 << 20


class Recorded(Qmp):
    """A monitor that writes down both sides."""

    def __init__(self, ours: socket.socket, *, channels: bool) -> None:
        super().__init__(ours, channels=channels)
        self.said: list[dict[str, Any]] = []

    async def _send(self, data: bytes, descriptor: int | None) -> None:
        self.said.append({"to": json.loads(data)})
        await super()._send(data, descriptor)

    def _take(self, line: bytes) -> None:
        self.said.append({"from": json.loads(line)})
        super()._take(line)


def trimmed(answers: dict[str, Any]) -> dict[str, Any]:
    """The answers with those machines, devices, and parts of the schema that the driver asks for."""
    schema = {entry["name"]: entry for entry in answers["query-qmp-schema"]}
    kept: dict[str, Any] = {
        name: schema[name] for name in (*abilities.COMMANDS, *abilities.SNAPSHOT_COMMANDS) if name in schema
    }
    wanted = [schema["migrate"], schema["migrate-incoming"], schema["migrate-set-capabilities"]]
    while wanted:
        for name in re.findall(r'"(?:arg-type|type|element-type)": "([^"]+)"', json.dumps(wanted.pop())):
            if name in schema and name not in kept:
                kept[name] = schema[name]
                wanted.append(schema[name])
    devices = {name for names in vmm.DEVICES.values() for name in names}
    return {
        **answers,
        "query-machines": [
            each for each in answers["query-machines"] if {each["name"], each.get("alias")} & {*vmm.BOARDS}
        ],
        "qom-list-types": [each for each in answers["qom-list-types"] if each["name"] in devices],
        "query-qmp-schema": list(kept.values()),
    }


async def moved(channels: bool, memory: int, state: bytes | None) -> tuple[list[dict[str, Any]], bytes]:
    """A machine without anything to run saves its state, or loads one; what was said, and the state."""
    ours, theirs = socket.socketpair()
    words = [
        *(QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg", "-S"),
        *("-object", f"memory-backend-file,id=mem,size={MEMORY},mem-path=/proc/self/fd/{memory},share=on"),
        *("-M", "microvm,memory-backend=mem", "-m", f"{MEMORY >> 20}M"),
        *("-chardev", f"socket,id=qmp,fd={theirs.fileno()}", "-mon", "chardev=qmp,mode=control"),
        *(["-incoming", "defer"] if state is not None else []),
    ]
    process = await trio.lowlevel.open_process(words, pass_fds=[memory, theirs.fileno()])
    theirs.close()
    monitor = Recorded(ours, channels=channels)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(monitor.run)
        await monitor.negotiate(deadline=10)
        if state is None:
            await monitor.command("stop")
            state = await migration.save(monitor)
        else:
            await migration.load(monitor, state)
            await monitor.command("cont")
        process.kill()
    await process.wait()
    return monitor.said, state


def write(path: Path, lines: list[dict[str, Any]]) -> None:
    """One message a line."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(path, len(lines))


async def main(folder: Path) -> None:
    """Record everything."""
    answers = await abilities._ask(QEMU)
    able = abilities.read(answers)
    version = able.version.split()[0]
    lines = []
    for name, value in trimmed(answers).items():
        lines += [{"to": {"execute": name}}, {"from": {"return": value, "id": name}}]
    write(folder / f"abilities-{version}.jsonl", lines)
    memory = os.memfd_create("memory")
    os.ftruncate(memory, MEMORY)
    said, state = await moved(able.channels, memory, None)
    write(folder / f"save-{version}.jsonl", said)
    said, _ = await moved(able.channels, memory, state)
    write(folder / f"load-{version}.jsonl", said)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
