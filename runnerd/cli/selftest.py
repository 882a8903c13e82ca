"""`runnerd doctor --selftest`: the configured driver makes a machine, runs something in it and ends it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from runnerd.cli.doctor import Finding
    from runnerd.config import Config

SECONDS = 300.0
"""For all of it: a template under software emulation takes its time."""
SCRIPT = "echo runnerd-$((40 + 2))"
SAID = b"runnerd-42\n"


def selftest(settings: Config, *, clock: Callable[[], float] = time.monotonic) -> Iterator[Finding]:
    """Do with a machine all that a job needs of one, and say how long each part took.

    Nothing is left behind. The first part that fails is a problem with its reason, and the last one.
    """
    from runnerd.cli.doctor import Finding

    steps: list[tuple[str, float]] = []
    name = settings.machines.driver_name
    try:
        with tempfile.TemporaryDirectory(prefix="runnerd-selftest-") as folder:
            trio.run(partial(_try, settings, Path(folder), steps, clock))
    except Exception as error:
        parts = [error]
        while isinstance(parts[0], ExceptionGroup):
            parts = list(parts[0].exceptions)
        done = ", ".join(f"{what} {took:.2f} s" for what, took in steps)
        reason = str(parts[0]) or type(parts[0]).__name__
        yield Finding("self-test", "problem", f"{name}: {reason}" + (f" (done: {done})" if done else ""))
        return
    yield Finding(
        "self-test", "good", f"{name}: " + ", ".join(f"{what} {took:.2f} s" for what, took in steps)
    )


async def _try(
    settings: Config, folder: Path, steps: list[tuple[str, float]], clock: Callable[[], float]
) -> None:
    from runnerd.daemon import drivers
    from runnerd.machines.driver import Command
    from runnerd.machines.journal import unwritten

    started = clock()

    def over(what: str) -> None:
        nonlocal started
        steps.append((what, clock() - started))
        started = clock()

    said = bytearray()

    async def hear(stream: str, data: bytes) -> None:
        said.extend(data)

    with trio.fail_after(SECONDS):
        async with drivers.open_driver(settings, unwritten, folder) as driver:
            kinds = drivers.machine_kinds(settings)
            image, kind = next(iter(kinds.items()))
            template = await driver.build_template(kind.image or image, kind.size)
            over("template")
            machine = await driver.clone(template)
            try:
                await machine.thaw()
                over("machine")
                await machine.lease()
                command = Command(argv=("/bin/sh", "-c", SCRIPT), env={"PATH": "/usr/bin:/bin"})
                ended = await machine.exec(command, hear)
                if not ended.success or bytes(said) != SAID:
                    raise RuntimeError(f"a command ended with {ended.code} and said {bytes(said[:100])!r}")
                over("command")
                await machine.put(f"{machine.paths.home}/selftest", b"data")
                if await machine.get(f"{machine.paths.home}/selftest", limit=10) != b"data":
                    raise RuntimeError("a file did not come back as it was written")
                over("files")
            finally:
                await machine.destroy()
            over("end")
