"""The driver without isolation: the same agent, as a process of the host beside the daemon.

For one's own code. A machine is a folder of its own and a process tree; both are gone after `destroy`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from runnerd import log
from runnerd.machines import sweep
from runnerd.machines.channel import Channel
from runnerd.machines.driver import (
    DESTROYED,
    Capabilities,
    Machine,
    MachineLost,
    NoMachine,
    NotKept,
    Paths,
    Size,
    Template,
)
from runnerd.machines.journal import Journal, MachineNote, unwritten
from runnerd.machines.pyz import pack
from runnerd.machines.remote import AgentMachine, Layout

CAPABILITIES = Capabilities(isolated=False)
_AGENT = "agent.pyz"
_ENDING = 3.0
"""Seconds for each stage of a machine's end."""
_HELLO = 10.0
"""Seconds a starting interpreter may take on a busy host."""

_PATIENCE = 5.0
"""Seconds for the journal when a machine is gone: its end waits for nobody longer."""

_log = log.get(__name__)


@asynccontextmanager
async def open_process_driver(
    *,
    root: Path,
    python: str = sys.executable,
    entropy: Callable[[int], bytes] = os.urandom,
    now: Callable[[], float] = time.time,
    journal: Journal = unwritten,
) -> AsyncIterator[ProcessDriver]:
    """Machines that are folders in `root` and processes of this user; leaving destroys them all.

    `journal` hears of a machine before its folder is made, and again when all of it is gone.
    """
    root = await trio.to_thread.run_sync(_prepare, root)
    async with trio.open_nursery() as nursery:
        driver = ProcessDriver(root, python, nursery, entropy, now, journal)
        try:
            yield driver
        finally:
            with trio.CancelScope(shield=True):
                await driver.close()
            nursery.cancel_scope.cancel()


class ProcessDriver:
    """See `open_process_driver`."""

    name = "process"
    capabilities = CAPABILITIES
    overhead = 16
    shared = 0

    def __init__(
        self,
        root: Path,
        python: str,
        nursery: trio.Nursery,
        entropy: Callable[[int], bytes],
        now: Callable[[], float],
        journal: Journal,
    ) -> None:
        self._root = root
        self._journal = journal
        self._python = python
        self._nursery = nursery
        self._entropy = entropy
        self._now = now
        self._probes: set[str] = set()
        self._machines: dict[str, AgentMachine] = {}
        self._blocking = trio.CapacityLimiter(4)

    async def build_template(self, image: str, size: Size, generation: str = "") -> Template:
        """Nothing to build: every image is the host itself."""
        return Template(key="process", image=image, size=size)

    async def drop_template(self, template: Template) -> None:
        """Nothing is held."""

    async def clone(self, template: Template) -> Machine:
        """Start an agent in a new folder. Raises NoMachine."""
        name = f"process-{self._entropy(8).hex()}"
        await self._journal(MachineNote(id=name, driver=self.name, image=template.image, state="starting"))
        ours, theirs = socket.socketpair()
        with theirs:
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
            channel = Channel(stream)
            box = ProcessBox(self._root / name, template.image, channel, self._blocking)
            box.forget = partial(self._forget, name, template.image)
            try:
                await box.start(self._python, self._root / _AGENT, theirs)
            except OSError as error:
                await trio.aclose_forcefully(stream)
                raise NoMachine(f"cannot start a machine in {self._root}: {error}") from error
        self._nursery.start_soon(channel.run)
        machine = AgentMachine(
            box,
            channel,
            entropy=self._entropy,
            now=self._now,
            probes=self._probes,
            hello_deadline=_HELLO,
        )
        self._machines[name] = machine
        return machine

    async def _forget(self, name: str, image: str) -> None:
        self._machines.pop(name, None)
        try:
            with trio.move_on_after(_PATIENCE):
                await self._journal(MachineNote(id=name, driver=self.name, image=image, state="gone"))
        except Exception:
            # What stays in the journal is looked for, and not found, at the next start.
            _log.exception("the end of a machine could not be written down", machine=name)

    async def restore(self, snapshot: Path, *, key: bytes | None, size: Size | None = None) -> Machine:
        """Refused: it keeps no snapshots."""
        raise NoMachine("the process driver keeps no snapshots, so there is none to go back to")

    async def adopt_or_reap(self) -> int:
        """End what earlier daemons left in `root`: their processes and their folders."""
        living = set(self._machines)
        return await trio.to_thread.run_sync(_reap, self._root, living, limiter=self._blocking)

    async def close(self) -> None:
        """Destroy every machine."""
        async with trio.open_nursery() as nursery:
            for machine in tuple(self._machines.values()):
                nursery.start_soon(machine.destroy)


