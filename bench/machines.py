"""What machines of each driver cost: a clone, a lease, a step, an end, many at once, their memory."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import trio

from bench.daemon import STATE
from bench.drivers import DRIVERS, OpenDriver, opened, opening, suffix
from bench.results import Figures, single, spread
from runnerd.actors.pool import PoolActor
from runnerd.machines.driver import Command, Driver, Machine, Size
from runnerd.machines.kinds import Kind, Rules
from runnerd.machines.sweep import descendants
from runnerd.messages import LeaseMachine
from runnerd.supervise.mailbox import Mailbox
from runnerd.supervise.reply import Reply

SIZE = Size(vcpus=1, memory=512, disk=1024)
CLONES, LEASES, STEPS, MANY, BUILDERS = 40, 40, 40, 32, 2
USED = 8
TOUCHED = 128
"""MiB that the job of a used machine had in memory at once."""
FIRSTS = 3

Make = Callable[[], Awaitable[Machine]]


def measure() -> Figures:
    """Every figure of machines alone, of each driver that has it."""
    figures: Figures = {}
    for driver in DRIVERS:
        found = trio.run(_of_pool if driver == "fake" else _of_machines, driver)
        figures |= {name + suffix(driver): figure for name, figure in found.items()}
    return figures


async def _of_machines(name: str) -> Figures:
    """What a driver's machines cost, and the pool with them."""
    figures: Figures = {}
    async with opened(name) as driver:
        template = await driver.build_template("default", SIZE)

        async def make() -> Machine:
            machine = await driver.clone(template)
            await machine.thaw()
            return machine

        figures |= await one_after_the_other(make, CLONES)
        figures |= await crowd(make, MANY)
        machine = await make()
        figures["bare_bash"] = spread([await bash(machine) for _ in range(STEPS + 5)][5:])
        await machine.destroy()
        if driver.capabilities.snapshot:
            figures |= await kept(driver, make, STEPS // 2)
    return figures | await _of_pool(name) | await first_warm(name)


async def one_after_the_other(make: Make, count: int) -> Figures:
    """From asking for a clone to one that is thawed, and the end of one that ran nothing."""
    made, ended = [], []
    for _ in range(count):
        started = time.perf_counter()
        machine = await make()
        made.append(_since(started))
        started = time.perf_counter()
        await machine.destroy()
        ended.append(_since(started))
    return {"clone_thawed": spread(made), "destroy": spread(ended)}


async def crowd(make: Make, count: int) -> Figures:
    """Many machines at once: when the last is ready, and their memory, idle and after a job that used it."""
    others = set(descendants(os.getpid()))
    machines: list[Machine] = []
    left = iter(range(count))

    async def builder() -> None:
        for _ in left:
            machines.append(await make())

    started = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(BUILDERS):
            nursery.start_soon(builder)
    ready = _since(started)
    await trio.sleep(2)
    idle = _private(others)
    for machine in machines[USED:]:
        await machine.destroy()
    for machine in machines[:USED]:
        await run(machine, "dd", "if=/dev/zero", "of=/dev/null", f"bs={TOUCHED}M", "count=1")
    used = _private(others)
    for machine in machines[:USED]:
        await machine.destroy()
    return {
        f"clones_{count}_ready": single(ready, "ms"),
        "warm_private": spread(idle, "MiB"),
        "used_private": spread(used, "MiB"),
    }


async def kept(driver: Driver, make: Make, count: int) -> Figures:
    """A machine kept between two steps, and one brought back from that, thawed; and what is on the disk."""
    keeping, back, sizes = [], [], []
    machine = await make()
    await machine.lease()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=STATE) as folder:
        for number in range(count):
            await bash(machine)
            into = Path(folder) / str(number)
            started = time.perf_counter()
            await machine.snapshot(into, key=None, limit=8 << 30)
            keeping.append(_since(started))
            sizes.append(sum(path.stat().st_size for path in into.iterdir()) / (1 << 20))
            started = time.perf_counter()
            again = await driver.restore(into, key=None)
            await again.thaw()
            back.append(_since(started))
            await bash(again)
            await again.destroy()
    await machine.destroy()
    return {
        "snapshot": spread(keeping),
        "restore_thawed": spread(back),
        "snapshot_size": spread(sizes, "MiB"),
    }


async def _of_pool(name: str) -> Figures:
    return {"lease_warm": spread(await leases(partial(opened, name), LEASES))}


async def leases(open_driver: OpenDriver, count: int) -> list[float]:
    """From asking the pool to having a machine, in ms, while one is warm."""
    mailbox: Mailbox[LeaseMachine] = Mailbox(8)
    rules = Rules(min_idle=2, memory=4096, builders=BUILDERS)
    pool = PoolActor(mailbox, open_driver, {"default": Kind(size=SIZE)}, rules)  # type: ignore[arg-type]
    times = []
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        for number in range(count):
            await trio.sleep(0.7)  # long enough for the pool to be full again
            started = time.perf_counter()
            machine = await lease(mailbox, number)
            times.append(_since(started))
            await machine.destroy()
        nursery.cancel_scope.cancel()
    return times


async def first_warm(name: str) -> Figures:
    """From opening the driver on a host that has the image and no template to the first lease."""
    times = []
    for _ in range(FIRSTS):
        with tempfile.TemporaryDirectory(prefix="bench-", dir=STATE) as folder:
            open_driver = opening(name, Path(folder), Path(folder) / "templates")
            mailbox: Mailbox[LeaseMachine] = Mailbox(8)
            rules = Rules(min_idle=1, memory=4096, builders=1)
            started = time.perf_counter()
            pool = PoolActor(mailbox, open_driver, {"default": Kind(size=SIZE)}, rules)  # type: ignore[arg-type]
            async with trio.open_nursery() as nursery:
                await nursery.start(pool.run)
                machine = await lease(mailbox, 1)
                times.append(_since(started))
                await machine.destroy()
                nursery.cancel_scope.cancel()
    return {"first_warm": spread(times)}


async def lease(mailbox: Mailbox[LeaseMachine], job: int) -> Machine:
    """Ask the pool for a machine and wait for it."""
    reply: Reply[Machine] = Reply()
    await mailbox.send(LeaseMachine("default", job, reply))
    return await reply.wait()


async def bash(machine: Machine) -> float:
    """What the guest itself needs for a `run: true`: one bash, in ms."""
    script = f"{machine.paths.temp}/true.sh"
    await machine.put(script, b"true")
    started = time.perf_counter()
    await run(machine, "bash", "-e", script)
    return _since(started)


async def run(machine: Machine, *words: str) -> None:
    """Run a command that has to succeed."""

    async def ignore(stream: str, data: bytes) -> None:
        await trio.lowlevel.checkpoint()

    done = await machine.exec(Command(argv=words, env={"PATH": "/usr/bin:/bin"}), ignore)
    if not done.success:
        raise SystemExit(f"{' '.join(words)} in a machine came to {done}")


def _since(started: float) -> float:
    return (time.perf_counter() - started) * 1000


def _private(others: set[int]) -> list[float]:
    """The memory that each process below this one shares with no other, in MiB, but for those there were."""
    found = []
    for pid in set(descendants(os.getpid())) - others:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        found.append(sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024)
    return found
