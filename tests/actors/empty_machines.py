"""Machines without an inside for the pool's tests, and a pool of them."""

from contextlib import asynccontextmanager
from pathlib import Path

import trio

from runnerd.actors.pool import PoolActor
from runnerd.machines.driver import (
    DESTROYED,
    Capabilities,
    Identity,
    MachineLost,
    NoMachine,
    Paths,
    Size,
    Template,
)
from runnerd.machines.kinds import Kind, Rules
from runnerd.messages import DescribePool, LeaseMachine
from runnerd.supervise.mailbox import Mailbox
from runnerd.supervise.reply import Reply

SIZE = Size(vcpus=1, memory=100, disk=64)


class MachineWithoutInside:
    """A machine that takes a while to thaw, can be told to fail, and remembers how it ended."""

    paths = Paths()
    capabilities = Capabilities(isolated=True)
    identity: Identity | None = None

    def __init__(self, number: int, driver: "DriverOfEmptyMachines", generation: str) -> None:
        self.id, self.image, self.reason = f"m{number}", "default", ""
        self.lost = trio.Event()
        self.leased = False
        self.generation = generation
        self._driver = driver

    async def thaw(self) -> Identity:
        await trio.sleep(self._driver.thaw_time)
        if self._driver.broken_thaws:
            self._driver.broken_thaws -= 1
            raise MachineLost("it never answered")
        if self.generation in self._driver.broken:
            raise MachineLost(f"its kernel of {self.generation} panicked")
        return Identity(hostname=self.id, boot_id=self.id, machine_id=self.id)

    async def lease(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._driver.broken_leases:
            self._driver.broken_leases -= 1
            raise MachineLost("the clock would not be set")
        self.leased = True

    def die(self, reason: str) -> None:
        self.reason = reason
        self.lost.set()

    async def destroy(self) -> None:
        self._driver.alive.discard(self.id)
        self.die(self.reason or DESTROYED)


class DriverOfEmptyMachines:
    """Makes machines out of nothing and counts them; a driver's context destroys what is left."""

    name = "empty"
    capabilities = Capabilities(isolated=True)
    overhead = 0
    shared = 0

    def __init__(self) -> None:
        self.template_time, self.thaw_time = 0.0, 0.1
        self.broken_thaws, self.broken_leases, self.made = 0, 0, 0
        self.alive: set[str] = set()
        self.templates: list[str] = []
        """The images whose templates were asked for."""
        self.absent: set[str] = set()
        """Images, and generations, that cannot have one."""
        self.held: set[str] = set()
        """The keys of those that were not dropped."""
        self.broken: set[str] = set()
        """Generations whose machines do not thaw."""
        self.machines: list[MachineWithoutInside] = []
        self.reaped = 0
        self.keys: list[bytes | None] = []
        self.sizes: list[Size | None] = []

    @asynccontextmanager
    async def open(self):
        try:
            yield self
        finally:
            for machine in self.machines:
                await machine.destroy()

    async def build_template(self, image: str, size: Size, generation: str = "") -> Template:
        self.templates.append(image)
        await trio.sleep(self.template_time)
        if image in self.absent or generation in self.absent:
            raise NoMachine(f"there is no image {image!r}: build it")
        key = f"{image}-{size.memory}-{generation}"
        self.held.add(key)
        return Template(key=key, image=image, size=size, generation=generation)

    async def drop_template(self, template: Template) -> None:
        self.held.discard(template.key)

    async def clone(self, template: Template) -> MachineWithoutInside:
        self.made += 1
        machine = MachineWithoutInside(self.made, self, template.generation)
        self.machines.append(machine)
        self.alive.add(machine.id)
        return machine

    async def restore(
        self, snapshot: Path, *, key: bytes | None, size: Size | None = None
    ) -> MachineWithoutInside:
        self.keys.append(key)
        self.sizes.append(size)
        if not snapshot.name.startswith("whole"):
            raise NoMachine("the snapshot cannot be gone back to: the disk is not complete")
        machine = await self.clone(await self.build_template("default", SIZE))
        machine.image = snapshot.name.removeprefix("whole-")
        return machine

    async def adopt_or_reap(self) -> int:
        self.reaped += 1
        return 0


class Running:
    """A pool actor under test with its mailbox."""

    def __init__(self, driver, **rules) -> None:
        self.mailbox = Mailbox(16)
        limits = {"min_idle": 1, "memory": 300, "builders": 2} | rules
        given = {
            name: limits.pop(name)
            for name in ("snapshot_key", "patient", "history", "records")
            if name in limits
        }
        kinds = limits.pop("kinds", {"default": Kind(size=SIZE)})
        self.told = []
        """What the journal heard, with what the driver had done by then."""
        given["journal"] = lambda news: self.told.append((news, set(driver.alive)))
        self.actor = PoolActor(self.mailbox, driver.open, kinds, Rules(**limits), **given)

    def heard(self):
        """Each machine's stages, and why it ended."""
        lives = {}
        for news, _ in self.told:
            lives.setdefault(news.id, []).append(news.stage.value)
        return lives, {news.id: news.why for news, _ in reversed(self.told) if news.why}

    async def lease(
        self, job: int = 1, image: str = "default", kept: Path | None = None, by: str = "acme/app"
    ):
        reply = Reply()
        await self.mailbox.send(LeaseMachine(image, job, reply, kept, by))
        return await reply.wait()

    async def describe(self):
        reply = Reply()
        await self.mailbox.send(DescribePool(reply))
        return await reply.wait()