async def _known_to_nobody() -> None:
    """What forgets a machine that no driver keeps account of."""


class ProcessBox:
    """The folder and the processes of one machine."""

    capabilities = CAPABILITIES
    layout: Layout | None = None

    def __init__(self, folder: Path, image: str, channel: Channel, blocking: trio.CapacityLimiter) -> None:
        self.id = folder.name
        self.image = image
        work = folder / "work"
        self.paths = Paths(
            home=str(folder / "home"),
            work=str(work),
            temp=str(work / "_temp"),
            tools=str(folder / "tools"),
        )
        self.forget: Callable[[], Awaitable[None]] = _known_to_nobody
        self._folder = folder
        self._channel = channel
        self._blocking = blocking
        self._process: trio.Process | None = None
        self._ending = trio.Lock()
        self._ended = False

    async def start(self, python: str, agent: Path, port: socket.socket) -> None:
        """Make the folders and start the agent on its end of the channel. Raises OSError."""
        try:
            for path in (self.paths.home, self.paths.temp, self.paths.tools):
                await trio.to_thread.run_sync(_make, path, limiter=self._blocking)
            self._process = await trio.lowlevel.open_process(
                [
                    python,
                    "-I",
                    "-S",
                    "-B",
                    str(agent),
                    "--fd",
                    str(port.fileno()),
                    "--root",
                    str(self._folder),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[port.fileno()],
                start_new_session=True,
                cwd=str(self._folder),
                env={"PATH": os.defpath, "LANG": "C.UTF-8"},
            )
        except BaseException:
            with trio.CancelScope(shield=True):
                await self.destroy()
            raise

    async def fill(self, archive: Path) -> str | None:
        """There is no job disk."""
        return None

    async def snapshot(self, into: Path, *, key: bytes | None, limit: int) -> None:
        """Refused: a process of the host has no state of its own that could be kept."""
        raise NotKept("the process driver keeps no snapshots: its machines are processes of the host")

    def postmortem(self) -> str:
        """How the agent ended."""
        status = self._process.poll() if self._process is not None else None
        return "" if status is None else f"its agent ended with status {status}"

    def console_end(self) -> tuple[str, ...]:
        """Nothing: it has no console."""
        return ()

    async def destroy(self) -> None:
        """End the process tree, by the agent or where that fails by hand, and remove the folder."""
        with trio.CancelScope(shield=True):
            async with self._ending:
                if self._ended:
                    return
                self._ended = True
                await self._end_processes()
                await trio.to_thread.run_sync(sweep.remove, self._folder, limiter=self._blocking)
                await self.forget()

    async def _end_processes(self) -> None:
        process = self._process
        if process is None:
            return
        ended = False
        if process.poll() is None and not self._channel.ended:
            try:
                answer = await self._channel.call("end", seconds=_ENDING, deadline=_ENDING + 1)
                ended = answer.get("ended") is True
            except (MachineLost, OSError, ValueError):
                pass
        if not ended:
            await self._hunt(process.pid)
        self._channel.close(DESTROYED)
        if ended:  # then it ends by itself, now that its channel has
            with trio.move_on_after(_ENDING):
                await process.wait()
        if process.poll() is None:
            process.kill()
            await process.wait()

    async def _hunt(self, agent: int) -> None:
        """The agent is gone or does not answer: kill what is below it and what names the folder."""

        def left() -> list[int]:
            return sorted({*sweep.descendants(agent), *sweep.processes_of(self._folder)} - {agent})

        done = await trio.to_thread.run_sync(
            lambda: sweep.end_all(left, seconds=_ENDING), limiter=self._blocking
        )
        if not done:
            _log.warning("processes of a machine could not be ended", machine=self.id)


def _prepare(root: Path) -> Path:
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    pack(root / _AGENT)
    return root.resolve()


def _make(path: str) -> None:
    os.makedirs(path, mode=0o755)


def _reap(root: Path, living: set[str]) -> int:
    count = 0
    for folder in sorted(root.glob("process-*")):
        if folder.name not in living:
            sweep.end_all(lambda folder=folder: sweep.processes_of(folder), seconds=_ENDING)  # type: ignore[misc]
            sweep.remove(folder)
            count += 1
    return count
