"""A person's terminal in a machine: what is typed goes in, what the process shows comes out."""

from __future__ import annotations

import signal
from typing import Any

import trio

from runnerd.machines.channel import Channel
from runnerd.machines.driver import Command, Exit, MachineLost, Terminal, Window
from runnerd.machines.execution import Execution, Rung

HANG_UP = (Rung(signal.SIGHUP, 2.0), Rung(signal.SIGKILL, 2.0))
"""What a process hears whose terminal is gone."""


class Session(Execution):
    """One process on a terminal; `run` once."""

    def __init__(self, channel: Channel, command: Command, terminal: Terminal) -> None:
        async def show(stream: str, data: bytes) -> None:
            await terminal.show(data)

        super().__init__(channel, command, show)
        self._terminal = terminal

    async def run(self, ladder: tuple[Rung, ...] = HANG_UP) -> Exit:
        """Run to the process's end; when the person goes, the process is hung up.

        Raises what `Execution.run` raises. The keys that were typed last may be lost with the process.
        """
        ended: Exit | Exception
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._type)
            try:
                ended = await super().run(ladder)
            except Exception as error:  # leaves plainly, in no group
                ended = error
            nursery.cancel_scope.cancel()
        if isinstance(ended, Exception):
            raise ended
        return ended

    def _order(self, arguments: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        window = self._terminal.window
        return "shell", arguments | {"rows": window.rows, "columns": window.columns}

    async def _type(self) -> None:
        try:
            while True:
                typed = await self._terminal.keys()
                exchange = await self.started()
                if isinstance(typed, Window):
                    await self._channel.call(
                        "resize", to=exchange.stream, rows=typed.rows, columns=typed.columns
                    )
                elif typed:
                    await exchange.send(typed)
                else:
                    await self._hang_up()
                    return
        except (MachineLost, OSError, ValueError):  # whoever follows the process says so
            pass

    async def _hang_up(self) -> None:
        for rung in HANG_UP:
            await self.signal(rung.signal)
            await trio.sleep(rung.patience)
