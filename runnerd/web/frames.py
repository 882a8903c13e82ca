"""What a terminal's two ends say to each other over the control socket, in frames that bound themselves.

A frame is a byte that says what it is, two bytes of length, and that many bytes. Standard library alone, so
that a command starts at once.
"""

from __future__ import annotations

import enum
import struct

PROTOCOL = "runnerd-terminal/1"
"""What the HTTP request's `Upgrade` asks for; a daemon of another version refuses it."""
LIMIT = 0xFFFF
"""Bytes that one frame may carry, and not one more can be said."""

_HEAD = struct.Struct(">BH")
_WINDOW = struct.Struct(">HH")


class Kind(enum.IntEnum):
    """What a frame is."""

    KEYS = 1
    """From the person: what was typed."""
    WINDOW = 2
    """From the person: rows and columns, two bytes each."""
    END = 3
    """From the person: nothing more will be typed."""
    SCREEN = 16
    """To the person: bytes for the terminal."""
    NOTE = 17
    """To the person: a sentence of the daemon's own, in UTF-8."""
    STATUS = 18
    """To the person, last: the exit status as a shell says it, one byte."""
    FAILED = 19
    """To the person, last: why there is no status, a sentence in UTF-8."""


class BadFrame(ValueError):
    """The other end broke the protocol; says how."""


Frame = tuple[Kind, bytes]


def encode(kind: Kind, data: bytes = b"") -> bytes:
    """Return one frame; more bytes than fit are an error of the caller's."""
    return _HEAD.pack(kind, len(data)) + data


def encode_all(kind: Kind, data: bytes) -> bytes:
    """Return as many frames as the bytes need."""
    return b"".join(encode(kind, data[at : at + LIMIT]) for at in range(0, len(data), LIMIT))


def encode_window(rows: int, columns: int) -> bytes:
    """Return the frame that says how large the terminal is."""
    return encode(Kind.WINDOW, _WINDOW.pack(min(max(rows, 1), LIMIT), min(max(columns, 1), LIMIT)))


def encode_text(kind: Kind, text: str) -> bytes:
    """Return the frame of a sentence, cut where it would not fit."""
    return encode(kind, text.encode(errors="replace")[:LIMIT])


def window_of(data: bytes) -> tuple[int, int]:
    """Return rows and columns. Raises `BadFrame`."""
    if len(data) != _WINDOW.size:
        raise BadFrame("a window has four bytes")
    rows, columns = _WINDOW.unpack(data)
    return max(rows, 1), max(columns, 1)


class Decoder:
    """Takes bytes as they come and gives whole frames; `allowed` are those that this end may get.

    It holds less than one frame beside what it was just fed.
    """

    def __init__(self, *allowed: Kind) -> None:
        self._allowed = frozenset(allowed)
        self._held = b""

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that are whole now. Raises `BadFrame`; nothing can be read after that."""
        held, at = self._held + data, 0
        frames: list[Frame] = []
        while len(held) - at >= _HEAD.size:
            number, length = _HEAD.unpack_from(held, at)
            if number not in self._allowed:
                raise BadFrame(f"a frame of kind {number} is not expected")
            end = at + _HEAD.size + length
            if len(held) < end:
                break
            frames.append((Kind(number), held[at + _HEAD.size : end]))
            at = end
        self._held = held[at:]
        return frames
