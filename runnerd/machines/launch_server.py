"""The launcher as a root process of its own: it starts machines for a daemon that has no rights.

Each machine gets another user. Clients are believed little: they are known by the kernel's word for their
user, they name sizes and not programs, and their files must be theirs. A client that goes takes its machines
along.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec
import trio

from runnerd import log
from runnerd.machines import launch_wire as wire
from runnerd.machines.launch_wire import Malformed
from runnerd.machines.launcher import Launcher, LaunchFailed, Order, Vmm, recipe_order

MACHINES = 512
"""Machines one client may have at a time."""

_CREDENTIALS = struct.Struct("3i")
_log = log.get(__name__)


async def serve(
    listener: socket.socket,
    launcher: Launcher,
    *,
    qemu: str,
    users: Collection[int],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve clients whose user is in `users`, until cancelled; a client's fault ends that client only.

    `listener` is a listening Unix socket of packets (SOCK_SEQPACKET); `qemu` is the only program that is run.
    """
    listening = trio.socket.from_stdlib_socket(listener)
    async with trio.open_nursery() as nursery:
        task_status.started()
        while True:
            connection, _ = await listening.accept()
            user = _user_of(connection)
            if user not in users:
                _log.warning("a user that may not start machines was sent away", user=user)
                connection.close()
                continue
            nursery.start_soon(_Client(connection, launcher, qemu, user).serve)


class _Client:
    """One daemon and its machines."""

    def __init__(self, connection: trio.socket.SocketType, launcher: Launcher, qemu: str, user: int) -> None:
        self._connection = connection
        self._launcher = launcher
        self._qemu = qemu
        self._user = user
        self._machines: dict[str, Vmm] = {}
        self._turn = trio.Lock()

    async def serve(self) -> None:
        """Carry out requests until the client goes; then end what it left. Never raises."""
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    data, descriptors = await self._receive()
                    try:
                        if not data:
                            break
                        await self._carry_out(data, descriptors, nursery)
                    finally:
                        for descriptor in descriptors:
                            os.close(descriptor)
                nursery.cancel_scope.cancel()
        except* (OSError, Malformed) as group:
            _log.error(
                "a client of the launcher was cut off", user=self._user, problem=str(group.exceptions[0])
            )
        finally:
            self._connection.close()
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as nursery:
                    for machine in tuple(self._machines.values()):
                        nursery.start_soon(machine.stop)

    async def _receive(self) -> tuple[bytes, list[int]]:
        while True:
            await trio.lowlevel.wait_readable(self._connection)
            try:
                with socket.socket(fileno=os.dup(self._connection.fileno())) as plain:
                    return wire.receive_now(plain, socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue

    async def _carry_out(self, data: bytes, descriptors: Sequence[int], nursery: trio.Nursery) -> None:
        request = wire.decode_request(data)
        if isinstance(request, wire.Stop):
            if machine := self._machines.get(request.name):
                nursery.start_soon(machine.stop)  # others do not wait for one that is long in ending
            return
        if isinstance(request, wire.Look):
            await self._open_memory(request)
            return
        try:
            machine = await self._start(request, descriptors)
        except LaunchFailed as error:
            await self._say(wire.Refused(number=request.number, reason=str(error)))
            return
        self._machines[request.name] = machine
        nursery.start_soon(self._watch, request.name, machine)
        await self._say(
            wire.Started(number=request.number, pid=machine.pid, uid=machine.uid, born=machine.born)
        )

    async def _open_memory(self, request: wire.Look) -> None:
        """The client may see what is its own: it gave the machine all that is in it."""
        try:
            if (machine := self._machines.get(request.name)) is None:
                raise OSError("there is no such machine")
            opened = await machine.open_memory()
        except OSError as error:
            await self._say(wire.Refused(number=request.number, reason=str(error)))
            return
        try:
            await self._say(wire.Opened(number=request.number), opened)
        finally:
            for descriptor in opened:
                os.close(descriptor)

    async def _start(self, request: wire.Start, descriptors: Sequence[int]) -> Vmm:
        if len(descriptors) != len(request.descriptors):
            raise Malformed(f"{len(descriptors)} descriptors came for {len(request.descriptors)} names")
        if request.name in self._machines:
            raise LaunchFailed(f"a machine named {request.name} has not ended yet")
        if len(self._machines) >= MACHINES:
            raise LaunchFailed(f"there are {MACHINES} machines already")
        named = dict(zip(request.descriptors, descriptors, strict=True))
        order = msgspec.structs.replace(
            recipe_order(request.recipe, self._qemu, request.name), descriptors=named
        )
        self._judge_owned(order)
        return await self._launcher.start(order)

    def _judge_owned(self, order: Order) -> None:
        """What is to be given to a machine's user has to be the client's own, and nobody else's.

        A file with a name could be one that a person relies on; the disks of machines have none.
        """
        for name in order.owned:
            found = os.fstat(order.descriptors[name])
            if not stat.S_ISREG(found.st_mode) or found.st_nlink or found.st_uid != self._user:
                raise Malformed(f"the descriptor {name!r} is no nameless file of the client's")

    async def _watch(self, name: str, machine: Vmm) -> None:
        status = await machine.wait()
        await machine.stop()
        del self._machines[name]
        await self._say(wire.Ended(name=name, status=status))

    async def _say(self, reply: wire.Reply, descriptors: Sequence[int] = ()) -> None:
        async with self._turn:
            await wire.send(self._connection, reply, descriptors)


def _user_of(connection: trio.socket.SocketType) -> int:
    """The user at the other end, as the kernel says."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(found)[1])


def listen(path: Path, *, group: int | None = None) -> socket.socket:
    """Open the launcher's socket at `path`, for its owner and for `group`. Raises OSError.

    It gets this name once it listens and has its mode: who sees it there can connect.
    """
    hidden = path.with_name(f".{path.name}.{os.getpid()}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        hidden.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            listener.bind(str(hidden))
        finally:
            os.umask(before)
        if group is not None:
            os.chown(hidden, -1, group)
            hidden.chmod(0o660)
        listener.listen(16)
        hidden.replace(path)
    except BaseException:
        listener.close()
        hidden.unlink(missing_ok=True)
        raise
    return listener
