"""Reads a workflow file where it can do no harm: small ones in a thread, others in a process of their own.

A thread cannot be stopped and shares the interpreter; a process has a limit of time and memory and is
killed at it. Each file gets a fresh one, so that nothing of a file outlives its reading.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec
import trio

import runnerd
from runnerd import log
from runnerd.reading import exchange
from runnerd.workflow.model import Limits, Problem, Workflow, WorkflowErrors
from runnerd.workflow.reader import Found, load, recall, remember

SMALL = 16 << 10
"""Characters of a file that is read in a thread: at worst some tens of milliseconds, a few at a time."""
TIMEOUT = 20.0
"""Seconds that one file may take; the worst file within the language's limits takes one or two."""
MEMORY = 512 << 20
"""Bytes of address space that reading one file may take; the worst one takes a tenth."""
ANSWER = 32 << 20
"""Bytes of an answer."""
KILL_GRACE = 5.0
"""Seconds in which a killed process is gone."""

_QUICK = Limits(second_opinion=0)
_ROOT = str(Path(runnerd.__file__).parents[1])
_START = (
    f"import runpy, sys; sys.path.insert(0, {_ROOT!r}); "
    "runpy.run_module('runnerd.reading', run_name='__main__', alter_sys=True)"
)
COMMAND = (sys.executable, "-I", "-c", _START)
"""How the process is started; the two limits follow."""

_log = log.get("reading")


class Reader:
    """Reads files for all actors, one at a time apart, and shares what it read by the text's hash."""

    def __init__(
        self,
        *,
        small: int = SMALL,
        timeout: float = TIMEOUT,
        memory: int = MEMORY,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._small, self._timeout, self._memory, self._command = small, timeout, memory, tuple(command)
        self._threads = trio.CapacityLimiter(1)
        self._processes = trio.CapacityLimiter(1)

    async def load_whole(
        self, text: str, path: str, files: Mapping[str, str], missing: Mapping[str, str]
    ) -> Workflow:
        """Like `load`, with the reusable workflows it calls: `files` by the name `uses` gives them.

        `missing` says of those that are not there why. What was read is not remembered.
        """
        question = exchange.Question(text=text, path=path, files=dict(files), missing=dict(missing))
        found = await self._read(question)
        if isinstance(found, tuple):
            raise WorkflowErrors(found)
        return found

    async def load(self, text: str, path: str, *, features: frozenset[str] = frozenset()) -> Workflow:
        """Like `workflow.load_cached`; the event loop goes on meanwhile, whatever the text.

        Raises `WorkflowErrors`, also for a file that takes too long or too much memory; OSError where no
        process can be had. That it took too long is not remembered: another time may be a better one.
        """
        found = recall(text, path, features=features)
        if found is None:
            found = await self._read(exchange.Question(text=text, path=path, features=tuple(features)))
            remember(text, path, found, features=features)
        if isinstance(found, tuple):
            raise WorkflowErrors(found)
        return found

    async def _read(self, question: exchange.Question) -> Found:
        if len(question.text) + sum(map(len, (question.files or {}).values())) <= self._small:
            quick = partial(
                load,
                question.text,
                path=question.path,
                features=frozenset(question.features),
                limits=_QUICK,
                resolve=exchange.resolver(question),
            )
            try:
                return await trio.to_thread.run_sync(quick, limiter=self._threads)
            except WorkflowErrors as errors:
                if not errors.doubtful:
                    return errors.problems
        async with self._processes:
            return await self._read_apart(question)

    async def _read_apart(self, asked: exchange.Question) -> Found:
        text, path = asked.text, asked.path
        try:
            question = exchange.encode(asked)
        except UnicodeEncodeError:
            raise _refused(path, "a lone surrogate is not a character") from None
        seconds = str(math.ceil(self._timeout) + 1)
        process = await trio.lowlevel.open_process(
            [*self._command, str(self._memory), seconds],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
            start_new_session=True,
        )
        try:
            with trio.move_on_after(self._timeout) as clock:
                data = await _converse(process, question)
        finally:
            await _end(process)
        if clock.cancelled_caught:
            _log.warning(
                "reading a workflow file was stopped", path=path, size=len(text), after=self._timeout
            )
            raise _refused(
                path,
                f"reading the file took longer than {self._timeout:g} s and was stopped: make it simpler",
            )
        try:
            answer = await trio.to_thread.run_sync(exchange.answer, data, limiter=self._threads)
        except (msgspec.MsgspecError, RecursionError, ValueError):
            _log.warning("reading a workflow file failed", path=path, status=process.returncode)
            raise _refused(
                path, f"the process that read the file ended without an answer ({_how(process.returncode)})"
            ) from None
        return answer.problems if answer.workflow is None else answer.workflow


async def _converse(process: trio.Process, question: bytes) -> bytes:
    """Ask, and return what the process says until it closes its output; at most so much of it."""
    assert process.stdin is not None
    assert process.stdout is not None
    out, source = process.stdin, process.stdout

    async def ask() -> None:
        async with out:
            try:
                await out.send_all(question)
            except trio.BrokenResourceError:
                pass  # it ended early, which the missing answer tells

    said = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        while len(said) <= ANSWER and (piece := await source.receive_some(1 << 16)):
            said += piece
        nursery.cancel_scope.cancel()
    if len(said) > ANSWER:
        return b""
    await process.wait()
    return bytes(said)


async def _end(process: trio.Process) -> None:
    """Kill what still runs, as a group, and close the pipes: bounded, safe twice."""
    with trio.CancelScope(shield=True), trio.move_on_after(KILL_GRACE):
        if process.returncode is None:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
        await process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                await trio.aclose_forcefully(stream)


def _how(status: int | None) -> str:
    if status is not None and status < 0:
        return f"killed by signal {-status}"
    return f"exit status {status}"


def _refused(path: str, message: str) -> WorkflowErrors:
    return WorkflowErrors((Problem(path=path, line=1, column=1, message=message),))
