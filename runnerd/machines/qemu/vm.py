"""One running QEMU with its monitor, its console and the host's end of its agent's port."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import msgspec
import trio

from runnerd.machines.console import Console
from runnerd.machines.launcher import Launcher, Order, Vmm
from runnerd.machines.qemu.qmp import Event, Qmp

_TOLD = {
    "GUEST_PANICKED": "its kernel panicked",
    "SHUTDOWN": "it shut down",
    "RESET": "it tried to reboot",
}


class Vm:
    """A started machine. Made by `start`; `stop` must be called, and may be called twice."""

    def __init__(self, process: Vmm, qmp: Qmp, console: Console, agent: trio.SocketStream) -> None:
        self.process = process
        self.qmp = qmp
        self.console = console
        self.agent = agent
        """The agent's byte stream."""
        self.ended = trio.Event()
        """Set when QEMU is gone and everything it held was given back."""
        self.status: int | None = None
        self._stopped = False
        self._told = ""
        qmp.on_event = self._hear

    async def run(self) -> None:
        """Serve monitor and console until QEMU ends; must run in a task of its own, and never raises."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.qmp.run)
                nursery.start_soon(self.console.run)
                self.status = await self.process.wait()
                self.console.drain()
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await self.process.stop()
                if self.status is None:
                    self.status = await self.process.wait()
                self.ended.set()

    def reason(self) -> str:
        """Why it ended, as far as is known: half a sentence with the last words of the console.

        Empty when it was stopped from here.
        """
        if self._stopped:
            return ""
        if self.status is None:
            self.status = self.process.ended()
        self.qmp.drain()
        self.console.drain()
        words = self._told
        if not words and self.status is not None:
            words = _status(self.status)
        tail = self.console.tail()
        if tail:
            words += ("; " if words else "") + f"its console ended with: {tail}"
        return words

    async def stop(self) -> None:
        """Kill QEMU and wait for its end; bounded, and safe to call twice."""
        with trio.CancelScope(shield=True):
            self._stopped = self._stopped or (self.status is None and not self._told)
            await self.process.stop()
            with trio.move_on_after(5.0):
                await self.ended.wait()
            await trio.aclose_forcefully(self.agent)

    def _hear(self, event: Event) -> None:
        if event.name == "SHUTDOWN" and event.data.get("reason") == "guest-panic":
            return
        if event.name in _TOLD and not self._stopped:
            why = event.data.get("reason")
            self._told = self._told or _TOLD[event.name] + (f" ({why})" if why else "")


async def start(
    launcher: Launcher,
    *,
    order: Order,
    files: Mapping[str, int],
    channels: bool = False,
) -> Vm:
    """Start QEMU as ordered, with the given files and sockets of its own for monitor, console and agent.

    `channels` says how it is told of migrations. Raises `LaunchFailed`. The files stay the caller's.
    """
    with _sockets("qmp", "console", "agent") as (ours, theirs):
        descriptors = {**files, **{key: end.fileno() for key, end in theirs.items()}}
        process = await launcher.start(
            msgspec.structs.replace(order, descriptors=descriptors, output="console")
        )
        agent = trio.SocketStream(trio.socket.from_stdlib_socket(ours.pop("agent")))
        return Vm(process, Qmp(ours.pop("qmp"), channels=channels), Console(ours.pop("console")), agent)


@contextmanager
def _sockets(*names: str) -> Iterator[tuple[dict[str, socket.socket], dict[str, socket.socket]]]:
    """Socket pairs: our ends, of which the caller pops what it keeps, and the others, closed at the end."""
    ours: dict[str, socket.socket] = {}
    theirs: dict[str, socket.socket] = {}
    try:
        for name in names:
            ours[name], theirs[name] = socket.socketpair()
        yield ours, theirs
    finally:
        for end in (*ours.values(), *theirs.values()):
            end.close()


def _status(status: int) -> str:
    if status < 0:
        try:
            return f"QEMU was ended by {signal.Signals(-status).name}"
        except ValueError:
            return f"QEMU was ended by signal {-status}"
    return f"QEMU ended with status {status}"
