"""A job's log on disk: appended line by line while the job runs, bounded, readable at any moment.

One line is `2026-11-23T18:22:09.123456Z TEXT`, or `… [step 3] TEXT` when it is of a step that runs in the
background. A line that looks so by itself gets its own step's prefix too: no text passes for another's.
The bytes on disk are bounded by limits per step and per job; what is dropped to hold them is said in the
log itself.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType

import trio

from runnerd import log

_log = log.get("joblog")

LINE = 64 << 10
"""Bytes of text in one line; a longer one goes on in the next, with a time of its own."""

TAIL = 1 << 20
"""Bytes at most that are kept of the end of a step whose log is too long."""

FLOOR = 4 << 10
"""Bytes that every step may log, even when the job's limit is used up."""

PAUSE = 0.1
"""Seconds between writes to disk: a line is readable at the latest so long after it came."""

MARK = len("2026-11-23T18:22:09.123456")
"""Bytes of the time that a line begins with, but for its Z."""

BUFFER = 256 << 10
"""Bytes that may wait for the disk before whoever logs has to wait as well."""

_ATTRIBUTED = re.compile(rb"\[step \d+\] ").match

_threads = trio.CapacityLimiter(4)


def log_path(root: Path, run: int, job: int) -> Path:
    """Where a job's log lies under the state directory."""
    return root / "logs" / str(run) / f"{job}.log"


async def read(path: Path, offset: int, limit: int) -> tuple[bytes, int]:
    """Bytes of a log from `offset`, at most `limit`, and the offset to go on from.

    Ends at the end of a line where it can; empty at the end of the log and when there is none yet.
    """
    return await trio.to_thread.run_sync(partial(_read, path, offset, limit), limiter=_threads)


async def tail(
    path: Path, since: float | None, until: float | None, lines: int = 40, *, step: int | None = None
) -> str:
    """The last lines that were logged between two times (seconds since the epoch), without their times.

    None leaves a side open. With `step` only this step's lines, whoever logged beside it, without their
    mark. Looked for in the last `TAIL` bytes; empty where there is no log.
    """
    return await trio.to_thread.run_sync(partial(_last, path, since, until, lines, step), limiter=_threads)


