"""Runs the programs that build images, and ends each with all it started: also when we are killed ourselves.

Beside the program, in its process group, a shell reads a pipe whose other end only we have.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence

import trio

PATIENCE = 5.0
"""Seconds for a program that is told to end: it unmounts and removes what it made."""

# The group's number cannot become another's while the shell is in it. A line says that the program has ended
# by itself; the end of the pipe that nobody waits for it any more.
_WATCHED = f"""
pipe=/dev/fd/$1
shift
(
    trap '' TERM
    read -r ended <"$pipe" && exit
    kill -TERM 0
    sleep {PATIENCE:g}
    kill -KILL 0
) </dev/null >/dev/null 2>&1 &
exec "$@"
"""


async def run(
    argv: Sequence[str], *, environ: Mapping[str, str], timeout: float, stdin: int | bytes = b""
) -> subprocess.CompletedProcess[bytes] | None:
    """Run a program to its end; None when it took longer than `timeout` seconds and was ended.

    It has a session of its own. Raises OSError when no process can be started.
    """
    reader, writer = os.pipe()
    try:
        with trio.move_on_after(timeout):
            done = await trio.run_process(
                ["/bin/sh", "-c", _WATCHED, "watched", str(reader), *argv],
                stdin=stdin,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                env=environ,
                pass_fds=(reader,),
                start_new_session=True,
                deliver_cancel=_end_group,
            )
            os.write(writer, b"\n")
            return done
        return None
    finally:
        os.close(writer)
        os.close(reader)


async def _end_group(process: trio.Process) -> None:
    """End a program and its children; those that stay behind are left to the shell."""
    for number, patience in ((signal.SIGTERM, PATIENCE), (signal.SIGKILL, math.inf)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        with trio.move_on_after(patience, shield=True):
            await process.wait()
            return
