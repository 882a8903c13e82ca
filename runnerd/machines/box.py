"""The body of a QEMU machine: its process and its disks, beside the channel to its agent."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from runnerd.machines import disks
from runnerd.machines.disks import MIB
from runnerd.machines.driver import Capabilities, Paths
from runnerd.machines.remote import Layout
from runnerd.machines.vm import Vm

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
        gone: Callable[[str], Awaitable[None]],
    ) -> None:
        """Take over the descriptor `job` of the job disk; `gone(id)` is awaited once all is given back."""
        self.id = id
        self.image = image
        self.paths = Paths()
        self.capabilities = capabilities
        self.vm = vm
        self._job = job
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

    def postmortem(self) -> str:
        """See `remote.Box.postmortem`."""
        return self.vm.reason()

    async def destroy(self) -> None:
        """See `remote.Box.destroy`."""
        with trio.CancelScope(shield=True):
            async with self._destroying:
                if self._job < 0:
                    return
                await self.vm.stop()
                os.close(self._job)
                self._job = -1
                await self._gone(self.id)