class Cap:
    """Bounds one step's log: its head passes, then only its tail is kept. Pure.

    `passing` says whether the head is not full yet.
    """

    def __init__(self, allowance: int) -> None:
        self._keep = min(TAIL, allowance // 4)
        self._head = allowance - self._keep
        self.passing = True
        self._tail: deque[bytes] = deque()
        self._held = 0
        self.dropped_lines = 0
        self.dropped_bytes = 0

    def take(self, line: bytes) -> bool:
        """Whether the line is to be written now; otherwise it is held or dropped."""
        if self.passing and len(line) <= self._head:
            self._head -= len(line)
            return True
        self.passing = False
        self._tail.append(line)
        self._held += len(line)
        while self._held > self._keep:
            oldest = self._tail.popleft()
            self._held -= len(oldest)
            self.dropped_lines += 1
            self.dropped_bytes += len(oldest)
        return False

    def rest(self) -> list[bytes]:
        """The tail, at the end of the step."""
        return list(self._tail)


class JobLog:
    """The log of one job, open for one attempt: `async with JobLog(path, …) as log`.

    It appends, so that an earlier attempt's lines stay. A step may use `limit_step` bytes and at most half
    of what is left of the job's `limit_job`, but always `FLOOR`: the last step is never silent. When the
    disk refuses, the job goes on; how much is missing is said as soon as something can be written.
    """

    def __init__(self, path: Path, limit_job: int, limit_step: int, clock: Callable[[], float]) -> None:
        self._path = path
        self._limit_step = limit_step
        self._left = limit_job
        self._clock = clock
        self._caps: dict[int, Cap] = {}
        self._step = 0
        self._background: set[int] = set()
        self._buffer: list[bytes] = []
        self._size = 0
        self._arrived = trio.Event()
        self._writing = trio.Lock()
        self._file: int | None = None
        self._missing = 0
        self._manager: AbstractAsyncContextManager[trio.Nursery] | None = None
        self._nursery: trio.Nursery | None = None

    async def __aenter__(self) -> JobLog:
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()
        self._nursery.start_soon(self._keep_flushing)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._manager is not None
        assert self._nursery is not None
        self._nursery.cancel_scope.cancel(reason="the log is closed")
        try:
            # The flusher never raises, so the block's own error need not pass through the nursery.
            await self._manager.__aexit__(None, None, None)
        finally:
            for number in list(self._caps):
                self._end(number)
            with trio.CancelScope(shield=True):
                await self._flush()
            if self._file is not None:
                os.close(self._file)
                self._file = None

    async def line(self, text: str, step: int | None = None) -> None:
        """Add one line of a step's output (None: the step begun last).

        A text of several lines is added as such. Control characters stay; NUL and what is not Unicode is
        replaced.
        """
        number = self._step if step is None else step
        cap = self._caps.get(number)
        if cap is None:
            cap = self._caps[number] = Cap(self._allowance())
        for piece in _pieces(text):
            stamped, passed = self._stamp(self._attributed(piece, number)), cap.passing
            if cap.take(stamped):
                self._put(stamped)
            elif passed:
                self._say(number, b"this step logs too much: from here only the end is kept")
        await self._settle()

    async def note(self, text: str) -> None:
        """Add a line of the daemon's own, whatever the limits say."""
        for piece in _pieces(text):
            self._put(self._stamp(piece))
        await self._settle()

    async def begin_step(self, number: int, *, background: bool = False) -> None:
        """A step begins, with limits of its own; before the first, the lines are of the job's set-up.

        Unless it is in the `background`, the step before it is over.
        """
        if background:
            self._background.add(number)
        else:
            self._end(self._step)
            self._step = number
        await self._settle()

    async def end_step(self, number: int) -> None:
        """The step is over: what was kept of its end is written."""
        self._end(number)
        await self._settle()

    def _end(self, number: int) -> None:
        cap = self._caps.pop(number, None)
        if cap is None:
            return
        if cap.dropped_lines:
            dropped = b"%d bytes in %d lines" % (cap.dropped_bytes, cap.dropped_lines)
            self._say(number, dropped + b" were dropped here: the log of this step is too long")
        for line in cap.rest():
            self._put(line)

    def _say(self, number: int, text: bytes) -> None:
        self._put(self._stamp(self._attributed(b"[runnerd] " + text, number)))

    def _attributed(self, text: bytes, number: int) -> bytes:
        if number in self._background or _ATTRIBUTED(text):
            return b"[step %d] %s" % (number, text)
        return text

    def _allowance(self) -> int:
        return max(FLOOR, min(self._limit_step, self._left // 2))

    def _stamp(self, text: bytes) -> bytes:
        now = datetime.fromtimestamp(self._clock(), UTC)
        return b"%s %s\n" % (now.strftime("%Y-%m-%dT%H:%M:%S.%fZ").encode(), text)

    def _put(self, line: bytes) -> None:
        self._buffer.append(line)
        self._size += len(line)
        self._left -= len(line)
        self._arrived.set()

    async def _settle(self) -> None:
        if self._size >= BUFFER:
            await self._flush()
        else:
            await trio.lowlevel.checkpoint()

    async def _keep_flushing(self) -> None:
        while True:
            await self._arrived.wait()
            await self._flush()
            await trio.sleep(PAUSE)

    async def _flush(self) -> None:
        """Write what waits, in order. What is taken to be written is written, even when cancelled."""
        async with self._writing:
            data, self._buffer, self._size = b"".join(self._buffer), [], 0
            self._arrived = trio.Event()
            if data:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(self._write, data, limiter=_threads)

    def _write(self, data: bytes) -> None:
        """Append to the file; runs in a thread. The disk's refusal is remembered, never raised."""
        try:
            if self._file is None:
                self._file = _open(self._path)
            if self._missing:
                sorry = b"[runnerd] %d bytes are missing here: the disk refused them" % self._missing
                _append(self._file, self._stamp(sorry))
                self._missing = 0
            _append(self._file, data)
        except OSError as error:
            if not self._missing:
                _log.error("a job's log cannot be written", path=str(self._path), problem=error.strerror)
            self._missing += len(data)


def _append(file: int, data: bytes) -> None:
    """Write all of it, or none of it as far as later readers see."""
    before = os.fstat(file).st_size
    try:
        while data:
            data = data[os.write(file, data) :]
    except OSError:
        os.ftruncate(file, before)
        raise


def _open(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o640)
    size = os.fstat(file).st_size
    if size and os.pread(file, 1, size - 1) != b"\n":
        os.write(file, b"\n")  # a daemon died within its last line
    return file


def _last(path: Path, since: float | None, until: float | None, lines: int, step: int | None) -> str:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL))
            data = file.read(TAIL)
    except OSError:
        return ""
    found = data.split(b"\n")
    if size > TAIL:
        found = found[1:]  # begins within a line
    first = b"" if since is None else _mark(since)
    last = b"9" if until is None else _mark(until)
    kept = [line.partition(b" ")[2] for line in found if line and first <= line[:MARK] <= last]
    if step is not None:
        kept = _of_step(kept, step)
    return b"\n".join(kept[-lines:]).decode("utf-8", "replace")


def _of_step(lines: list[bytes], step: int) -> list[bytes]:
    """One step's lines, without their mark; all marked ones where it ran in the background."""
    own = b"[step %d] " % step
    # In the foreground only a text that looks like a mark has one in front.
    background = any(line.startswith(own) and not _ATTRIBUTED(line, len(own)) for line in lines)
    return [
        line.removeprefix(own)
        for line in lines
        if line.startswith(own) or not (background or _ATTRIBUTED(line))
    ]


def _mark(at: float) -> bytes:
    """A time as lines begin with it."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f").encode()


def _read(path: Path, offset: int, limit: int) -> tuple[bytes, int]:
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            data = file.read(limit) or b""
    except FileNotFoundError:
        return b"", offset
    end = data.rfind(b"\n") + 1
    if end:
        data = data[:end]
    return data, offset + len(data)


def _pieces(text: str) -> list[bytes]:
    """The text as lines of clean UTF-8, none longer than `LINE`."""
    pieces = []
    for line in text.encode("utf-8", "replace").replace(b"\0", "\ufffd".encode()).split(b"\n"):
        while len(line) > LINE:
            end = LINE
            while line[end] & 0xC0 == 0x80:  # not within a character
                end -= 1
            pieces.append(line[:end])
            line = line[end:]
        pieces.append(line)
    return pieces
