"""The places of a pool: which machine is in which stage, each step told to the journal before it is taken."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec

from runnerd import metrics
from runnerd.machines import pool
from runnerd.machines.driver import Machine
from runnerd.machines.pool import STAGES, Slot
from runnerd.store.records import MachineNews, Stage


class Places:
    """The machines of one pool. A place may be taken before its machine is there, by a name of its own."""

    def __init__(self, clock: Callable[[], float], journal: Callable[[MachineNews], object]) -> None:
        self.slots: dict[str, Slot] = {}
        """By machine or place."""
        self.machines: dict[str, Machine] = {}
        """Those that are there."""
        self.jobs: dict[str, int] = {}
        """Those that have a machine, or a place for one."""
        self.driver = ""
        self._clock = clock
        self._journal = journal
        self._taken = 0

    def take(
        self, purpose: str, image: str, stage: pool.Stage, *, generation: str = "", job: int | None = None
    ) -> str:
        """Take a place for a machine that is not there yet; returns the place's name."""
        self._taken += 1
        name = f"{purpose}-{self._taken}"
        self.slots[name] = Slot(name, image, stage, self._clock(), generation)
        if job is not None:
            self.jobs[name] = job
        return name

    def free(self, name: str) -> None:
        """Give a place up; safe to call for one that is none any more."""
        self.slots.pop(name, None)
        self.jobs.pop(name, None)

    def fill(self, name: str, machine: Machine, stage: pool.Stage, generation: str) -> None:
        """Have a machine take its place, which it keeps until it is `gone`."""
        image, job = self.slots[name].image, self.jobs.get(name)
        self.free(name)
        self.machines[machine.id] = machine
        if job is not None:
            self.jobs[machine.id] = job
        self.slots[machine.id] = Slot(machine.id, image, stage, self._clock(), generation)
        self._tell(self.slots[machine.id], stage)

    def enter(self, machine: str, stage: pool.Stage, *, why: str = "", waited: float = 0.0) -> None:
        """Move a machine to a stage that may follow its own."""
        slot = self.slots[machine]
        if stage not in STAGES[slot.stage]:
            raise AssertionError(f"machine {machine} cannot go from {slot.stage} to {stage}")
        self._tell(slot, stage, why=why, waited=waited)
        self.slots[machine] = msgspec.structs.replace(slot, stage=stage, since=self._clock())

    def leave(self, machine: str, why: str) -> None:
        """Have a machine that is about to be destroyed leave, unless it does already or is gone."""
        slot = self.slots.get(machine)
        if slot is not None and slot.stage is not pool.Stage.LEAVING:
            self.enter(machine, pool.Stage.LEAVING, why=why)

    def gone(self, machine: str) -> None:
        """A machine was destroyed: its place is free."""
        self._tell(self.slots[machine], None)
        self.free(machine)
        del self.machines[machine]

    def stop(self, why: str) -> None:
        """Have every machine leave: whoever made them ends them all now."""
        for machine in self.machines:
            self._tell(self.slots[machine], pool.Stage.LEAVING, why=why)

    def uncount(self, machine: str) -> Slot | None:
        """Return a machine's place and count it for no generation any more; None where it counts for none."""
        slot = self.slots.get(machine)
        if slot is None or not slot.generation:
            return None
        self.slots[machine] = msgspec.structs.replace(slot, generation="")
        return slot

    @asynccontextmanager
    async def or_ended(self, machine: Machine, image: str) -> AsyncIterator[None]:
        """Destroy a machine that something fails on before it has a place, and have the journal know why."""
        try:
            yield
        except BaseException as problem:
            slot = Slot(machine.id, image, pool.Stage.BUILDING, self._clock())
            self._tell(slot, pool.Stage.LEAVING, why=str(problem) or type(problem).__name__)
            await machine.destroy()
            self._tell(slot, None)
            raise

    def count(self) -> None:
        """Say in the metrics how many machines are in each stage."""
        for stage in pool.Stage:
            number = sum(slot.stage is stage for slot in self.slots.values())
            metrics.vm_pool.labels(state=stage.value).set(number)

    def _tell(self, slot: Slot, stage: pool.Stage | None, *, why: str = "", waited: float = 0.0) -> None:
        """Have the journal know that a machine is about to enter a stage; None: that it is gone."""
        self._journal(
            MachineNews(
                id=slot.machine,
                driver=self.driver,
                image=slot.image,
                stage=Stage.GONE if stage is None else Stage(stage.value),
                job=self.jobs.get(slot.machine) if stage is pool.Stage.LEASED else None,
                why=why,
                waited=waited,
            )
        )
