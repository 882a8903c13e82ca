"""Reads objects of one repository through one long-lived `git cat-file` instead of a process each time."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import trio

from runnerd.git import process
from runnerd.git.process import Git, GitError

_HEADER = 4096
_ANSWER_TIMEOUT = 10.0
_TREE_LINE = re.compile(rb"0?([1-7][0-7]{4,5}) ([^\0]+)\0(.{20})", re.DOTALL)


class Info(NamedTuple):
    """What an object is; `size` in bytes."""

    sha: str
    kind: str
    size: int


class Entry(NamedTuple):
    """One line of a tree; `mode` as git writes it (100644, 100755, 120000, 160000, 40000)."""

    mode: str
    name: bytes
    sha: str


class Objects:
    """The objects of one repository. Starts git when first asked, again after it ended; `close` ends it.

    Names are what `git rev-parse` takes; the caller has checked them. Requests of several tasks queue.
    """

    def __init__(self, git: Git, folder: Path) -> None:
        self._git = git
        self._folder = folder
        self._lock = trio.Lock()
        self._process: trio.Process | None = None
        self._buffer = bytearray()

    @property
    def idle(self) -> bool:
        """Whether a git is kept running here and nobody waits for it."""
        return self._process is not None and not self._lock.locked()

    async def info(self, name: str) -> Info | None:
        """Say what an object is; None when there is none of this name."""
        async with self._exchange():
            return await self._ask("info", name)

    async def read(self, name: str, *, limit: int) -> tuple[Info, bytes] | None:
        """Return an object and its bytes; None when there is none.

        Raises `GitError` when it has more than `limit` bytes, before any of them is read.
        """
        async with self._exchange():
            found = await self._ask("info", name)
            if found is None:
                return None
            if found.size > limit:
                raise TooLarge(f"{found.kind} {found.sha} has {found.size} bytes; at most {limit} are read")
            # By its id, so that both answers are about the same object.
            if await self._ask("contents", found.sha) != found:
                raise GitError(f"object {found.sha} of {self._folder.name} changed while it was read")
            body = await self._take(found.size)
            await self._take(1)
            return found, body

    async def tree(self, name: str, *, limit: int) -> list[Entry] | None:
        """Return the lines of a tree in git's order; None when the name is no tree."""
        answer = await self.read(name, limit=limit)
        if answer is None or answer[0].kind != "tree":
            return None
        return parse_tree(answer[1])

    async def close(self) -> None:
        """End the git behind this; safe to call twice, and the next request starts another."""
        running, self._process = self._process, None
        self._buffer.clear()
        if running is not None:
            await process.end(running)

    @asynccontextmanager
    async def _exchange(self) -> AsyncIterator[None]:
        """One request at a time, bounded; whatever cuts an answer short ends the git that was giving it."""
        async with self._lock:
            with trio.move_on_after(_ANSWER_TIMEOUT) as scope:
                try:
                    if self._process is None or self._process.poll() is not None:
                        await self.close()
                        self._process = await self._git.open("cat-file", "--batch-command", cwd=self._folder)
                    yield
                except TooLarge:
                    raise
                except trio.BrokenResourceError as error:
                    await self.close()
                    raise GitError(f"`git cat-file` ended in {self._folder}") from error
                except BaseException:
                    await self.close()
                    raise
            if scope.cancelled_caught:
                raise GitError(f"`git cat-file` did not answer for {_ANSWER_TIMEOUT:g} s in {self._folder}")

    async def _ask(self, command: str, name: str) -> Info | None:
        assert self._process is not None
        assert self._process.stdin is not None
        if "\n" in name or "\0" in name:
            raise GitError(f"{name!r} is not the name of an object")
        await self._process.stdin.send_all(f"{command} {name}\n".encode())
        words = (await self._line()).rsplit(" ", 2)
        if len(words) == 3 and words[2].isdigit():
            return Info(words[0], words[1], int(words[2]))
        return None

    async def _line(self) -> str:
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > _HEADER:
                raise GitError("`git cat-file` gave an answer without an end")
            await self._fill()
        line = self._buffer[:end].decode(errors="replace")
        del self._buffer[: end + 1]
        return line

    async def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            await self._fill()
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    async def _fill(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        chunk = await self._process.stdout.receive_some(1 << 16)
        if not chunk:
            raise GitError(f"`git cat-file` ended in {self._folder}")
        self._buffer += chunk


class TooLarge(GitError):
    """An object is larger than its reader takes."""


def parse_tree(body: bytes) -> list[Entry]:
    """Read a tree object: `mode SP name NUL` and twenty bytes of id, until its end.

    Raises `GitError` for anything else: git takes objects from a remote without looking into them.
    """
    entries = []
    at = 0
    while at < len(body):
        line = _TREE_LINE.match(body, at)
        if line is None:
            raise GitError("a tree of the repository is malformed")
        entries.append(Entry(line[1].decode(), line[2], line[3].hex()))
        at = line.end()
    return entries
