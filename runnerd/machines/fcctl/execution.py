"""One process in a remote machine: started by one request, followed by others, stopped by its group."""

from __future__ import annotations

from typing import NamedTuple

import trio

from runnerd.machines.driver import Command, Exit, MachineLost, Output
from runnerd.machines.execution import LADDER, Rung
from runnerd.machines.fcctl import texts
from runnerd.machines.fcctl.session import Session

MOST = 512 << 10
"""Bytes of each stream in one answer."""
WAIT = 2.0
"""Seconds that one request waits in the machine for something to say."""
DRAIN = 2.0
"""Seconds for the output that is left when the process has ended."""


class _News(NamedTuple):
    ended: bool
    code: int | None
    out: bytes
    err: bytes


class Execution:
    """One process; `run` once, `signal` while it runs."""

    def __init__(self, session: Session, command: Command, output: Output) -> None:
        self._session = session
        self._command = command
        self._output = output
        self._folder = session.name()
        self._read = {"stdout": 0, "stderr": 0}
        self._launched = False

    async def run(self, ladder: tuple[Rung, ...] = LADDER) -> Exit:
        """Start the process, deliver its output and say how it ended; without a status where nobody knows.

        Raises OSError when it cannot be started, and MachineLost. When cancelled it climbs the ladder first,
        shielded; when `output` raises, the process is killed.
        """
        try:
            try:
                await self._launch()
                return await self._follow()
            except trio.Cancelled:
                with trio.CancelScope(shield=True):
                    await self._stop(ladder)
                raise
        except MachineLost:
            raise
        except Exception:
            if self._launched:
                with trio.CancelScope(shield=True):
                    await self._stop((Rung(9, 2.0),))
            raise

    async def signal(self, number: int) -> None:
        """Send a signal to the process group, if it still runs."""
        if self._launched:
            await self._session.ask(texts.signal(self._folder, number))

    async def _launch(self) -> None:
        command = self._command
        stdin = "/dev/null"
        if command.stdin:
            stdin = self._session.name()
            await self._session.put(stdin, command.stdin, mode=0o600)
        text = texts.launch(self._folder, command.argv, command.env, command.cwd, stdin)
        self._launched = True  # from here on it may run, whatever answer comes
        try:
            await self._session.ask(text)
        except OSError:
            self._launched = False
            raise

    async def _follow(self) -> Exit:
        """Deliver until the end. Safe to call again after it was cancelled."""
        while True:
            news = await self._look(WAIT)
            await self._deliver(news)
            if news.ended:
                with trio.move_on_after(DRAIN):  # what it left running may write for ever
                    while max(len(news.out), len(news.err)) >= MOST:
                        news = await self._look(0.1)
                        await self._deliver(news)
                return Exit(code=news.code)

    async def _look(self, wait: float) -> _News:
        text = texts.follow(self._folder, self._read["stdout"], self._read["stderr"], most=MOST, wait=wait)
        try:
            lines = (await self._session.ask(text, seconds=wait + 30.0)).split("\n")
        except OSError:  # its files are gone: who removed them took the answer away
            return _News(True, None, b"", b"")
        if len(lines) != 4:
            raise self._session.lost("what it says of a process cannot be understood")
        out, err = (self._session.decoded(line) for line in lines[1:3])
        match lines[0].split():
            case ["running"]:
                return _News(False, None, out, err)
            case ["ended", code] if code.isdecimal() and int(code) <= 255:
                return _News(True, int(code), out, err)
            case _:  # who waited for it is gone, or its file is not what was written: nobody knows
                return _News(True, None, out, err)

    async def _deliver(self, news: _News) -> None:
        for stream, data in (("stdout", news.out), ("stderr", news.err)):
            if data:
                self._read[stream] += len(data)
                await self._output(stream, data)

    async def _stop(self, ladder: tuple[Rung, ...]) -> None:
        """Bring the process to its end; its last words are delivered as long as there is time for them."""
        try:
            for rung in ladder:
                with trio.move_on_after(rung.patience):
                    await self.signal(rung.signal)
                    await self._follow()
                    return
        except (MachineLost, OSError):
            return
        except Exception:  # of `output`: what brought us here is what the caller hears of
            return
