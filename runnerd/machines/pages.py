"""What a machine has changed of its template's memory, read and written through its monitor's process.

A clone maps the template's memory privately: a page that it wrote to is its own, and the kernel says which
those are (Linux, `Documentation/admin-guide/mm/pagemap.rst`). The machine must not run meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

PAGE = os.sysconf("SC_PAGE_SIZE")
_ENTRY = 8
_READ = 1 << 20
"""Bytes of the page map looked at together."""
_OWN = bytes(bool(high & 0xC0) and not high & 0x20 for high in range(256))
"""By the highest byte of an entry (of eight, the lowest first): whether the page is in memory or swapped out,
and of no file."""


class Area(NamedTuple):
    """One part of a process's addresses, and where it begins in the file that is mapped there."""

    start: int
    end: int
    offset: int


class Pages:
    """The private pages of one mapped file in one process; `close` it. All block and raise OSError."""

    def __init__(self, descriptors: tuple[int, int, int], *, inode: int, size: int) -> None:
        """Take over descriptors of a process's `maps`, `pagemap` and `mem`.

        The file is the one in memory of this inode, with `size` bytes. Raises OSError when it is not mapped
        as a clone maps it; the descriptors are closed then.
        """
        self._descriptors = descriptors
        maps, self._pagemap, self._memory = descriptors
        self.size = size
        try:
            self._areas = areas(_whole(maps), inode)
            covered = 0
            for area in self._areas:
                covered += (area.end - area.start) * (area.offset == covered)
            if covered != size:
                raise OSError("the machine's memory is not mapped as that of a clone")
        except BaseException:
            self.close()
            raise

    def changed(self) -> Iterator[tuple[int, int]]:
        """Yield what is the process's own: offsets in the file and lengths, in order."""
        start = end = 0
        for at, length in self._private():
            if at == end and end:
                end += length
                continue
            if end:
                yield start, end - start
            start, end = at, at + length
        if end:
            yield start, end - start

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes that lie within one run of `changed`."""
        data = os.pread(self._memory, length, self._address(offset))
        if len(data) != length:
            raise OSError("the machine's memory ended while it was read")
        return data

    def write(self, offset: int, data: bytes) -> None:
        """Change bytes, which makes their pages the process's own."""
        if offset < 0 or offset + len(data) > self.size:
            raise OSError("there is no such memory")
        if os.pwrite(self._memory, data, self._address(offset)) != len(data):
            raise OSError("the machine's memory ended while it was written")

    def close(self) -> None:
        """Let go of the process; safe to call twice."""
        descriptors, self._descriptors = self._descriptors, (-1, -1, -1)
        for descriptor in descriptors:
            if descriptor >= 0:
                os.close(descriptor)

    def _address(self, offset: int) -> int:
        for area in self._areas:
            if area.offset <= offset < area.offset + area.end - area.start:
                return area.start + offset - area.offset
        raise OSError("there is no such memory")

    def _private(self) -> Iterator[tuple[int, int]]:
        for area in self._areas:
            at, last = area.start // PAGE * _ENTRY, area.end // PAGE * _ENTRY
            shift = area.offset - area.start
            while at < last:
                data = os.pread(self._pagemap, min(_READ, last - at), at)
                if not data:
                    raise OSError("the machine's page map ended while it was read")
                # A machine has a hundred thousand pages and more: none of them is looked at in Python.
                own = data[_ENTRY - 1 :: _ENTRY].translate(_OWN)
                first, begin = at // _ENTRY, own.find(1)
                while begin >= 0:
                    end = own.find(0, begin)
                    if end < 0:
                        end = len(own)
                    yield (first + begin) * PAGE + shift, (end - begin) * PAGE
                    begin = own.find(1, end)
                at += len(data)


def open_process(pid: int) -> tuple[int, int, int]:
    """Open a process's `maps`, `pagemap` and `mem`. Raises OSError, in a sentence where we may not."""
    opened: list[int] = []
    try:
        for name, flags in (("maps", os.O_RDONLY), ("pagemap", os.O_RDONLY), ("mem", os.O_RDWR)):
            opened.append(os.open(f"/proc/{pid}/{name}", flags | os.O_CLOEXEC))
    except BaseException as error:
        for descriptor in opened:
            os.close(descriptor)
        if isinstance(error, PermissionError):
            raise PermissionError(
                "the machine's memory may not be seen, which takes CAP_SYS_PTRACE where machines have users "
                "of their own"
            ) from error
        raise
    maps, pagemap, memory = opened
    return maps, pagemap, memory


def areas(maps: bytes, inode: int) -> list[Area]:
    """Return where a file in memory is mapped for writing and privately, in the order of its bytes."""
    found = []
    for line in maps.splitlines():
        words = line.split(maxsplit=5)
        if len(words) < 6 or not words[5].startswith(b"/memfd:") or int(words[4]) != inode:
            continue
        if words[1].startswith(b"rw") and words[1].endswith(b"p"):
            start, end = (int(word, 16) for word in words[0].split(b"-"))
            found.append(Area(start, end, int(words[2], 16)))
    return sorted(found, key=lambda area: area.offset)


def _whole(descriptor: int) -> bytes:
    parts = []
    while part := os.read(descriptor, 1 << 16):
        parts.append(part)
    return b"".join(parts)
