"""Tries an image that was just built: a machine boots from it, and has the programs that were promised."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import trio

if TYPE_CHECKING:
    from runnerd.config import Config
    from runnerd.daemon.drivers import Open
    from runnerd.machines.driver import Driver
    from runnerd.machines.images import Image

SECONDS = 300.0
"""For all of it: booting under software emulation takes its time."""

SCRIPT = r"""
for each in "$@"; do command -v "$each" >/dev/null || echo "it lacks $each"; done
for each in git node python3; do
    if command -v "$each" >/dev/null; then "$each" --version >/dev/null 2>&1 || echo "$each does not run"; fi
done
if command -v sudo >/dev/null; then sudo -n true 2>/dev/null || echo "sudo does not let the job's user"; fi
echo tried
"""


async def try_image(
    settings: Config, image: Image, promises: Sequence[str], *, open_driver: Open | None = None
) -> None:
    """Boot a machine from a generation that is not current yet and look for the promised programs.

    Raises `BuildFailed` with what is wrong.
    """
    from runnerd.daemon import drivers
    from runnerd.machines.distribution import BuildFailed
    from runnerd.machines.driver import MachineLost, NoMachine
    from runnerd.machines.journal import unwritten

    open_ = open_driver or drivers.open_driver
    said, problem = b"", ""
    known = (NoMachine, MachineLost, OSError, trio.TooSlowError)
    try:
        with tempfile.TemporaryDirectory(prefix="runnerd-trial-") as name:
            folder = Path(name)
            await trio.to_thread.run_sync(_shelve, image, folder)
            own = msgspec.structs.replace(settings, state_directory=folder)
            with trio.fail_after(SECONDS):
                async with open_(own, unwritten, folder / "own") as driver:
                    # Caught in here: what leaves a driver's context may be wrapped in a group.
                    try:
                        said = await _boot(driver, image.name, promises)
                    except known as error:
                        problem = str(error) or type(error).__name__
    except known as error:
        problem = str(error) or f"it took longer than {SECONDS:.0f} s"
    if problem:
        raise BuildFailed(f"{_refused(image)}: {problem}")
    lines = said.decode("utf-8", "replace").splitlines()
    if lines != ["tried"]:
        raise BuildFailed(f"{_refused(image)}: {'; '.join(lines[:10]) or 'its shell said nothing'}")


async def _boot(driver: Driver, name: str, promises: Sequence[str]) -> bytes:
    """Start a machine, run the script as a job would be run, and return what it said."""
    from runnerd.machines.driver import Command, Size

    said = bytearray()

    async def hear(stream: str, data: bytes) -> None:
        if len(said) < 1 << 16:
            said.extend(data)

    template = await driver.build_template(name, Size(vcpus=1, memory=512, disk=1024))
    machine = await driver.clone(template)
    try:
        await machine.thaw()
        await machine.lease()
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        words = ("/bin/sh", "-c", SCRIPT, "sh", *promises)
        await machine.exec(Command(argv=words, env={"PATH": path}), hear)
    finally:
        await machine.destroy()
    return bytes(said)


def _shelve(image: Image, folder: Path) -> None:
    """Make a state directory in which the generation is the current one."""
    (folder / "own").mkdir()
    home = folder / "images" / image.name
    home.mkdir(parents=True)
    (home / "current").symlink_to(image.path)


def _refused(image: Image) -> str:
    return (
        f"the new generation {image.digest[:12]} of {image.name} failed its trial and does not take over "
        "(build with --untried to have it all the same)"
    )
