"""A machine that is reached through an agent: `AgentMachine` keeps the promises of `driver.Machine`
over a channel, and asks its `Box` for the little that differs between drivers.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import msgspec
import trio

from runnerd import log
from runnerd.machines import transfer
from runnerd.machines.channel import Channel
from runnerd.machines.driver import (
    DESTROYED,
    Capabilities,
    Command,
    Connection,
    Exit,
    Identity,
    MachineLost,
    NotKept,
    Output,
    Paths,
    Terminal,
)
from runnerd.machines.execution import LADDER, Execution, Rung
from runnerd.machines.shell import Session

JOB_USER = 1001
"""uid and gid that the folders of `Paths` belong to."""

IDLE = 0.1
"""Seconds after its thaw in which a machine that a job waits for is leased; one that is not rehearses."""
REHEARSAL = 3.0
"""Seconds a rehearsal may take."""

_log = log.get(__name__)


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """How the agent builds the job's root: the image, read-only, under a layer of the machine's own.

    A device is a path in the guest, or `serial:NAME` for the virtio disk with that serial number.
    """

    lower: str = "/lower"
    """Where the image is mounted in the agent's root."""
    upper: str | None = None
    """Device with an ext4 file system that takes what the job writes; None keeps it in memory."""
    into: str = "/job"
    """Where the job's root is put together, and what jobs are chrooted into."""


class Box(Protocol):
    """What a driver supplies beside the channel: the body around an agent."""

    id: str
    image: str
    paths: Paths
    capabilities: Capabilities
    layout: Layout | None
    """None: jobs run in the root the agent itself has."""

    async def fill(self, archive: Path) -> str | None:
        """Copy a tar file of the host's onto the job disk and return the disk's device in the guest.

        None says there is no job disk (or it is too small), and the archive goes through the channel.
        Called at most a few times per machine, never at the same time.
        """
        ...

    async def snapshot(self, into: Path, *, key: bytes | None, limit: int) -> None:
        """Keep memory and disk; see `Machine.snapshot`. The agent is at rest. Raises `NotKept`."""
        ...

    def postmortem(self) -> str:
        """What the driver knows about the machine's end, as half a sentence; empty when nothing."""
        ...

    def console_end(self) -> tuple[str, ...]:
        """See `Machine.console_end`."""
        ...

    async def destroy(self) -> None:
        """End the machine and remove what it held; bounded, safe to call twice, never raises."""
        ...


