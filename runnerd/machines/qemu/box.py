"""The body of a QEMU machine: its process and its disks, beside the channel to its agent."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import trio

from runnerd.machines import disks, sealed, snapshots
from runnerd.machines.disks import MIB
from runnerd.machines.driver import Capabilities, NotKept, Paths, Size
from runnerd.machines.qemu.qmp import QmpError, migrate
from runnerd.machines.qemu.vm import Vm
from runnerd.machines.remote import Layout
from runnerd.machines.snapshots import Snapshot

_MIGRATION = 10.0
"""Seconds in which a machine's memory is written or read, and a second more for each `_PACE` MiB of it."""
_PACE = 64

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
        size: Size,
        gone: Callable[[str], Awaitable[None]],
    ) -> None:
        """Take over the descriptors of the job disk and of the scratch disk `upper`.

        `template` is the key of what it was cloned from; `gone(id)` is awaited once all is given back.
        """
        self.id = id
        self.image = image
        self.paths = Paths()
        self.capabilities = capabilities
        self.vm = vm
        self._job = job
        self._upper = upper
        self._template = template
        self._size = size
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
        """See `Machine.snapshot`. What fails before the machine goes on again ends it."""
        room = sealed.Room(limit)
        folder = into.with_name(f".{into.name}.{self.id}")
        try:
            await trio.to_thread.run_sync(partial(folder.mkdir, mode=0o700, parents=True))
            await self.vm.qmp.command("stop")
            try:
                memory = await self._keep_memory(folder, key, room)
                disk = await trio.to_thread.run_sync(snapshots.write_disk, self._upper, folder, key, room)
            finally:
                await self._go_on()
            kept = Snapshot(
                driver="qemu",
                template=self._template,
                image=self.image,
                size=self._size,
                encrypted=key is not None,
                memory=memory,
                disk=disk,
                bytes=limit - room.left,
            )
            await trio.to_thread.run_sync(snapshots.finish, folder, kept, into)
        except (QmpError, OSError, sealed.TooLarge) as error:
            raise NotKept(f"no snapshot was kept: {error}") from error
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(partial(shutil.rmtree, folder, ignore_errors=True))

    async def _keep_memory(self, folder: Path, key: bytes | None, room: sealed.Room) -> str:
        """Let QEMU write memory and devices into a pipe, and keep what comes out of it."""
        reading, writing = os.pipe()
        fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, MIB)
        digests: list[str] = []
        failed: list[Exception] = []

        done = trio.Event()

        async def read() -> None:
            try:
                digests.append(
                    await trio.to_thread.run_sync(snapshots.write_memory, reading, folder, key, room)
                )
            except (OSError, sealed.TooLarge) as error:
                failed.append(error)
            done.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            try:
                deadline = _MIGRATION + self._size.memory / _PACE
                await migrate(self.vm.qmp, writing, incoming=False, memory=True, deadline=deadline)
            except QmpError as error:
                failed.append(error)
            finally:
                os.close(writing)
                # The reader ends when QEMU lets go of its end too: at the latest with QEMU itself.
                with trio.CancelScope(shield=True):
                    with trio.move_on_after(_MIGRATION):
                        await done.wait()
                    if not done.is_set():
                        await self.vm.stop()
        if failed:
            raise failed[0]
        return digests[0]

    async def _go_on(self) -> None:
        """Let the machine run again; one that cannot is ended, for a job in it would hang."""
        with trio.CancelScope(shield=True):
            try:
                await self.vm.qmp.command("cont")
            except QmpError:
                await self.vm.stop()
                raise

    async def load_memory(self, folder: Path, key: bytes | None, digest: str) -> None:
        """Let a waiting QEMU take its memory from a snapshot. Raises QmpError, Unsealed and OSError."""
        reading, writing = os.pipe()
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, MIB)
        failed: list[Exception] = []

        async def write() -> None:
            try:
                await trio.to_thread.run_sync(snapshots.read_memory, writing, folder, key, digest)
            except (OSError, sealed.Unsealed) as error:
                failed.append(error)
                await self.vm.stop()  # a pipe that ends before its first byte is waited for by QEMU

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            try:
                deadline = _MIGRATION + self._size.memory / _PACE
                await migrate(self.vm.qmp, reading, incoming=True, memory=True, deadline=deadline)
            except QmpError as error:
                failed.append(error)
            finally:
                os.close(reading)
                if (
                    failed or nursery.cancel_scope.cancel_called
                ):  # while QEMU lives, the writer may wait for it
                    await self.vm.stop()
        if failed:
            raise failed[0]

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
