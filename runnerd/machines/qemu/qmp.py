"""Speaks QMP, the control protocol of QEMU, over one connected socket; answers and events may interleave.

What comes from QEMU is bounded and checked: a broken or silent monitor ends this connection, nothing else.
"""

from __future__ import annotations

import array
import json
import os
import socket
from collections.abc import Callable
from typing import Any

import msgspec
import trio

LINE_LIMIT = 1 << 20
"""Bytes of one message; QEMU's longest answer that we ask for is a few kilobytes."""

_EVENTS_KEPT = 64


class QmpError(Exception):
    """QEMU refused a command, broke the protocol, or did not answer; says which command."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something QEMU told unasked, such as `SHUTDOWN`."""

    name: str
    data: dict[str, Any]


class Qmp:
    """One monitor. `run` must run in a task of its own for as long as commands are given."""

    def __init__(self, ours: socket.socket, *, channels: bool = False) -> None:
        """Take over our end of the socket pair; QEMU holds the other, see `Abilities.channels`."""
        self.channels = channels
        self._socket = trio.socket.from_stdlib_socket(ours)
        self._buffer = bytearray()
        self._greeted = trio.Event()
        self._ended = trio.Event()
        self._why = "the monitor was closed"
        self._number = 0
        self._turn = trio.Lock()
        self._answer: tuple[int, trio.Event, list[dict[str, Any]]] | None = None
        self._events: list[Event] = []
        self._changed = trio.Event()
        self.on_event: Callable[[Event], None] | None = None
        """Hears every event as it arrives; must neither block nor raise."""

    @property
    def events(self) -> tuple[Event, ...]:
        """The latest events, oldest first."""
        return tuple(self._events)

    async def run(self) -> None:
        """Read until QEMU closes the monitor; never raises for what QEMU sends."""
        try:
            while data := await self._socket.recv(65536):
                self._feed(data)
            self._why = "QEMU closed the monitor"
        except (QmpError, OSError, trio.ClosedResourceError) as error:
            self._why = str(error) or type(error).__name__
        finally:
            self._ended.set()
            self._wake()
            self._socket.close()

    def drain(self) -> None:
        """Take what QEMU has said already, without waiting."""
        try:
            # A second socket object on the same connection: the one that trio holds can only be awaited.
            with socket.socket(fileno=os.dup(self._socket.fileno())) as copy:
                self._feed(copy.recv(65536, socket.MSG_DONTWAIT))
        except (QmpError, OSError):
            pass  # nothing there, or the reader will see the same

    async def negotiate(self, *, deadline: float) -> None:
        """Wait for the greeting and leave negotiation mode; first of all commands. `deadline` in seconds."""
        with trio.move_on_after(deadline):
            await self._either(self._greeted)
        if not self._greeted.is_set():
            raise QmpError(self._why if self._ended.is_set() else f"QEMU did not greet within {deadline:g} s")
        await self.command("qmp_capabilities", deadline=deadline)

    async def command(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        *,
        deadline: float = 5.0,
        descriptor: int | None = None,
    ) -> Any:
        """Give one command and return its result; a descriptor goes with it.

        Raises QmpError with QEMU's own words when it refuses, and when `deadline` seconds have passed.
        """
        async with self._turn:
            self._number += 1
            answered, box = trio.Event(), list[dict[str, Any]]()
            self._answer = (self._number, answered, box)
            message: dict[str, Any] = {"execute": name, "id": self._number}
            if arguments:
                message["arguments"] = arguments
            try:
                with trio.move_on_after(deadline):
                    await self._send(json.dumps(message).encode() + b"\r\n", descriptor)
                    await self._either(answered)
            except (OSError, trio.ClosedResourceError) as error:
                raise QmpError(f"{name}: QEMU does not listen any more: {error}") from error
            finally:
                self._answer = None
            if not box:
                why = self._why if self._ended.is_set() else f"no answer within {deadline:g} s"
                raise QmpError(f"{name}: {why}")
        if "error" in box[0]:
            said = box[0]["error"]
            raise QmpError(f"{name}: {said.get('desc', said) if isinstance(said, dict) else said}")
        return box[0].get("return")

    async def wait(self, wanted: Callable[[Event], bool], *, deadline: float = 5.0) -> Event:
        """Return the first kept or coming event that is wanted; QmpError when none comes in time."""
        with trio.move_on_after(deadline):
            while True:
                for event in self._events:
                    if wanted(event):
                        return event
                if self._ended.is_set():
                    raise QmpError(self._why)
                await self._changed.wait()
        raise QmpError(f"the expected event did not come within {deadline:g} s")

    def forget_events(self) -> None:
        """Let what QEMU told before now answer no `wait` any more."""
        self._events = []

    def close(self) -> None:
        """End the connection; safe to call twice."""
        self._socket.close()
        self._ended.set()
        self._wake()

    async def _send(self, data: bytes, descriptor: int | None) -> None:
        if descriptor is not None:
            # The descriptor travels with the first byte; QEMU takes it when it reads the command.
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
            sent = await self._socket.sendmsg([data], rights)
            data = data[sent:]
        while data:
            data = data[await self._socket.send(data) :]

    async def _either(self, event: trio.Event) -> None:
        """Wait for an event or the end of the connection."""
        while not event.is_set() and not self._ended.is_set():
            await self._changed.wait()

    def _feed(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            if line.strip():
                self._take(line)
        if len(self._buffer) > LINE_LIMIT:
            raise QmpError(f"QEMU sent a message of more than {LINE_LIMIT} bytes")

    def _take(self, line: bytes) -> None:
        try:
            message = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise QmpError(f"QEMU sent what is not JSON: {line[:80]!r}") from error
        if not isinstance(message, dict):
            raise QmpError(f"QEMU sent what is not a message: {line[:80]!r}")
        if "QMP" in message:
            self._greeted.set()
        elif isinstance(message.get("event"), str):
            data = message.get("data")
            event = Event(name=message["event"], data=data if isinstance(data, dict) else {})
            self._events = [*self._events[-_EVENTS_KEPT + 1 :], event]
            if self.on_event is not None:
                self.on_event(event)
        elif self._answer is not None and message.get("id", -1) in (self._answer[0], -1):
            self._answer[2].append(message)
            self._answer[1].set()
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
