"""The body of a Firecracker machine: its process, its jail and its job disk."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from runnerd.machines import disks
from runnerd.machines.disks import MIB
from runnerd.machines.driver import Capabilities, NotKept, Paths
from runnerd.machines.firecracker.monitor import Monitor
from runnerd.machines.firecracker.requests import DISKS
from runnerd.machines.remote import Layout

CAPABILITIES = Capabilities(isolated=True, egress=True)


def _device(name: str) -> str:
    return f"/dev/vd{chr(ord('a') + DISKS.index(name))}"


LAYOUT = Layout(lower="/lower", upper=_device("upper"), into="/job")


class FirecrackerBox:
    """See `remote.Box`."""

    capabilities = CAPABILITIES

    def __init__(
        self,
        *,
        id: str,
        image: str,
        monitor: Monitor,
        gone: Callable[[str], Awaitable[None]],
        layout: Layout | None = LAYOUT,
        paths: Paths | None = None,
    ) -> None:
        """`gone(id)` is awaited once all is given back."""
        self.id = id
        self.image = image
        self.monitor = monitor
        self.paths = paths or Paths()
        self.layout = layout
        self._job = os.open(monitor.jail.inside("job"), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._gone = gone
        self._destroying = trio.Lock()

    async def fill(self, archive: Path) -> str | None:
        """See `remote.Box.fill`. Firecracker reads the same file."""
        job = os.dup(self._job)
        try:
            filled = await trio.to_thread.run_sync(disks.fill, job, archive, disks.JOB_SLOT * MIB)
        finally:
            os.close(job)
        return _device("job") if filled else None

    async def snapshot(self, into: Path, *, key: bytes | None, limit: int) -> None:
        """Refused: up to 1.16.1 a machine that was paused may never hear its host again (#6100)."""
        raise NotKept("the firecracker driver keeps no machine that has begun its work")

    def postmortem(self) -> str:
        """See `remote.Box.postmortem`."""
        return self.monitor.reason()

    def console_end(self) -> tuple[str, ...]:
        """See `remote.Box.console_end`."""
        return self.monitor.console_end()

    async def destroy(self) -> None:
        """See `remote.Box.destroy`."""
        with trio.CancelScope(shield=True):
            async with self._destroying:
                if self._job < 0:
                    return
                await self.monitor.stop()
                os.close(self._job)
                self._job = -1
                await self._gone(self.id)
