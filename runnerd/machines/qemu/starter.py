"""Starts QEMU for one driver and keeps account of it: in the journal, under a name the reaper knows."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
import trio

from runnerd import log
from runnerd.machines.driver import Capabilities, MachineLost
from runnerd.machines.journal import FOR_TEMPLATE, Journal, MachineNote
from runnerd.machines.launcher import Launcher, recipe_order
from runnerd.machines.molds import Mold
from runnerd.machines.qemu import vm, vmm
from runnerd.machines.qemu.box import QemuBox
from runnerd.machines.qemu.qmp import QmpError

_log = log.get(__name__)

DRIVER = "qemu"
"""What the driver is called in configuration, journal and snapshots."""

_PATIENCE = 5.0
"""Seconds for the journal when a machine is gone: its end waits for nobody longer."""


class Starter:
    """The running machines of one driver."""

    def __init__(
        self,
        nursery: trio.Nursery,
        *,
        qemu: str,
        channels: bool,
        launcher: Launcher,
        mark: str,
        journal: Journal,
        random: Callable[[int], bytes],
    ) -> None:
        """Serve machines in `nursery`; `qemu` is the program's path, `mark` what names begin with.

        `channels` is an ability of that program, see `Abilities`.
        """
        self._nursery = nursery
        self._qemu = qemu
        self._channels = channels
        self._launcher = launcher
        self._mark = mark
        self._journal = journal
        self._random = random
        self.boxes: dict[str, QemuBox] = {}
        """Of all machines that run, by their id."""
        self.names: set[str] = set()
        """Of all machines from before their start to after their end, as `-name` says them."""

    async def start(
        self, mold: Mold, purpose: vmm.Purpose, files: Mapping[str, int], capabilities: Capabilities
    ) -> QemuBox:
        """Start QEMU and write down that it runs; it serves until its box is destroyed.

        Raises LaunchFailed and what the journal raises; then nothing runs. The files stay the caller's.
        """
        id = f"{mold.image.name}-{self._random(5).hex()}"
        name = self._mark + id
        why = FOR_TEMPLATE if purpose is vmm.Purpose.TEMPLATE else ""
        note = MachineNote(id=id, driver=DRIVER, image=mold.image.name, state="starting", why=why)
        self.names.add(name)
        job, upper = os.dup(files["job"]), os.dup(files["upper"])
        try:
            await self._journal(note)
            machine = await vm.start(
                self._launcher,
                order=recipe_order(mold.spec.recipe(purpose), self._qemu, name),
                files=files,
                channels=self._channels,
            )
        except BaseException:
            os.close(job)
            os.close(upper)
            with trio.CancelScope(shield=True):
                await self._gone(id)
            raise
        box = self.boxes[id] = QemuBox(
            id=id,
            image=mold.image.name,
            capabilities=capabilities,
            vm=machine,
            job=job,
            upper=upper,
            template=mold.key,
            cast="" if mold.frozen is None else mold.frozen.cast,
            size=mold.spec.size,
            memory=os.fstat(files["memory"]).st_ino,
            gone=self._gone,
        )
        self._nursery.start_soon(machine.run)
        process = machine.process
        started = process.born / os.sysconf("SC_CLK_TCK")
        running = msgspec.structs.replace(
            note, state="running", pid=process.pid, uid=process.uid, started=started
        )
        try:
            await self._journal(running)
        except BaseException:
            await box.destroy()
            raise
        return box

    async def close(self) -> None:
        """End every machine; safe to call twice."""
        async with trio.open_nursery() as nursery:
            for box in tuple(self.boxes.values()):
                nursery.start_soon(box.destroy)

    async def _gone(self, id: str) -> None:
        """A machine's process and files are gone."""
        box = self.boxes.pop(id, None)
        self.names.discard(self._mark + id)
        image = box.image if box else id.rpartition("-")[0]
        try:
            with trio.move_on_after(_PATIENCE):
                await self._journal(MachineNote(id=id, driver=DRIVER, image=image, state="gone"))
        except Exception:
            # What stays in the journal is looked for, and not found, at the next start.
            _log.exception("the end of a machine could not be written down", machine=id)


async def explained(box: QemuBox, asking: Awaitable[Any]) -> None:
    """Wait for an agent's or QEMU's answer; a loss is told with what is known of the machine.

    Raises MachineLost.
    """
    try:
        await asking
    except (MachineLost, QmpError) as error:
        known = box.postmortem()
        raise MachineLost(f"{error} ({known})" if known else str(error)) from error
