"""The body of a Firecracker machine: its process, its jail and its job disk."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from runnerd.machines import disks, snapshots
from runnerd.machines.channel import Channel
from runnerd.machines.disks import MIB
from runnerd.machines.driver import Capabilities, MachineLost, NotKept, Paths, Size
from runnerd.machines.firecracker import keeping, requests, vsock
from runnerd.machines.firecracker.api import ApiError
from runnerd.machines.firecracker.line import Line
from runnerd.machines.firecracker.monitor import Monitor
from runnerd.machines.remote import Layout
from runnerd.machines.snapshots import Draft

CAPABILITIES = Capabilities(isolated=True, snapshot=True, egress=True)
AWAKE = 5.0
"""Seconds in which a machine that was stopped in the middle of its work answers again."""
RESET = 1.0
"""Seconds in which a machine that goes on has handled the reset of its vsock."""


def _device(name: str) -> str:
    return f"/dev/vd{chr(ord('a') + requests.DISKS.index(name))}"


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
        template: str,
        size: Size,
        gone: Callable[[str], Awaitable[None]],
        layout: Layout | None = LAYOUT,
        paths: Paths | None = None,
    ) -> None:
        """`template` is the key of what it is made from; `gone(id)` is awaited once all is given back."""
        self.id = id
        self.image = image
        self.monitor = monitor
        self.paths = paths or Paths()
        self.layout = layout
        self._template = template
        self._size = size
        self._line = Line()
        self._channel: Channel | None = None
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

    async def meet(self, run: Callable[[Channel], None], deadline: float) -> Channel:
        """Greet the agent over a channel, which `run` lets run. Raises MachineLost."""
        channel = Channel(self._line)
        self._channel = channel
        run(channel)
        await self._greet(channel, deadline, f"its agent did not answer within {deadline:g} s")
        return channel

    async def snapshot(self, into: Path, *, key: bytes | None, limit: int) -> None:
        """See `Machine.snapshot`. A machine that does not go on as it was is ended."""
        jail = self.monitor.jail
        async with snapshots.begun(into, self.id, key=key, limit=limit, trouble=ApiError) as draft:
            if key is not None and (why := await trio.to_thread.run_sync(keeping.why_plain, jail.base)):
                raise NotKept(why)
            try:
                await trio.to_thread.run_sync(keeping.check_space, jail, self._size)
                disk = await self._frozen(draft)
                memory, state = await trio.to_thread.run_sync(
                    keeping.take_memory, jail, self._size, draft.folder, key, draft.room
                )
            finally:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(keeping.forget, jail)
            await draft.finish(
                driver="firecracker",
                template=self._template,
                image=self.image,
                size=self._size,
                memory=memory,
                disk=disk,
                state=state,
            )

    async def _frozen(self, draft: Draft) -> str:
        """Have memory and state written and the disk kept, all of one moment; the hash of the disk."""
        assert self._channel is not None, "a machine that was never met is kept by nobody"
        # All that was said has arrived: bytes under way may keep the vsock from going on (firecracker#6074).
        await self._channel.ping(AWAKE)
        asked = requests.freeze(requests.RAM, requests.DEVICES)
        self._line.loosen()
        try:
            await self.monitor.api.ask_all(asked, deadline=keeping.deadline(self._size))
            return await trio.to_thread.run_sync(
                keeping.take_disk, self.monitor.jail, draft.folder, draft.key, draft.room
            )
        finally:
            with trio.CancelScope(shield=True):
                await self._go_on(self._channel)

    async def _go_on(self, channel: Channel) -> None:
        """Let the machine run, and greet its agent anew: its connection has ended. Raises MachineLost."""
        try:
            # The answer comes when Firecracker has done what it was asked before.
            found = await self.monitor.api.ask(requests.instance(), deadline=keeping.deadline(self._size))
            if found.get("state") == "Paused":
                await self.monitor.api.ask_all(requests.go_on(), deadline=AWAKE)
        except ApiError as error:
            channel.close(f"it could not go on after it was stopped: {error}")
            await self.monitor.stop()
            raise MachineLost(channel.reason) from error
        await self._line.worn_out(RESET)
        await self._greet(channel, AWAKE, f"its agent did not answer within {AWAKE:g} s after it was stopped")

    async def _greet(self, channel: Channel, deadline: float, otherwise: str) -> None:
        """Connect to the agent and greet it, again when the guest's reset of its vsock cuts that off."""
        path = self.monitor.jail.inside(requests.VSOCK)
        with trio.move_on_after(deadline):
            while True:
                with trio.CancelScope() as cut:
                    stream = await vsock.connect(path, requests.VSOCK_PORT, deadline=2 * deadline)
                    await self._line.join(stream, cut.cancel)
                    await channel.connect_again(2 * deadline)
                    await channel.ping(2 * deadline)
                    self._line.settle()
                    return
        channel.close(otherwise)
        raise MachineLost(otherwise)

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
