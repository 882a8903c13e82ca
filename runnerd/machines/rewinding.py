"""A machine that can be gone back: to its user it stays one, while another takes the place of what it was."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import trio

from runnerd.machines.driver import (
    Capabilities,
    Command,
    Connection,
    Exit,
    Identity,
    Machine,
    MachineLost,
    NoMachine,
    Output,
    Paths,
    Terminal,
)

Swap = Callable[[Machine, Path], Awaitable[Machine]]
"""Ends a machine and gives one, thawed, as it was when it was kept in a folder; raises NoMachine."""


class RewindingMachine:
    """Does what the machine behind it does. Ports that were offered are offered anew after `back`."""

    def __init__(self, machine: Machine, swap: Swap) -> None:
        self._machine = machine
        self._swap = swap
        self._offers: dict[int, Connection] = {}

    @property
    def id(self) -> str:
        """That of the machine which is there now; so are all that follow."""
        return self._machine.id

    @property
    def image(self) -> str:
        """See `Machine`."""
        return self._machine.image

    @property
    def paths(self) -> Paths:
        """See `Machine`."""
        return self._machine.paths

    @property
    def capabilities(self) -> Capabilities:
        """See `Machine`."""
        return self._machine.capabilities

    @property
    def identity(self) -> Identity | None:
        """See `Machine`."""
        return self._machine.identity

    @property
    def lost(self) -> trio.Event:
        """See `Machine`."""
        return self._machine.lost

    @property
    def reason(self) -> str:
        """See `Machine`."""
        return self._machine.reason

    async def back(self, kept: Path) -> None:
        """Be as it was when it was kept in the folder. Raises MachineLost: there is no machine then."""
        try:
            self._machine = await self._swap(self._machine, kept)
        except NoMachine as problem:
            raise MachineLost(f"it could not be gone back to before the step: {problem}") from problem
        try:
            for port, handler in self._offers.items():
                await self._machine.listen(port, handler)
        except (OSError, ValueError) as problem:
            raise MachineLost(f"its ports could not be offered again: {problem}") from problem

    async def thaw(self) -> Identity:
        """See `Machine`."""
        return await self._machine.thaw()

    async def lease(self) -> None:
        """See `Machine`."""
        await self._machine.lease()

    async def exec(self, command: Command, output: Output) -> Exit:
        """See `Machine`."""
        return await self._machine.exec(command, output)

    async def signal(self, number: int) -> None:
        """See `Machine`."""
        await self._machine.signal(number)

    async def put(self, path: str, data: bytes, *, mode: int = 0o644, user: int = 1001) -> None:
        """See `Machine`."""
        await self._machine.put(path, data, mode=mode, user=user)

    async def get(self, path: str, *, limit: int) -> bytes:
        """See `Machine`."""
        return await self._machine.get(path, limit=limit)

    async def get_all(self, limits: Mapping[str, int]) -> dict[str, bytes | OSError | ValueError]:
        """See `Machine`."""
        return await self._machine.get_all(limits)

    async def lay_out(
        self,
        folders: Sequence[str],
        files: Sequence[str],
        *,
        programs: Sequence[str] = (),
        search: str = "",
        user: int = 1001,
    ) -> dict[str, str]:
        """See `Machine`."""
        return await self._machine.lay_out(folders, files, programs=programs, search=search, user=user)

    async def unpack(self, archive: Path, into: str, *, user: int = 1001) -> None:
        """See `Machine`."""
        await self._machine.unpack(archive, into, user=user)

    async def listen(self, port: int, handler: Connection) -> None:
        """Offer a port, also after the machine was gone back."""
        await self._machine.listen(port, handler)
        self._offers[port] = handler

    async def shell(self, command: Command, terminal: Terminal) -> Exit:
        """See `Machine`."""
        return await self._machine.shell(command, terminal)

    async def snapshot(self, into: Path, *, key: bytes | None, limit: int) -> None:
        """See `Machine`."""
        await self._machine.snapshot(into, key=key, limit=limit)

    def console_end(self) -> tuple[str, ...]:
        """See `Machine`."""
        return self._machine.console_end()

    async def destroy(self) -> None:
        """See `Machine`."""
        await self._machine.destroy()
