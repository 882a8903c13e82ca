"""A person's terminal over a connection of the control socket: the daemon's side of it."""

from __future__ import annotations

import select
from collections.abc import Awaitable, Callable

import msgspec
import trio

from runnerd import log

from .frames import BadFrame, Decoder, Kind, encode, encode_all, encode_text, window_of

AHEAD = 16
"""Frames of the person's that wait while the machine takes no more."""
LOOK_EVERY = 1.0
"""Seconds between looks whether a person has gone of whom nothing is read."""
FAREWELL = 5.0
"""Seconds that the last frame may take."""
CHUNK = 64 << 10

_log = log.get(__name__)


class Screen(msgspec.Struct, frozen=True, kw_only=True):
    """What the person sees with."""

    rows: int = 24
    columns: int = 80
    term: str = "dumb"
    """The kind of terminal, as TERM has it."""
    plain: bool = False
    """There is none: a script types, and a file or another program reads."""


class Person:
    """Who sits at the other end. Once they are gone, whatever is awaited here is cancelled."""

    def __init__(self, stream: trio.SocketStream, gone: trio.CancelScope) -> None:
        self._stream = stream
        self._gone = gone
        self._sending = trio.Lock()
        self._put, self._typed = trio.open_memory_channel[bytes | tuple[int, int]](AHEAD)
        self._ended = False
        self._owed = bytearray()
        """Bytes that were begun to be sent: what comes after a cancelled send begins with them."""

    async def typed(self) -> bytes | tuple[int, int]:
        """The next keys, or the window's new rows and columns; b"" when nothing more will be typed."""
        try:
            return await self._typed.receive()
        except trio.EndOfChannel:
            return b""

    async def show(self, data: bytes) -> None:
        """Put bytes on the screen; waits while the person's side takes no more."""
        await self._send(encode_all(Kind.SCREEN, data))

    async def say(self, sentence: str) -> None:
        """Tell the person something of our own."""
        await self._send(encode_text(Kind.NOTE, sentence))

    async def end(self, status: int) -> None:
        """The last word: the exit status."""
        await self._farewell(encode(Kind.STATUS, bytes([status & 0xFF])))

    async def fail(self, sentence: str) -> None:
        """The last word: why there is no exit status."""
        await self._farewell(encode_text(Kind.FAILED, sentence))

    async def listen(self) -> None:
        """Take what the person sends until they go."""
        decoder = Decoder(Kind.KEYS, Kind.WINDOW, Kind.END)
        try:
            while data := await self._stream.receive_some(CHUNK):
                for kind, payload in decoder.feed(data):
                    await self._take(kind, payload)
        except BadFrame as problem:
            _log.warning("a terminal's client broke the protocol", problem=str(problem))
            await self.fail(f"the client broke the protocol: {problem}")
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        self._gone.cancel()

    async def _take(self, kind: Kind, payload: bytes) -> None:
        if self._ended:
            raise BadFrame("more was typed after the end")
        if kind is Kind.END:
            self._ended = True
            await self._put.aclose()
        elif kind is Kind.WINDOW:
            await self._pass_on(window_of(payload))
        elif payload:
            await self._pass_on(payload)

    async def _pass_on(self, typed: bytes | tuple[int, int]) -> None:
        """Wait for somebody to take it. Meanwhile nothing is read, so the end of the stream is looked for."""
        while True:
            with trio.move_on_after(LOOK_EVERY):
                await self._put.send(typed)
                return
            if _hung_up(self._stream.socket.fileno()):
                raise trio.BrokenResourceError

    async def _send(self, data: bytes) -> None:
        async with self._sending:
            self._owed += data
            try:
                while self._owed:
                    del self._owed[: await self._stream.socket.send(self._owed)]
            except OSError:
                self._gone.cancel()
                await trio.lowlevel.checkpoint()

    async def _farewell(self, data: bytes) -> None:
        with trio.move_on_after(FAREWELL, shield=True):
            await self._send(data)


def _hung_up(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, 0)
    return bool(poll.poll(0))


Talk = Callable[[Person], Awaitable[None]]
"""Speaks with a person, and says `end` or `fail` last; cancelled when they go."""


async def converse(stream: trio.SocketStream, talk: Talk) -> None:
    """Have `talk` speak with the person at the other end of a stream, until either is done.

    Raises what `talk` raises, after the person was told that it was our fault.
    """
    broken: Exception | None = None
    async with trio.open_nursery() as nursery:
        person = Person(stream, nursery.cancel_scope)
        nursery.start_soon(person.listen)
        try:
            await talk(person)
        except Exception as error:  # leaves plainly, in no group
            broken = error
            await person.fail(f"a fault of runnerd itself ({type(error).__name__}): its log says where")
        nursery.cancel_scope.cancel()
    if broken is not None:
        raise broken
