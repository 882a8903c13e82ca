"""The daemon's side of a launcher that is a process of its own."""

from __future__ import annotations

import itertools
import os
import select
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import trio

from runnerd import log
from runnerd.machines import launch_wire as wire
from runnerd.machines.cgroups import Groups
from runnerd.machines.launch_wire import Ended, Malformed, Opened, Refused, Started
from runnerd.machines.launcher import LaunchFailed, Order, Vmm

ANSWER = 10.0
"""Seconds in which the launcher starts a machine."""
STOP = 12.0
"""Seconds in which it ends one."""
GONE = -9
"""Status of machines whose launcher has gone: their end with it is the kernel's doing."""
_MOMENT = 0.005
"""Seconds in which a process that has closed its files is gone, and the launcher has said so."""

_log = log.get(__name__)


@asynccontextmanager
async def open_launch_client(path: Path) -> AsyncIterator[LaunchClient]:
    """A launcher at the other end of a socket; leaving ends every machine it started for us.

    Raises `LaunchFailed` where nobody listens there, or we may not connect.
    """
    plain = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        plain.connect(str(path))
    except OSError as error:
        plain.close()
        raise LaunchFailed(
            f"the launcher at {path} cannot be reached: {error.strerror}; start runnerd-launcher.service"
        ) from error
    client = LaunchClient(plain)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.run)
            try:
                yield client
            finally:
                nursery.cancel_scope.cancel()
    finally:
        client.close()


class LaunchClient:
    """See `open_launch_client` and `launcher.Launcher`."""

    separate = True
    groups: Groups | None = None
    """They are the launcher's: it lends none."""

    def __init__(self, plain: socket.socket) -> None:
        self._plain = plain
        plain.setblocking(False)
        self._socket = trio.socket.from_stdlib_socket(socket.socket(fileno=os.dup(plain.fileno())))
        self._turn = trio.Lock()
        self._number = 0
        self._answers: dict[int, Started | Opened | Refused] = {}
        self._asked: set[int] = set()
        """Requests whose answer is waited for."""
        self._opened: dict[int, list[int]] = {}
        """The descriptors that came with an answer."""
        self._machines: dict[str, _Machine] = {}
        self._news = trio.lowlevel.ParkingLot()
        self._gone = ""

    async def run(self) -> None:
        """Read what the launcher says until it goes; then its machines have ended too. Never raises."""
        while not self._gone:
            await trio.lowlevel.wait_readable(self._plain)
            self.drain()

    def drain(self, moment: float = 0.0) -> None:
        """Take what the launcher has said already, or says within a moment (seconds)."""
        try:
            if moment:
                select.select([self._plain], [], [], moment)
            while not self._gone:
                data, descriptors = wire.receive_now(self._plain)
                try:
                    if not data:
                        self._lose("the launcher has gone")
                        return
                    self._take(msgspec.json.decode(data, type=wire.Reply), descriptors)
                finally:
                    for descriptor in descriptors:
                        os.close(descriptor)
        except BlockingIOError:
            pass
        except (OSError, Malformed, msgspec.MsgspecError) as error:
            self._lose(f"the launcher is of no more use: {error}")

    async def start(self, order: Order) -> Vmm:
        """See `Launcher.start`. Only machines can be started so: an order without a recipe is refused."""
        if order.recipe is None:
            raise LaunchFailed("a separate launcher starts machines only")
        self._number += 1
        number = self._number
        request = wire.Start(
            number=number, name=order.name, recipe=order.recipe, descriptors=tuple(order.descriptors)
        )
        # Known before it runs: it may end before its start is answered.
        machine = self._machines[order.name] = _Machine(self, order.name)
        with trio.CancelScope(shield=True):
            try:
                answer = await self._ask(request, tuple(order.descriptors.values()))
            except LaunchFailed:
                self._machines.pop(order.name, None)
                raise
        assert isinstance(answer, Started), "a start is answered so"
        machine.runs(answer)
        return machine

    async def open_memory(self, name: str) -> tuple[int, int, int]:
        """See `Vmm.open_memory`."""
        self._number += 1
        number = self._number
        with trio.CancelScope(shield=True):
            try:
                await self._ask(wire.Look(number=number, name=name))
            except LaunchFailed as error:
                raise OSError(f"the machine's memory cannot be seen: {error}") from error
        opened = self._opened.pop(number, [])
        if len(opened) != 3:
            for descriptor in opened:
                os.close(descriptor)
            raise OSError("the launcher did not hand the machine's memory over")
        maps, pagemap, memory = opened
        return maps, pagemap, memory

    async def _ask(
        self, request: wire.Start | wire.Look, descriptors: tuple[int, ...] = ()
    ) -> Started | Opened:
        self._asked.add(request.number)
        try:
            async with self._turn:
                await wire.send(self._socket, request, descriptors)
            with trio.move_on_after(ANSWER):
                while request.number not in self._answers and not self._gone:
                    await self._news.park()
        except OSError as error:
            raise LaunchFailed(f"the launcher does not listen: {error}") from error
        finally:
            self._asked.discard(request.number)
        answer = self._answers.pop(request.number, None)
        if isinstance(answer, Started | Opened):
            return answer
        if isinstance(answer, Refused):
            raise LaunchFailed(answer.reason)
        if isinstance(request, wire.Start):
            await self.stop(request.name)
        raise LaunchFailed(self._gone or f"the launcher did not answer within {ANSWER:g} s")

    async def stop(self, name: str) -> None:
        """Ask for a machine's end; what cannot be asked any more has ended."""
        try:
            async with self._turn:
                await wire.send(self._socket, wire.Stop(name=name))
        except OSError:
            pass

    async def changed(self) -> None:
        """Wait until the launcher has said something, or has gone."""
        await self._news.park()

    def close(self) -> None:
        """Go away: the launcher then ends what it started for us. Safe to call twice."""
        self._lose("the launcher was left")
        for descriptor in itertools.chain.from_iterable(self._opened.values()):
            os.close(descriptor)
        self._opened.clear()
        self._socket.close()
        self._plain.close()

    def _take(self, reply: wire.Reply, descriptors: list[int]) -> None:
        """Note what was said; the descriptors that stay in the list are closed."""
        if isinstance(reply, Ended):
            if machine := self._machines.pop(reply.name, None):
                machine.status = reply.status
        else:
            self._answers[reply.number] = reply
            if isinstance(reply, Opened) and reply.number in self._asked:
                self._opened[reply.number] = descriptors[:]
                descriptors.clear()
        self._news.unpark_all()

    def _lose(self, reason: str) -> None:
        if self._gone:
            return
        self._gone = reason
        if self._machines:
            _log.error("the launcher's machines ended with it", reason=reason, machines=len(self._machines))
        for machine in self._machines.values():
            machine.status = GONE
        self._machines.clear()
        self._news.unpark_all()


