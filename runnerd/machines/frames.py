"""The wire format of the guest channel as the host reads it: every byte is hostile until it is a frame."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

VERSION = 2
MAGIC = b"RDA1"
HEADER = struct.Struct("<4sBBHII")
"""Magic, type, flags, zero, stream, length of the payload that follows."""
LIMIT = 65536
"""The most a payload may hold; checked before anything is kept for it."""
WINDOW_SIZE = 262144
"""Bytes that may be under way in one stream; the receiver returns them with WINDOW."""

HELLO, HELLO_ACK, REQ, RES, DATA, WINDOW, EOF, EXIT, PING, PONG, RESET = range(1, 12)
FROM_AGENT = frozenset({HELLO_ACK, REQ, RES, DATA, WINDOW, EOF, EXIT, PONG})
"""What an agent may send; the rest is for the host alone."""

MORE = 1
"""Flag of a RES after which the exchange goes on, until its EXIT."""
GUEST = 0x80000000
"""Bit of every stream that the agent opened."""
CONTROL, TO_GUEST, FROM_GUEST, ERRORS = range(4)
"""The last two bits of a stream; the others are the exchange's number."""
FILLER = b"\xff" * (LIMIT + HEADER.size)
"""Pushes any half frame out of an agent that an earlier host left in the middle of one."""
MISFIT = 4 << 20
"""Bytes from before the HELLO_ACK that are skipped before the host gives up."""


class Breach(Exception):
    """The guest broke the protocol; says how. It costs that machine, and nothing else."""


class Frame(NamedTuple):
    """One frame from the agent."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def pack(kind: int, stream: int, payload: bytes = b"", flags: int = 0) -> bytes:
    """One frame as bytes; the payload is at most LIMIT long."""
    return HEADER.pack(MAGIC, kind, flags, 0, stream, len(payload)) + payload


class Decoder:
    """Cuts what the agent sends into frames; holds at most one frame and what one `feed` brought.

    Until `synchronised` is set it looks only for HELLO_ACK frames, and skips what a frozen or reused
    agent may still have had under way, up to MISFIT bytes.
    """

    def __init__(self) -> None:
        self.synchronised = False
        self._buffer = bytearray()
        self._start = 0
        self._skipped = 0

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that these bytes complete, in order; to be read to its end. Raises `Breach`."""
        self._buffer += data
        while (frame := self._next()) is not None:
            yield frame
        del self._buffer[: self._start]
        self._start = 0

    def _next(self) -> Frame | None:
        buffer = self._buffer
        while True:
            if not self.synchronised:
                self._hunt()
            start = self._start
            if len(buffer) - start < HEADER.size:
                return None
            magic, kind, flags, zero, stream, length = HEADER.unpack_from(buffer, start)
            wrong = _wrong(magic, kind, flags, zero, length)
            if wrong and self.synchronised:
                raise Breach(wrong)
            if wrong:
                self._skip(1)
                continue
            end = start + HEADER.size + length
            if len(buffer) < end:
                return None
            self._start = end
            return Frame(kind, flags, stream, bytes(buffer[start + HEADER.size : end]))

    def _hunt(self) -> None:
        """Go to where the next HELLO_ACK may begin."""
        found = self._buffer.find(MAGIC + bytes([HELLO_ACK]), self._start)
        if found < 0:
            found = max(self._start, len(self._buffer) - len(MAGIC))
        self._skip(found - self._start)

    def _skip(self, count: int) -> None:
        self._start += count
        self._skipped += count
        if self._skipped > MISFIT:
            raise Breach(f"more than {MISFIT} bytes before its HELLO_ACK")


def _wrong(magic: bytes, kind: int, flags: int, zero: int, length: int) -> str:
    if magic != MAGIC:
        return f"bad magic {magic.hex()}"
    if kind not in FROM_AGENT:
        return f"a frame of type {kind}, which an agent never sends"
    if length > LIMIT:
        return f"a frame of {length} bytes, {LIMIT} are allowed"
    if flags & ~MORE or zero:
        return f"unknown flags {flags:#x}, {zero:#x}"
    return ""
