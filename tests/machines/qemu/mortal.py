"""A daemon in small that kills itself: `mortal.py STATE QEMU GROUP POINT`.

It takes one machine through its life, from the template to its end, and is gone at POINT: the state of a note
for the journal, a QMP command, or an agent's operation. What it notes stands in STATE/journal.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import trio

from runnerd.machines import cgroups, images
from runnerd.machines.driver import Command, Size
from runnerd.machines.exchange import Exchange
from runnerd.machines.images import Image, Part
from runnerd.machines.journal import MachineNote
from runnerd.machines.launcher import open_launcher
from runnerd.machines.qemu import freezing
from runnerd.machines.qemu.box import QemuBox
from runnerd.machines.qemu.driver import open_qemu_driver
from runnerd.machines.qemu.qmp import Qmp

FILES = ("kernel", "initrd", "agent", "rootfs")


async def life(state: Path, program: str, group: str, point: str) -> None:
    """One machine's life; `point` with a number behind a colon is the so-manieth of its kind."""
    wanted, _, left = point.partition(":")
    to_go = [int(left or 1)]

    def reached(name: str) -> None:
        if name == wanted:
            to_go[0] -= 1
            if not to_go[0]:
                os.kill(os.getpid(), signal.SIGKILL)

    def watch(kind: Any, method: str) -> None:
        original = getattr(kind, method)

        async def ask(self: Any, name: str, *arguments: Any, **named: Any) -> Any:
            reached(name)
            return await original(self, name, *arguments, **named)

        setattr(kind, method, ask)

    watch(Qmp, "command")
    watch(Exchange, "request")

    async def journal(note: MachineNote) -> None:
        reached(note.state)
        with (state / "journal").open("a") as file:
            file.write(f"{note.state} {note.pid or ''}\n")

    async with (
        open_launcher(root=False, groups=cgroups.usable(group)) as launcher,
        open_qemu_driver(
            state=state, program=program, accelerator="tcg", launcher=launcher, journal=journal
        ) as driver,
    ):
        template = await driver.build_template("default", Size(vcpus=1, memory=64, disk=16))
        machine = await driver.clone(template)
        await machine.thaw()
        await machine.lease()
        await machine.exec(Command(argv=("/bin/true",)), _ignored)
        await machine.snapshot(state / "kept/1", key=None, limit=1 << 30)
        await machine.destroy()
        await driver.restore(state / "kept/1", key=None)


async def _ignored(stream: str, data: bytes) -> None:
    """Nobody reads it."""


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for name in FILES:
        (folder / name).write_bytes(b"file")
    parts = {name: Part(size=4, sha256=name * 10, inputs="") for name in FILES}
    image = Image(name="default", digest="d" * 64, path=folder, parts=parts)
    images.current = lambda images, name="default": image
    QemuBox.layout = None
    freezing._WARM = (("/bin/sh", "-c", "exit"),)
    trio.run(life, folder, *sys.argv[2:])
