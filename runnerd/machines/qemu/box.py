"""The body of a QEMU machine: its process and its disks, beside the channel to its agent."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from runnerd.machines import disks, snapshots
from runnerd.machines.disks import MIB
from runnerd.machines.driver import Capabilities, Paths, Size
from runnerd.machines.pages import Pages
from runnerd.machines.qemu import devices
from runnerd.machines.qemu.qmp import QmpError
from runnerd.machines.qemu.vm import Vm
from runnerd.machines.remote import Layout

LAYOUT = Layout(lower="/lower", upper="serial:upper", into="/job")
"""The image that `init.sh` mounted, under the machine's own scratch disk."""


class QemuBox:
    """See `remote.Box`."""

    layout: Layout | None = LAYOUT

    def __init__(
        self,
        *,
        id: str,
        image: str,
        capabilities: Capabilities,
        vm: Vm,
        job: int,
        upper: int,
        template: str,
        cast: str,
        size: Size,
        memory: int,
        gone: Callable[[str], Awaitable[None]],
    ) -> None:
        """Take over the descriptors of the job disk and of the scratch disk `upper`.

        `template` and `cast` are of what it was cloned from, `memory` the inode of the file it has its memory
        from; `gone(id)` is awaited once all is given back.
        """
        self.id = id
        self.image = image
        self.paths = Paths()
        self.capabilities = capabilities
        self.vm = vm
        self._job = job
        self._upper = upper
        self._template = template
        self._cast = cast
        self._size = size
        self._memory = memory
        self._gone = gone
        self._destroying = trio.Lock()

    async def fill(self, archive: Path) -> str | None:
        """See `remote.Box.fill`. The machine runs meanwhile: it reads the same file."""
        job = os.dup(self._job)
        try:
            size = disks.JOB_SLOT * MIB
            filled = await trio.to_thread.run_sync(disks.fill, job, archive, size)
        finally:
            os.close(job)
        return "serial:job" if filled else None

    async def snapshot(self, into: Path, *, key: bytes | None, limit: int) -> None:
        """See `Machine.snapshot`. A machine that cannot go on again is ended."""
        async with snapshots.begun(into, self.id, key=key, limit=limit, trouble=QmpError) as draft:
            folder, room = draft.folder, draft.room
            try:
                await self.vm.qmp.command("stop")
                devices_file = await devices.save(self.vm.qmp)
                try:
                    state = await trio.to_thread.run_sync(
                        snapshots.write_sparse, devices_file, folder / "state", key, room
                    )
                finally:
                    os.close(devices_file)
                pages = await self._pages()
                try:
                    memory = await trio.to_thread.run_sync(snapshots.write_memory, pages, folder, key, room)
                finally:
                    pages.close()
                disk = await trio.to_thread.run_sync(snapshots.write_disk, self._upper, folder, key, room)
            finally:
                await self._go_on()
            await draft.finish(
                driver="qemu",
                template=self._template,
                cast=self._cast,
                image=self.image,
                size=self._size,
                memory=memory,
                disk=disk,
                state=state,
            )

    async def _pages(self) -> Pages:
        """What the machine's process has of its memory for itself. Raises OSError."""
        descriptors = await self.vm.process.open_memory()
        size = self._size.memory * MIB
        return Pages(descriptors, inode=self._memory, size=size)

    async def _go_on(self) -> None:
        """Let the machine run again; one that cannot is ended, for a job in it would hang."""
        with trio.CancelScope(shield=True):
            try:
                await self.vm.qmp.command("cont")
            except QmpError:
                await self.vm.stop()
                raise

    async def load_memory(self, folder: Path, key: bytes | None, digest: str) -> None:
        """Let a clone that did not run yet have the memory of a snapshot. Raises Unsealed and OSError."""
        pages = await self._pages()
        try:
            await trio.to_thread.run_sync(snapshots.read_memory, pages, folder, key, digest)
        finally:
            pages.close()

    def postmortem(self) -> str:
        """See `remote.Box.postmortem`."""
        return self.vm.reason()

    def console_end(self) -> tuple[str, ...]:
        """See `remote.Box.console_end`."""
        self.vm.console.drain()
        return self.vm.console.lines()

    async def destroy(self) -> None:
        """See `remote.Box.destroy`."""
        with trio.CancelScope(shield=True):
            async with self._destroying:
                if self._job < 0:
                    return
                await self.vm.stop()
                os.close(self._job)
                os.close(self._upper)
                self._job = -1
                await self._gone(self.id)
