"""Cuts a stream of hostile bytes into lines of text: bounded, whatever the encoding, nothing lost."""

from __future__ import annotations

import codecs
from typing import NamedTuple

LONGEST = 64 << 10
"""Characters after which a line without an end is handed on in pieces."""


class Piece(NamedTuple):
    """A line, or one part of an overlong line: `first` begins it, `last` ends it."""

    text: str
    first: bool
    last: bool


class Lines:
    """Cuts one stream at LF, CR LF and CR, as GitHub's runner does; bytes that are no UTF-8 become U+FFFD."""

    def __init__(self, longest: int = LONGEST) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._longest = longest
        self._parts: list[str] = []
        self._length = 0
        self._inside = False
        self._after_return = False

    def feed(self, data: bytes) -> list[Piece]:
        """Take the next bytes, and return the lines that are complete."""
        return self._cut(self._decoder.decode(data))

    def end(self) -> list[Piece]:
        """The stream is over: return the line that had no end, if there is one."""
        pieces = self._cut(self._decoder.decode(b"", True))
        if self._length or self._inside:
            pieces.append(self._take(last=True))
        return pieces

    def _cut(self, text: str) -> list[Piece]:
        if self._after_return and text:
            # The CR was a line's end already; its LF is not another one.
            self._after_return = False
            text = text.removeprefix("\n")
        if not text:
            return []
        self._after_return = text.endswith("\r")
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        pieces = []
        for line in lines[:-1]:
            pieces += self._add(line)
            pieces.append(self._take(last=True))
        pieces += self._add(lines[-1])
        return pieces

    def _add(self, text: str) -> list[Piece]:
        pieces = []
        while self._length + len(text) > self._longest:
            room = self._longest - self._length
            self._parts.append(text[:room])
            pieces.append(self._take(last=False))
            text = text[room:]
        if text:
            self._parts.append(text)
            self._length += len(text)
        return pieces

    def _take(self, *, last: bool) -> Piece:
        piece = Piece("".join(self._parts), not self._inside, last)
        self._parts = []
        self._length = 0
        self._inside = not last
        return piece
