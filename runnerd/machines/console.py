"""The end of what a machine's console said, kept in memory: bounded, and drained at a bounded rate."""

from __future__ import annotations

import os
import re
import socket

import trio

KEPT = 16384
"""Bytes that are kept."""

_CHUNK = 16384
_PAUSE = 0.02
"""A guest that floods its console is held back, not the daemon: about 0.8 MB a second at most."""

_CAUSE = re.compile(
    r"Kernel panic - not syncing|Out of memory|No space left|"
    r"runnerd-init:|qemu-system[^:]*:|(?:Error|Exception):"
)
"""What a line holds that says why a machine ended, rather than what followed."""

_UNPRINTABLE = re.compile(r"[^\x20-\x7e]+")


class Console:
    """The reader of one console."""

    def __init__(self, ours: socket.socket) -> None:
        """Take over our end of the socket pair; QEMU holds the other."""
        self._socket = trio.socket.from_stdlib_socket(ours)
        self._kept = bytearray()

    async def run(self) -> None:
        """Read until the machine ends."""
        try:
            while data := await self._socket.recv(_CHUNK):
                self._keep(data)
                if len(data) == _CHUNK:
                    await trio.sleep(_PAUSE)
        except (OSError, trio.ClosedResourceError):
            pass
        finally:
            self._socket.close()

    def drain(self) -> None:
        """Take what is there already, without waiting; at most what is kept."""
        for _ in range(KEPT // _CHUNK + 1):
            try:
                data = self._raw_recv()
            except OSError:
                return
            if not data:
                return
            self._keep(data)

    def tail(self) -> str:
        """What it said last, as one line of printable text: what tells a cause, else the last lines."""
        text = self._kept.decode("ascii", "replace").replace("\r", "\n")
        said = [_UNPRINTABLE.sub(" ", line).strip() for line in text.split("\n")]
        said = [line for line in said if line]
        causes = [line for line in said if _CAUSE.search(line)]
        # Of an exception in the agent the last line of its traceback tells, and comes before the panic.
        return " | ".join(causes[-2:] or said[-3:])[-500:]

    def lines(self) -> tuple[str, ...]:
        """All that is kept, as printable lines; one whose beginning is lost is left out."""
        text = self._kept.decode("utf-8", "replace").replace("\r", "\n")
        return printable_lines(text if len(self._kept) < KEPT else text.partition("\n")[2])

    @property
    def text(self) -> bytes:
        """What is kept, as it came."""
        return bytes(self._kept)

    def close(self) -> None:
        """Stop reading; safe to call twice."""
        self._socket.close()

    def _raw_recv(self) -> bytes:
        # A second socket object on the same connection: the one that trio holds can only be awaited.
        with socket.socket(fileno=os.dup(self._socket.fileno())) as copy:
            return copy.recv(_CHUNK, socket.MSG_DONTWAIT)

    def _keep(self, data: bytes) -> None:
        self._kept += data
        del self._kept[:-KEPT]


def printable_lines(text: str) -> tuple[str, ...]:
    """The lines of a hostile text that say anything; tabs stay, what else does not print is a space."""
    cleaned = ("".join(c if c.isprintable() or c == "\t" else " " for c in line) for line in text.split("\n"))
    return tuple(line.rstrip() for line in cleaned if line.strip())
