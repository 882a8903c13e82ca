"""What machines cost: a clone, a lease, a step, many at once, their memory."""

from __future__ import annotations

import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from bench.daemon import STATE
from bench.results import Figures, single, spread
from runnerd.actors.pool import PoolActor
from runnerd.machines.driver import Command, Machine, Size
from runnerd.machines.journal import MachineNote
from runnerd.machines.kinds import Kind, Rules
from runnerd.machines.qemu.driver import QemuDriver, open_qemu_driver
from runnerd.messages import LeaseMachine
from runnerd.supervise.mailbox import Mailbox
from runnerd.supervise.reply import Reply

SIZE = Size(vcpus=1, memory=512, disk=1024)
CLONES, LEASES, STEPS, MANY, BUILDERS = 40, 40, 40, 32, 2


def measure() -> Figures:
    """Every figure of machines alone."""
    return trio.run(_measure)


async def _measure() -> Figures:
    pids: dict[str, int] = {}

    async def journal(note: MachineNote) -> None:
        if note.pid is not None:
            pids[note.id] = note.pid

    figures: Figures = {}
    async with open_driver(journal) as driver:
        template = await driver.build_template("default", SIZE)

        async def make() -> Machine:
            machine = await driver.clone(template)
            await machine.thaw()
            return machine

        times = []
        for _ in range(CLONES):
            started = time.perf_counter()
            machine = await make()
            times.append((time.perf_counter() - started) * 1000)
            await machine.destroy()
        figures["clone_thawed"] = spread(times)

        machines: list[Machine] = []
        left = iter(range(MANY))

        async def builder() -> None:
            for _ in left:
                machines.append(await make())

        started = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(BUILDERS):
                nursery.start_soon(builder)
        figures["clones_32_ready"] = single((time.perf_counter() - started) * 1000, "ms")
        await trio.sleep(2)
        figures["warm_private"] = spread([_private(pids[machine.id]) for machine in machines], "MiB")
        for machine in machines:
            await machine.destroy()

        machine = await make()
        await machine.put("/home/runner/work/_temp/true.sh", b"true")
        figures["bare_bash"] = spread([await bash(machine) for _ in range(STEPS + 5)][5:])
        await machine.destroy()
    figures["lease_warm"] = spread(await _leases(journal))
    return figures


@asynccontextmanager
async def open_driver(journal: object = None) -> AsyncIterator[QemuDriver]:
    """A driver with a state folder of its own, and the images and templates that are there."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=STATE) as folder:
        async with open_qemu_driver(
            state=Path(folder),
            images=STATE / "images",
            snapshots=STATE / "snapshots",
            **({"journal": journal} if journal else {}),
        ) as driver:
            yield driver


async def bash(machine: Machine) -> float:
    """What the guest itself needs for a `run: true`: one bash, in ms."""

    async def ignore(stream: str, data: bytes) -> None:
        await trio.lowlevel.checkpoint()

    command = Command(argv=("bash", "-e", f"{machine.paths.temp}/true.sh"), env={"PATH": "/usr/bin:/bin"})
    started = time.perf_counter()
    assert (await machine.exec(command, ignore)).success
    return (time.perf_counter() - started) * 1000


async def _leases(journal: object) -> list[float]:
    """From asking the pool to having a machine, in ms, while one is warm."""
    mailbox: Mailbox[LeaseMachine] = Mailbox(8)
    rules = Rules(min_idle=2, memory=4096, builders=BUILDERS)
    pool = PoolActor(mailbox, partial(open_driver, journal), {"default": Kind(size=SIZE)}, rules)  # type: ignore[arg-type]
    times = []
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        for number in range(LEASES):
            await trio.sleep(0.7)  # long enough for the pool to be full again
            reply: Reply[Machine] = Reply()
            started = time.perf_counter()
            await mailbox.send(LeaseMachine("default", number, reply))
            machine = await reply.wait()
            times.append((time.perf_counter() - started) * 1000)
            await machine.destroy()
        nursery.cancel_scope.cancel()
    return times


def _private(pid: int) -> float:
    """The memory of a process that no other shares, in MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024