class AgentMachine:
    """A `Machine` whose agent is at the other end of a channel. Whoever opened the channel runs it."""

    def __init__(
        self,
        box: Box,
        channel: Channel,
        *,
        entropy: Callable[[int], bytes] = os.urandom,
        now: Callable[[], float] = time.time,
        probes: set[str],
        hello_deadline: float = 2.0,
        ladder: tuple[Rung, ...] = LADDER,
        rehearsal: Callable[[AgentMachine], Awaitable[None]] | None = None,
    ) -> None:
        """`probes` is shared by all machines of a driver: random bytes seen once must not come again.

        `rehearsal` is done while the machine waits for a job; one that is leased at once does without.
        """
        self.id = box.id
        self.image = box.image
        self.paths = box.paths
        self.capabilities = box.capabilities
        self.identity: Identity | None = None
        self.lost = channel.lost
        self._box = box
        self._channel = channel
        self._entropy = entropy
        self._now = now
        self._probes = probes
        self._hello_deadline = hello_deadline
        self._ladder = ladder
        self.reason = ""
        channel.on_lost = self._note_reason
        self._running: set[Execution] = set()
        self._rehearsal = rehearsal
        self._leased = trio.Event()
        self._rehearsed: trio.Event | None = None

    async def thaw(self) -> Identity:
        """Greet the agent unless the driver has, make the machine its own, and mount the job's root."""
        try:
            with self._explained():
                identity = await self._thaw()
                if self._rehearsal is not None:
                    self._rehearsed = trio.Event()
                    self._channel.start(self._rehearse, self._rehearsal, self._rehearsed)
                return identity
        except BaseException:
            await self.destroy()
            raise

    async def lease(self) -> None:
        """Set the clock again; everything else was mounted by `thaw`. A rehearsal that began is awaited."""
        self._leased.set()
        if self._rehearsed is not None:
            await self._rehearsed.wait()
        with self._explained():
            await self._set_clock()

    async def exec(self, command: Command, output: Output) -> Exit:
        """Run a process; OSError or ValueError, with a sentence, when it cannot be started."""
        execution = Execution(self._channel, command, output)
        self._running.add(execution)
        try:
            with self._explained():
                return await execution.run(self._ladder)
        finally:
            self._running.discard(execution)

    async def signal(self, number: int) -> None:
        """Send a signal to the process group of every running `exec`."""
        with self._explained():
            for execution in tuple(self._running):
                await execution.signal(number)

    async def put(self, path: str, data: bytes, *, mode: int = 0o644, user: int = 1001) -> None:
        """Write one file; its name appears when it is whole. Raises OSError."""
        with self._explained():
            await transfer.put(self._channel, path, data, mode=mode, user=user)

    async def get(self, path: str, *, limit: int) -> bytes:
        """Read one regular file."""
        with self._explained():
            return await transfer.get(self._channel, path, limit=limit)

    async def get_all(self, limits: Mapping[str, int]) -> dict[str, bytes | OSError | ValueError]:
        """Read regular files in one round trip."""
        with self._explained():
            return await transfer.get_all(self._channel, limits)

    async def lay_out(
        self,
        folders: Sequence[str],
        files: Sequence[str],
        *,
        programs: Sequence[str] = (),
        search: str = "",
        user: int = 1001,
    ) -> dict[str, str]:
        """Make folders and empty files and find programs, in one round trip."""
        with self._explained():
            return await transfer.lay_out(
                self._channel, folders, files, programs=programs, search=search, user=user
            )

    async def unpack(self, archive: Path, into: str, *, user: int = 1001) -> None:
        """Unpack a tar, by the job disk where there is one; OSError says what tar could not do."""
        with self._explained():
            device = await self._box.fill(archive)
            await transfer.unpack(self._channel, archive, into, user=user, device=device)

    async def listen(self, port: int, handler: Connection) -> None:
        """Offer a port; OSError when the machine has it taken."""
        with self._explained():
            await self._channel.listen(port, handler)

    async def shell(self, command: Command, terminal: Terminal) -> Exit:
        """Run a process on a terminal."""
        with self._explained():
            return await Session(self._channel, command, terminal).run()

    async def snapshot(self, into: Path, *, key: bytes | None, limit: int) -> None:
        """Keep the machine, and set its clock by the time that it missed."""
        with self._explained():
            if not self._channel.quiet:
                raise NotKept("no snapshot was kept: something of the machine is still under way")
            try:
                await self._box.snapshot(into, key=key, limit=limit)
            except NotKept:
                # It stood still all the same. One that is gone says so when it is next asked for something.
                with suppress(MachineLost):
                    await self._set_clock()
                raise
            await self._set_clock()

    def console_end(self) -> tuple[str, ...]:
        """What the box kept."""
        return self._box.console_end()

    async def destroy(self) -> None:
        """End the channel and the box."""
        self.reason = self.reason or DESTROYED
        with trio.CancelScope(shield=True):
            await self._box.destroy()
        self._channel.close(self.reason)

    async def _thaw(self) -> Identity:
        if not self._channel.hello:
            await self._channel.connect(self._hello_deadline)
        identity = invent_identity(self._entropy)
        answer = await self._insist(
            "thaw", seed=self._entropy(64).hex(), now=self._now(), **msgspec.to_builtins(identity)
        )
        probe = answer.get("probe")
        if not isinstance(probe, str) or len(probe) != 64 or probe in self._probes:
            raise self._failed("it has the same randomness as another machine")
        self._probes.add(probe)
        if self._box.layout is not None:
            layout = msgspec.to_builtins(self._box.layout)
            folders = [self.paths.home, self.paths.work, self.paths.temp, self.paths.tools]
            await self._insist("mount_root", **layout, folders=folders, user=JOB_USER)
        self.identity = identity
        return identity

    async def _rehearse(self, rehearsal: Callable[[AgentMachine], Awaitable[None]], over: trio.Event) -> None:
        try:
            with trio.move_on_after(IDLE):
                await self._leased.wait()
            if not self._leased.is_set():
                with trio.move_on_after(REHEARSAL):
                    await rehearsal(self)
        except (MachineLost, OSError, ValueError) as error:  # the job will hear of it, if it still matters
            _log.debug("a rehearsal failed", machine=self.id, error=str(error))
        finally:
            over.set()

    async def _set_clock(self) -> None:
        await self._insist("clock", now=self._now())

    async def _insist(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """A call without which the machine is of no use."""
        try:
            return await self._channel.call(operation, **arguments)
        except (OSError, ValueError) as error:
            raise self._failed(f"its {operation} failed: {error}") from error

    def _failed(self, reason: str) -> MachineLost:
        self._channel.close(reason)
        return MachineLost(reason)

    def _note_reason(self) -> None:
        known = self._box.postmortem()
        said = f"{self._channel.reason} ({known})" if known else self._channel.reason
        self.reason = self.reason or said

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Let a MachineLost carry the whole reason."""
        try:
            yield
        except MachineLost as error:
            raise MachineLost(f"machine {self.id}: {self.reason or error}") from error


def invent_identity(entropy: Callable[[int], bytes]) -> Identity:
    """A fresh identity from random bytes; the boot id is a version 4 UUID as the kernel's is."""
    return Identity(
        hostname=f"runnerd-{entropy(4).hex()}",
        boot_id=str(uuid.UUID(bytes=entropy(16), version=4)),
        machine_id=uuid.UUID(bytes=entropy(16), version=4).hex,
    )
