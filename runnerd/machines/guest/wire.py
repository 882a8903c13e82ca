"""The frames of the guest channel, and how the agent finds them again when it fell out of step."""

from __future__ import annotations

import struct

VERSION = 2
MAGIC = b"RDA1"
HEADER = struct.Struct("<4sBBHII")
"""Magic, type, flags, zero, stream, length of the payload that follows."""
LIMIT = 65536
"""The most a payload may hold."""
WINDOW_SIZE = 262144
"""Bytes that may be under way in one stream; the receiver returns them with WINDOW."""

HELLO, HELLO_ACK, REQ, RES, DATA, WINDOW, EOF, EXIT, PING, PONG, RESET = range(1, 12)

MORE = 1
"""Flag of a RES after which the exchange goes on, until its EXIT."""
GUEST = 0x80000000
"""Bit of every stream that the agent opened."""
CONTROL, TO_GUEST, FROM_GUEST, ERRORS = range(4)
"""The last two bits of a stream; the others are the exchange's number."""
FILLER = 0xFF
"""May stand between frames; 64 KiB of it push any half frame out of the agent."""

Frame = tuple[int, int, int, bytes]
"""Type, flags, stream, payload."""


def pack(kind: int, stream: int, payload: bytes = b"", flags: int = 0) -> bytes:
    """One frame as bytes."""
    return HEADER.pack(MAGIC, kind, flags, 0, stream, len(payload)) + payload


class Frames:
    """Cuts a stream of bytes into frames. Out of step it drops what comes until the next HELLO."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.lost = True

    def clear(self) -> None:
        """Forget what is half read, and wait for a HELLO."""
        self._buffer.clear()
        self.lost = True

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that these bytes complete."""
        buffer = self._buffer
        buffer += data
        frames: list[Frame] = []
        start = 0
        while True:
            if self.lost:
                start = self._hunt(start)
            elif len(buffer) > start and buffer[start] == FILLER:
                start += 1
                continue
            if len(buffer) - start < HEADER.size:
                break
            magic, kind, flags, _, stream, length = HEADER.unpack_from(buffer, start)
            if magic != MAGIC or length > LIMIT or not HELLO <= kind <= RESET:
                self.lost = True
                start += 1
                continue
            end = start + HEADER.size + length
            if len(buffer) < end:
                break
            self.lost = False
            frames.append((kind, flags, stream, bytes(buffer[start + HEADER.size : end])))
            start = end
        del buffer[:start]
        return frames

    def _hunt(self, start: int) -> int:
        """Where the next HELLO may begin."""
        found = self._buffer.find(MAGIC + bytes([HELLO]), start)
        return found if found >= 0 else max(start, len(self._buffer) - len(MAGIC))
