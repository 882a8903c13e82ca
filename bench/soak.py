"""Machines made, leased and destroyed again and again: what they leave behind, which is to be nothing.

`python -m bench soak [--driver fake|process|qemu]... [--cycles N]`, or `make soak`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import trio

from bench.daemon import STATE, ensure_image
from bench.drivers import DRIVERS, OpenDriver, opening
from bench.machines import lease
from runnerd.actors.pool import PoolActor
from runnerd.machines.driver import Command, Size
from runnerd.machines.kinds import Kind, Rules
from runnerd.machines.sweep import descendants
from runnerd.messages import LeaseMachine
from runnerd.supervise.mailbox import Mailbox

SIZE = Size(vcpus=1, memory=256, disk=512)
WARM_UP = 3
"""Cycles before the first count: what is loaded or opened once for all is no leak."""


class Traces(msgspec.Struct, frozen=True, kw_only=True):
    """What this process and its machines hold on this host at one moment."""

    processes: int
    descriptors: int
    files: int
    """In the folder of machines and, by runnerd's names, in those for temporary files."""
    groups: int
    """Control groups that are named after runnerd: others may make some meanwhile."""
    mounts: int
    """In the folder of machines and in what is named after runnerd."""
    resident: float
    """MiB of this process; told, not judged."""

    def left_since(self, before: Traces) -> dict[str, int]:
        """What there is more of than before, by name; nothing is as it should be."""
        names = ("processes", "descriptors", "files", "groups", "mounts")
        more = {name: getattr(self, name) - getattr(before, name) for name in names}
        return {name: number for name, number in more.items() if number > 0}


def traces(folder: Path) -> Traces:
    """Count everything now."""
    temporary = [path for path in Path(tempfile.gettempdir()).glob("runnerd-*") if path.is_dir()]
    return Traces(
        processes=len(descendants(os.getpid())),
        descriptors=len(os.listdir("/proc/self/fd")),
        files=sum(len(folders) + len(files) for _, folders, files in os.walk(folder)) + len(temporary),
        groups=_groups(),
        mounts=mounts(Path("/proc/self/mounts").read_text(), folder),
        resident=_resident(),
    )


def mounts(table: str, folder: Path) -> int:
    """How many lines of a mount table are at or below the folder, or have runnerd's name in their place."""
    places = [line.split()[1] for line in table.splitlines()]
    return sum(place == str(folder) or f"{folder}/" in place or "/runnerd" in place for place in places)


def _groups() -> int:
    """Control groups below the ones this process is in that are runnerd's."""
    found = set()
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        base = Path("/sys/fs/cgroup") / controllers.removeprefix("name=") / path.lstrip("/")
        found |= {folder for folder, _, _ in os.walk(base) if "/runnerd" in folder}
    return len(found)


def _resident() -> float:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


async def soak(open_driver: OpenDriver, cycles: int, folder: Path) -> tuple[Traces, Traces, float]:
    """Lease, use and destroy so many machines of a pool; return what there was before, after, and seconds.

    Both counts are taken while the pool is open and after all machines are gone.
    """
    mailbox: Mailbox[LeaseMachine] = Mailbox(8)
    rules = Rules(min_idle=0, memory=4096, builders=1)
    actor = PoolActor(mailbox, open_driver, {"default": Kind(size=SIZE)}, rules)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        await nursery.start(actor.run)
        for number in range(WARM_UP):
            await _cycle(mailbox, number)
        before = await _settled(folder)
        started = time.perf_counter()
        for number in range(cycles):
            await _cycle(mailbox, number)
        seconds = time.perf_counter() - started
        after = await _settled(folder, before)
        nursery.cancel_scope.cancel()
    return before, after, seconds


async def _settled(folder: Path, before: Traces | None = None) -> Traces:
    """Count once nothing changes, or nothing is left: a machine's end takes a moment longer than asking."""
    found = traces(folder)
    for _ in range(40):
        await trio.sleep(0.05)
        last, found = found, traces(folder)
        if (before is None and not found.left_since(last) and not last.left_since(found)) or (
            before is not None and not found.left_since(before)
        ):
            break
    return found


async def _cycle(mailbox: Mailbox[LeaseMachine], number: int) -> None:
    machine = await lease(mailbox, number)
    try:
        done = await machine.exec(
            Command(argv=("/bin/sh", "-c", _script(number)), env={"PATH": "/usr/bin:/bin"}),
            _ignored,
        )
        assert done.success, done
    finally:
        await machine.destroy()


def _script(number: int) -> str:
    """Leave a process behind; each tenth also holds the output, which is waited for half a second."""
    return "echo here; sleep 1000 " + ("&" if number % 10 == 0 else ">/dev/null 2>&1 &")


async def _ignored(stream: str, data: bytes) -> None:
    await trio.lowlevel.checkpoint()


def main(words: list[str]) -> int:
    """Soak each driver, print what was counted, and return 1 when anything was left behind."""
    parser = argparse.ArgumentParser(prog="python -m bench soak", description=__doc__)
    parser.add_argument("--driver", action="append", choices=DRIVERS, help="process and qemu unless named")
    parser.add_argument("--cycles", type=int, default=1000, help="machines of each driver")
    wanted = parser.parse_args(words)
    left = False
    for driver in wanted.driver or ["process", "qemu"]:
        if driver == "qemu":
            ensure_image()
        STATE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="soak-", dir=STATE) as folder:
            before, after, seconds = trio.run(
                soak, opening(driver, Path(folder)), wanted.cycles, Path(folder)
            )
        more = after.left_since(before)
        left |= bool(more)
        print(
            f"{driver}: {wanted.cycles} cycles in {seconds:.1f} s "
            f"({1000 * seconds / max(1, wanted.cycles):.0f} ms each), "
            f"resident {before.resident:.1f} -> {after.resident:.1f} MiB, left behind: "
            + (", ".join(f"{number} {name}" for name, number in more.items()) or "nothing"),
            file=sys.stdout,
            flush=True,
        )
        print(f"  before {before}\n  after  {after}")
    return 1 if left else 0