class _Machine:
    """A monitor that the launcher started."""

    def __init__(self, client: LaunchClient, name: str) -> None:
        self.pid = self.uid = self.born = 0
        self.status: int | None = None
        self._client = client
        self._name = name
        self._pidfd = -1

    def runs(self, started: Started) -> None:
        """Take over what the launcher said of it."""
        self.pid, self.uid, self.born = started.pid, started.uid, started.born
        try:
            self._pidfd = os.pidfd_open(started.pid)
        except OSError:  # it has ended already; the launcher says so
            pass

    async def wait(self) -> int:
        """See `Vmm.wait`."""
        while self.status is None:
            await self._client.changed()
        return self.status

    async def open_memory(self) -> tuple[int, int, int]:
        """See `Vmm.open_memory`."""
        return await self._client.open_memory(self._name)

    def ended(self) -> int | None:
        """See `Vmm.ended`."""
        if self._pidfd >= 0 and select.select([self._pidfd], [], [], _MOMENT)[0]:
            # The process is gone; its status comes from the launcher, who learnt it at the same time.
            self._client.drain(_MOMENT)
        return self.status

    async def stop(self) -> None:
        """See `Vmm.stop`."""
        with trio.CancelScope(shield=True):
            if self.status is None:
                await self._client.stop(self._name)
                with trio.move_on_after(STOP):
                    await self.wait()
            if self._pidfd >= 0:
                os.close(self._pidfd)
                self._pidfd = -1
