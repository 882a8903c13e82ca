"""A daemon in small that kills itself: `mortal.py STATE QEMU GROUP POINT`.

It takes one machine through its life, from the template to its end, and is gone at POINT: the state of a note
for the journal, a QMP command, an agent's operation, or a file of what is kept that was just written. What it
notes stands in STATE/journal.
"""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import trio

from runnerd.machines import cgroups, images, sealed
from runnerd.machines.driver import Command, Size
from runnerd.machines.exchange import Exchange
from runnerd.machines.images import Image, Part
from runnerd.machines.journal import MachineNote
from runnerd.machines.kept import KeptMachines
from runnerd.machines.launcher import open_launcher
from runnerd.machines.qemu import freezing
from runnerd.machines.qemu.box import QemuBox
from runnerd.machines.qemu.driver import open_qemu_driver
from runnerd.machines.qemu.qmp import Qmp
from runnerd.machines.quota import Limits

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

    leave = sealed.Writer.__exit__

    def written(self: Any, *error: Any) -> None:
        leave(self, *error)
        reached(self._path.name)

    sealed.Writer.__exit__ = written  # type: ignore[method-assign]

    def rename(old: Path, new: Path) -> None:
        reached(f"named {new.name}")
        os.rename(old, new)

    Path.rename = rename  # type: ignore[assignment]

    async def journal(note: MachineNote) -> None:
        reached(note.state)
        with (state / "journal").open("a") as file:
            file.write(f"{note.state} {note.pid or ''}\n")

    async with (
        open_launcher(root=False, groups=cgroups.usable(group)) as launcher,
        open_qemu_driver(
            state=state,
            program=program,
            accelerator="tcg",
            launcher=launcher,
            journal=journal,
            ready_timeout=60.0,
        ) as driver,
    ):
        template = await driver.build_template("default", Size(vcpus=1, memory=64, disk=16))
        machine = await driver.clone(template)
        await machine.thaw()
        await machine.lease()
        await machine.exec(Command(argv=("/bin/true",)), _ignored)
        kept = KeptMachines(state / "kept", Limits(), clock=lambda: 1.0)
        new = kept.place(1, 2)
        await machine.snapshot(new, key=None, limit=1 << 30)
        about = {"run": 1, "job": 1, "step": 2, "name": "Test", "encrypted": False}
        await trio.to_thread.run_sync(partial(kept.put, new, b"stood", **about))
        await machine.destroy()
        await driver.restore(kept.all()[0].folder, key=None)


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
