"""A process on a terminal of its own: one stream in, one out, and a window that changes its size."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import Any

from .agent import Agent
from .process import Process, program_of
from .spawn import Program
from .wire import FROM_GUEST

_SET_WINDOW = 0x5414  # TIOCSWINSZ
_END = b"\x04"


class Terminal(Process):
    """An `exec` whose three streams are a pseudo terminal that belongs to the process's user."""

    _outputs = (FROM_GUEST,)

    def __init__(self, agent: Agent, stream: int, program: Program, window: tuple[int, int]) -> None:
        """Open the terminal and start the program as what it controls."""
        self._window = window
        self._master = -1
        program.terminal = True
        super().__init__(agent, stream, program, None)

    def resize(self, rows: int, columns: int) -> None:
        """Change the window; the process is told by a signal."""
        if FROM_GUEST in self._fds:
            _set_window(self._fds[FROM_GUEST], rows, columns)

    def _open_streams(self, program: Program, stdin: int | None) -> tuple[int, int, int, dict[int, int]]:
        master, slave = os.openpty()
        _set_window(master, *self._window)
        if program.user is not None:
            os.fchown(slave, program.user, program.user)
        self._stdin = os.dup(master)
        os.set_blocking(self._stdin, False)
        return slave, slave, slave, {FROM_GUEST: master}

    def _read(self, kind: int, count: int) -> bytes:
        try:
            return super()._read(kind, count)
        except OSError as error:
            if error.errno == errno.EIO:  # nobody has its other side open any more
                return b""
            raise

    def eof(self) -> None:
        """Type the end of input, as a person would."""
        if self._stdin >= 0 and not self._no_more:
            self._pending += _END
        super().eof()


def start(agent: Agent, stream: int, request: dict[str, Any]) -> None:
    """Operation `shell`: argv, env, cwd, user, rows, columns."""
    window = int(request["rows"]), int(request["columns"])
    process = Terminal(agent, stream, program_of(agent, request), window)
    agent.answer(stream, {"pid": process.pid}, more=True)


def resize(agent: Agent, stream: int, request: dict[str, Any]) -> dict[str, Any]:
    """Operation `resize`: sets the window of the terminal of the exec on stream `to`: rows, columns."""
    process = agent.exchanges.get(int(request["to"]))
    if isinstance(process, Terminal):
        process.resize(int(request["rows"]), int(request["columns"]))
    return {"found": process is not None}


def _set_window(terminal: int, rows: int, columns: int) -> None:
    fcntl.ioctl(terminal, _SET_WINDOW, struct.pack("HHHH", rows & 0xFFFF, columns & 0xFFFF, 0, 0))
