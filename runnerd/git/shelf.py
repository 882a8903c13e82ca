"""Finished files by key: made once however many ask at the same time, the least recently used removed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio


class Shelf:
    """The files of one folder, together at most `size` bytes; it is emptied when first used.

    A key is a plain file name. Whoever gets a file gets a name of its own for it, so that removing it
    here takes nothing away.
    """

    def __init__(self, folder: Path, *, size: int) -> None:
        self._folder = folder
        self._size = size
        self._opened = False
        self._sizes: dict[str, int] = {}
        self._locks: dict[str, trio.Lock] = {}

    async def get(self, key: str, make: Callable[[Path], Awaitable[None]], into: Path) -> None:
        """Put the file of this key at `into`, made by `make(path)` if it is not there yet.

        What `make` raises goes to everybody who waited for this key, one after the other trying again.
        """
        if not self._opened:
            self._opened = True
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True, mode=0o700)
        path = self._folder / key
        lock = self._locks.setdefault(key, trio.Lock())
        try:
            async with lock:
                if key not in self._sizes:
                    await make(path)
                self._sizes[key] = self._sizes.pop(key, 0) or path.stat().st_size
                await trio.to_thread.run_sync(_link, path, into)
        finally:
            if not lock.locked():
                self._locks.pop(key, None)
        for oldest in [other for other in self._sizes if other not in self._locks]:
            if sum(self._sizes.values()) <= self._size:
                break
            self._drop(oldest)

    def _drop(self, key: str) -> None:
        del self._sizes[key]
        (self._folder / key).unlink(missing_ok=True)


def _link(path: Path, into: Path) -> None:
    into.unlink(missing_ok=True)
    try:
        os.link(path, into)
    except OSError:  # another file system, or one without links
        shutil.copyfile(path, into)
