"""Running one process through a channel: its output under back-pressure, its exit, and the kill ladder."""

from __future__ import annotations

import signal
from typing import Any, NamedTuple

import msgspec
import trio

from runnerd import log
from runnerd.machines.channel import Channel
from runnerd.machines.driver import Command, Exit, MachineLost, Output
from runnerd.machines.exchange import Chunk, End, Exchange
from runnerd.machines.frames import ERRORS

_log = log.get(__name__)

ENDING = 2.0
"""Seconds for an agent to end a process that was given up."""


class Rung(NamedTuple):
    """A signal, and the seconds its receiver has."""

    signal: int
    patience: float


LADDER = (Rung(signal.SIGINT, 7.5), Rung(signal.SIGTERM, 2.5), Rung(signal.SIGKILL, 5.0))
"""As GitHub's runner stops a step (ProcessInvoker.cs); the last rung is time for the output to be drained."""


class Execution:
    """One process in the machine; `run` once, `signal` while it runs."""

    def __init__(self, channel: Channel, command: Command, output: Output) -> None:
        self._channel = channel
        self._command = command
        self._output = output
        self._exchange: Exchange | None = None
        self._running = trio.Event()

    async def run(self, ladder: tuple[Rung, ...] = LADDER) -> Exit:
        """Start the process, deliver its output and return how it ended.

        Raises OSError or ValueError when it cannot be started, and MachineLost. When cancelled it
        climbs the ladder first, shielded; when `output` raises, the process is killed at once.
        """
        exchange = self._exchange = self._channel.open()
        command = self._command
        arguments = {name: getattr(command, name) for name in ("argv", "env", "cwd", "user")}
        try:
            await exchange.request(*self._order(arguments))
            if command.stdin:
                self._channel.start(self._feed, exchange)
            try:
                return await self._follow(exchange)
            except trio.Cancelled:
                with trio.CancelScope(shield=True):
                    await self._stop(exchange, ladder)
                raise
        finally:
            exchange.drop()

    def _order(self, arguments: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """The operation, and what it is told."""
        return "exec", arguments | {"stdin": bool(self._command.stdin)}

    async def started(self) -> Exchange:
        """Wait until the agent has said that the process runs."""
        await self._running.wait()
        assert self._exchange is not None
        return self._exchange

    async def signal(self, number: int) -> None:
        """Send a signal to the process group, if it still runs."""
        if self._exchange is not None and not self._exchange.over:
            await self._channel.call("signal", to=self._exchange.stream, signal=number)

    async def _follow(self, exchange: Exchange) -> Exit:
        """Deliver until the end. Safe to call again after it was cancelled."""
        if not exchange.accepted:
            await exchange.answer()
        self._running.set()
        while True:
            item = await exchange.next()
            if isinstance(item, Chunk):
                try:
                    await self._output("stderr" if item.kind == ERRORS else "stdout", bytes(item.data))
                finally:
                    exchange.took(item.kind, len(item.data))
            elif isinstance(item, End):
                return _exit(exchange, item)

    async def _feed(self, exchange: Exchange) -> None:
        try:
            await exchange.send(self._command.stdin)
            exchange.send_eof()
        except MachineLost:  # the one who follows says so
            pass

    async def _stop(self, exchange: Exchange, ladder: tuple[Rung, ...]) -> None:
        """Bring the process to its end; its last words are delivered as long as there is time for them."""
        async with trio.open_nursery() as nursery:
            ended = trio.Event()
            nursery.start_soon(self._follow_to_the_end, exchange, ended)
            await self._climb(exchange, ladder, ended)
            nursery.cancel_scope.cancel()
        exchange.drop()
        try:
            with trio.move_on_after(ENDING):
                await exchange.wait_over()
        except MachineLost:
            return
        if not exchange.over:
            self._channel.close("a killed process did not end")

    async def _climb(self, exchange: Exchange, ladder: tuple[Rung, ...], ended: trio.Event) -> None:
        try:
            for rung in ladder:
                await self.signal(rung.signal)
                with trio.move_on_after(rung.patience):
                    await ended.wait()
                if ended.is_set():
                    return
        except (MachineLost, OSError, ValueError):  # without an agent there is nobody to stop it
            pass

    async def _follow_to_the_end(self, exchange: Exchange, ended: trio.Event) -> None:
        try:
            await self._follow(exchange)
        except Exception as error:  # the cancellation that brought us here is what the caller hears of
            _log.debug("a stopped process did not end in order", error=str(error))
        ended.set()


def _exit(exchange: Exchange, item: End) -> Exit:
    try:
        ended = msgspec.convert(item.fields, Exit)
    except msgspec.ValidationError as error:
        raise exchange.broken(f"its EXIT is none: {error}") from error
    by_code = ended.code is not None and 0 <= ended.code <= 255
    by_signal = ended.signal is not None and 1 <= ended.signal <= 64
    if by_code == by_signal or None not in (ended.code, ended.signal):
        raise exchange.broken("its EXIT names not exactly one of a code and a signal")
    return ended
