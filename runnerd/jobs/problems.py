"""A job's problem matchers: read from its machine, tried in a process of their own."""

from __future__ import annotations

import os
import posixpath
import re
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec
import trio

import runnerd
from runnerd.jobs.commands import MESSAGE, SHORT_TEXT
from runnerd.jobs.matchers import LEVELS, BadMatcher, Found, Matcher, owners_of, read_matchers
from runnerd.jobs.matching import Answer, Ask
from runnerd.model import Annotation

_FILE = 256 << 10
"""Bytes of a file of matchers at most."""
_ALL = 100
"""Matchers a job may have at a time."""
_PATIENCE = 30.0
"""Seconds for one answer; each pattern is given up much sooner."""
_ANSWER = 64 << 20
_KNOWN = 1000
_COLOUR = re.compile(r"\x1b\[[0-9;]*m?")

_START = "import sys; sys.path.insert(0, sys.argv[1]); from runnerd.jobs.matching import main; main()"

Read = Callable[[str, int], Awaitable[bytes]]
"""Reads a file of the machine, of at most so many bytes; raises OSError or ValueError."""


class Problems:
    """What finds problems in the output of a job's steps. `close` it with the job."""

    def __init__(self, read: Read, is_file: Callable[[str], Awaitable[bool]], workspace: str) -> None:
        self._read = read
        self._is_file = is_file
        self._workspace = workspace
        self._matchers: list[Matcher] = []
        self._process: trio.Process | None = None
        self._busy = trio.Lock()
        self._files: dict[str, bool] = {}

    @property
    def looking(self) -> bool:
        """Whether there is any matcher."""
        return bool(self._matchers)

    @property
    def matchers(self) -> tuple[Matcher, ...]:
        """Those of the job, in the order they were added."""
        return tuple(self._matchers)

    def resume(self, matchers: Sequence[Matcher]) -> None:
        """Have these matchers, which were a job's once; none may have been added yet."""
        self._matchers = list(matchers)

    async def add(self, path: str) -> None:
        """Take the matchers of a file of the machine; raises `BadMatcher`, OSError and ValueError."""
        matchers = read_matchers(await self._read(posixpath.join(self._workspace, path), _FILE))
        if len(self._matchers) + len(matchers) > _ALL:
            raise BadMatcher(f"a job may have {_ALL} problem matchers at a time")
        async with self._busy:
            answer = await self._ask(Ask(verb="add", matchers=matchers))
            if answer is None:
                raise BadMatcher("its patterns need too much time or memory")
            if answer.error:
                raise BadMatcher(answer.error)
            self._drop([matcher.owner for matcher in matchers])
            self._matchers += matchers

    async def remove(self, *, owner: str = "", path: str = "") -> None:
        """Take an owner's matcher away, or those of a file; raises as `add` does."""
        owners: tuple[str, ...] = (owner,)
        if path:
            owners = owners_of(await self._read(posixpath.join(self._workspace, path), _FILE))
        async with self._busy:
            self._drop(owners)
            if self._process is not None:
                await self._ask(Ask(verb="remove", owners=owners))

    async def look(self, step: int, lines: Sequence[str]) -> tuple[dict[int, Found], list[str]]:
        """Return the problems in a step's next lines, by place, and what there is to warn of."""
        async with self._busy:
            if not self._matchers:
                return {}, []
            stripped = tuple(_COLOUR.sub("", line) for line in lines)
            answer = await self._ask(Ask(verb="lines", step=step, lines=stripped))
            if answer is None:
                self._matchers.clear()
                return {}, ["The problem matchers need too much time or memory: they are switched off"]
            self._drop(answer.slow)
            return answer.found, [
                f"The problem matcher {owner!r} took too long over a line: it was removed"
                for owner in answer.slow
            ]

    async def end(self, step: int) -> None:
        """A step's output is over: what follows belongs to no problem that began in it."""
        if self._process is not None:
            async with self._busy:
                await self._ask(Ask(verb="end", step=step))

    async def annotation(self, found: Found, step: int) -> Annotation:
        """Return a problem as an annotation; a file that is not in the workspace is left out."""
        level = found.severity.lower() or LEVELS[0]
        return Annotation(
            level=level,
            message=found.message[:MESSAGE],
            path=(await self._path(found))[:SHORT_TEXT],
            line=_number(found.line),
            column=_number(found.column) if _number(found.line) is not None else None,
            step=step,
        )

    async def close(self) -> None:
        """End the process; safe to call twice."""
        with trio.move_on_after(5, shield=True):
            await self._kill()

    async def _path(self, found: Found) -> str:
        if not found.file.strip() or "\0" in found.file + found.from_path:
            return ""
        path = posixpath.join(self._workspace, posixpath.dirname(found.from_path), found.file)
        path = posixpath.normpath(path)
        if not path.startswith(self._workspace + "/"):
            return ""
        if path not in self._files:
            if len(self._files) >= _KNOWN:
                self._files.clear()
            self._files[path] = await self._is_file(path)
        return path.removeprefix(self._workspace + "/") if self._files[path] else ""

    def _drop(self, owners: Sequence[str]) -> None:
        gone = {owner.lower() for owner in owners}
        self._matchers = [matcher for matcher in self._matchers if matcher.owner.lower() not in gone]

    async def _ask(self, ask: Ask) -> Answer | None:
        """Ask the process, which is started if there is none; None when it did not come back."""
        try:
            with trio.fail_after(_PATIENCE):
                if self._process is None:
                    self._process = await _start()
                    if self._matchers:
                        await self._exchange(Ask(verb="add", matchers=tuple(self._matchers)))
                return await self._exchange(ask)
        except (trio.TooSlowError, trio.BrokenResourceError, msgspec.DecodeError, EOFError, OSError):
            await self._kill()
            return None
        except trio.Cancelled:
            # An answer that nobody took would be taken for the next one.
            with trio.CancelScope(shield=True):
                await self._kill()
            raise

    async def _exchange(self, ask: Ask) -> Answer:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        await self._process.stdin.send_all(msgspec.json.encode(ask) + b"\n")
        answer = bytearray()
        while not answer.endswith(b"\n"):
            data = await self._process.stdout.receive_some()
            if not data or len(answer) > _ANSWER:
                raise EOFError
            answer += data
        return msgspec.json.decode(answer, type=Answer)

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        await process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                await stream.aclose()


async def _start() -> trio.Process:
    root = str(Path(runnerd.__file__).parents[1])
    return await trio.lowlevel.open_process(
        [sys.executable, "-I", "-c", _START, root],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={},
        start_new_session=True,
    )


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 9 else None
