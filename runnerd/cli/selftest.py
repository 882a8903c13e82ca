"""`runnerd doctor --selftest`: the configured driver does with a machine all that a job may need of it."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from runnerd.model import Finding

if TYPE_CHECKING:
    from runnerd.config import Config
    from runnerd.daemon.drivers import Open
    from runnerd.machines.driver import Driver, Machine

SECONDS = 300.0
"""For all of it: a template under software emulation takes its time."""
SCRIPT = "echo runnerd-$((40 + 2))"
SAID = b"runnerd-42\n"
DRIVERS = ("qemu", "firecracker", "fcctl", "process")


class _Trial:
    """What was done, with the seconds it took, and what was not, with its reason."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.done: list[str] = []
        self.not_done: list[str] = []
        self._clock = clock
        self._started = clock()

    def over(self, what: str) -> None:
        """Note that a part is over; the next begins."""
        now = self._clock()
        self.done.append(f"{what} {now - self._started:.2f} s")
        self._started = now


def selftest(
    settings: Config,
    *,
    clock: Callable[[], float] = time.monotonic,
    open_driver: Open | None = None,
) -> Iterator[Finding]:
    """Try the configured driver; say how long each part took, and what was not run.

    Nothing is left behind. The first part that fails is a problem with its reason, and the last one.
    """
    name = settings.machines.driver_name
    trial = _Trial(clock)
    try:
        with tempfile.TemporaryDirectory(prefix="runnerd-selftest-") as folder:
            trio.run(partial(_try, settings, Path(folder), trial, open_driver))
    except Exception as error:
        parts = [error]
        while isinstance(parts[0], ExceptionGroup):
            parts = list(parts[0].exceptions)
        done = ", ".join(trial.done) or "nothing"
        reason = str(parts[0]) or type(parts[0]).__name__
        yield Finding("self-test", "problem", f"{name}: {reason} (run until then: {done})")
    else:
        yield Finding("self-test", "good", f"{name}: {', '.join(trial.done)}")
        if trial.not_done:
            yield Finding("self-test", "warning", f"{name}: not run: {'; '.join(trial.not_done)}")
    others = ", ".join(each for each in DRIVERS if each != name)
    yield Finding("self-test", "good", f"not run: the drivers that are not configured ({others})")


async def _try(settings: Config, folder: Path, trial: _Trial, open_driver: Open | None) -> None:
    from runnerd.daemon import drivers
    from runnerd.machines.journal import unwritten

    open_ = open_driver or drivers.open_driver
    with trio.fail_after(SECONDS):
        async with open_(settings, unwritten, folder) as driver:
            name, kind = next(iter(drivers.machine_kinds(settings).items()))
            template = await driver.build_template(kind.image or name, kind.size)
            trial.over("template")
            machine = await driver.clone(template)
            trial.over("clone")
            try:
                await machine.thaw()
                trial.over("thaw")
                await machine.lease()
                trial.over("lease")
                await _command(machine)
                trial.over("exec")
                await _write(machine, b"first")
                trial.over("files")
                secrets = settings.snapshots.secrets
                machine = await _keep(driver, machine, folder / "kept", trial, secrets=secrets)
            finally:
                await machine.destroy()
            trial.over("destroy")


async def _keep(driver: Driver, machine: Machine, kept: Path, trial: _Trial, *, secrets: bool) -> Machine:
    """Keep the machine, change it, and go back; the machine that is there in the end.

    Where it cannot be kept encrypted that matters to who wants machines with `secrets` kept.
    """
    from runnerd.machines.driver import NotKept, RollsBack

    if not machine.capabilities.snapshot:
        trial.not_done.append(f"snapshot and restore, for the {driver.name} driver keeps no machine")
        return machine
    key: bytes | None = os.urandom(32)
    try:
        await machine.snapshot(kept, key=key, limit=1 << 40)
    except NotKept as problem:
        if secrets:
            trial.not_done.append(f"an encrypted snapshot: {problem}")
        key = None
        await machine.snapshot(kept, key=key, limit=1 << 40)
    trial.over("snapshot")
    await _write(machine, b"second")
    if isinstance(driver, RollsBack):
        copy = await driver.roll_back(machine, kept)
    else:
        await machine.destroy()  # a host may have room for one
        copy = await driver.restore(kept, key=key)
    try:
        await copy.thaw()
        await copy.lease()
        trial.over("restore")
        if (found := await copy.get(f"{copy.paths.home}/selftest", limit=10)) != b"first":
            raise RuntimeError(f"a machine that was gone back to holds what came later: {found!r}")
        await _command(copy)
    except BaseException:
        await copy.destroy()
        raise
    return copy


async def _command(machine: Machine) -> None:
    from runnerd.machines.driver import Command

    said = bytearray()

    async def hear(stream: str, data: bytes) -> None:
        said.extend(data)

    command = Command(argv=("/bin/sh", "-c", SCRIPT), env={"PATH": "/usr/bin:/bin"})
    ended = await machine.exec(command, hear)
    if not ended.success or bytes(said) != SAID:
        raise RuntimeError(f"a command ended with {ended.code} and said {bytes(said[:100])!r}")


async def _write(machine: Machine, data: bytes) -> None:
    path = f"{machine.paths.home}/selftest"
    await machine.put(path, data)
    if await machine.get(path, limit=10) != data:
        raise RuntimeError("a file did not come back as it was written")
