"""How each driver that runs on this host is opened for a measurement, and what its figures are called."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from bench.daemon import STATE
from runnerd.machines.driver import Driver

DRIVERS = ("qemu", "process", "fake")
"""`fake` keeps its machines in memory: what it costs is the pool's own."""

OpenDriver = Callable[[], AbstractAsyncContextManager[Driver]]


def suffix(driver: str) -> str:
    """What is added to the names of a driver's figures: nothing for the one that is the default."""
    return "" if driver == "qemu" else f"_{driver}"


def opening(driver: str, folder: Path, templates: Path = STATE / "snapshots") -> OpenDriver:
    """Open a driver whose machines lie in a folder; images are those there are, templates where said."""
    if driver == "fake":
        from runnerd.machines.fake import open_fake_driver

        return lambda: open_fake_driver()
    if driver == "process":
        from runnerd.machines.process import open_process_driver

        return lambda: open_process_driver(root=folder / "machines")
    from runnerd.machines.qemu.driver import open_qemu_driver

    return lambda: open_qemu_driver(state=folder, images=STATE / "images", snapshots=templates)


@asynccontextmanager
async def opened(driver: str) -> AsyncIterator[Driver]:
    """A driver with a folder of its own."""
    STATE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=STATE) as folder:
        async with opening(driver, Path(folder))() as found:
            yield found
