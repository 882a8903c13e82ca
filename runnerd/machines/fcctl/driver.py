"""Machines of a remote Firecracker service: asked for, kept account of, and given back on every path."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec
import trio

from runnerd import log
from runnerd.machines.driver import Machine, NoMachine, Paths, Size, Template
from runnerd.machines.execution import LADDER, Rung
from runnerd.machines.fcctl.machine import CAPABILITIES, POLL, READY, Kept, ServiceMachine
from runnerd.machines.fcctl.records import Record, Records
from runnerd.machines.fcctl.service import Service, ServiceDenied, ServiceTrouble, open_service, token_trouble
from runnerd.machines.fcctl.session import PATIENCE
from runnerd.machines.journal import Journal, MachineNote, unwritten

WARNED = 3600.0
"""Seconds between two warnings that the token will run out."""
SETTLED = 120.0
"""Seconds after which a request for a machine that never got an answer will not start one any more."""

_log = log.get(__name__)


@asynccontextmanager
async def open_fcctl_driver(
    address: str,
    token: str | None,
    *,
    state: Path,
    vm_type: str,
    journal: Journal = unwritten,
    paths: Paths | None = None,
    entropy: Callable[[int], bytes] = os.urandom,
    now: Callable[[], float] = time.time,
    ladder: tuple[Rung, ...] = LADDER,
    patience: float = PATIENCE,
    ready: float = READY,
    poll: float = POLL,
) -> AsyncIterator[FcctlDriver]:
    """Machines of type `vm_type` at the service; leaving releases them all. `state` keeps account of them."""
    async with open_service(address, token, now=now) as service:
        make = partial(
            ServiceMachine,
            service,
            paths=paths or Paths(),
            entropy=entropy,
            now=now,
            ladder=ladder,
            patience=patience,
            ready=ready,
            poll=poll,
        )
        driver = FcctlDriver(service, token, Records(state / "fcctl"), vm_type, journal, make, entropy, now)
        try:
            yield driver
        finally:
            with trio.CancelScope(shield=True):
                await driver.close()


class FcctlDriver:
    """See `open_fcctl_driver`. The size of a machine is the service's affair: its interface takes none."""

    name = "fcctl"
    capabilities = CAPABILITIES
    overhead = 0
    shared = 0

    def __init__(
        self,
        service: Service,
        token: str | None,
        records: Records,
        vm_type: str,
        journal: Journal,
        make: Callable[..., ServiceMachine],
        entropy: Callable[[int], bytes],
        now: Callable[[], float],
    ) -> None:
        self._service = service
        self._token = token
        self._records = records
        self._vm_type = vm_type
        self._journal = journal
        self._make = make
        self._entropy = entropy
        self._now = now
        self._seen: set[str] = set()
        self._warned = float("-inf")
        self._machines: dict[str, ServiceMachine] = {}
        """By what the service calls them: it knows one where there were several of ours."""
        self._records_of: dict[str, Record] = {}
        self._asking: set[str] = set()
        self._blocking = trio.CapacityLimiter(4)

    async def build_template(self, image: str, size: Size, generation: str = "") -> Template:
        """See that the service is there, well, and takes the token. Raises `NoMachine`."""
        self._look_at_the_token()
        try:
            await self._service.health()
            await self._service.machines()
        except ServiceTrouble as trouble:
            raise NoMachine(f"the remote Firecracker service cannot be used: {trouble}") from trouble
        return Template(key=f"fcctl-{self._vm_type}", image=image, size=size)

    async def drop_template(self, template: Template) -> None:
        """Nothing is held: the service has its own images."""

    async def clone(self, template: Template) -> Machine:
        """Ask for a machine, unless the token ran out. Raises `NoMachine`, and then none is left behind."""
        self._look_at_the_token()
        name = self._new_name()
        self._asking.add(name)
        try:
            return await self._ask_for(name, template.image)
        finally:
            self._asking.discard(name)

    async def _ask_for(self, name: str, image: str) -> Machine:
        record = Record(name=name, asked=self._now())
        await self._write(record)
        await self._note(name, image, "starting")
        try:
            # Once asked, the answer is waited for: it is the only place where the machine's name stands.
            with trio.CancelScope(shield=True):
                vm = (await self._service.create(self._vm_type, name)).name
        except ServiceDenied as denied:
            await self._forget(record, image)
            raise NoMachine(str(denied)) from denied
        except ServiceTrouble as trouble:
            # Whether a machine was started is not known: the record stays for the sweep to look after.
            raise NoMachine(f"the service gives no machine: {trouble}") from trouble
        return await self._taken_up(msgspec.structs.replace(record, vm=vm), image)

    async def _taken_up(self, record: Record, image: str, mark: str = "") -> ServiceMachine:
        """The machine of ours that the service's is from here on, which is written down."""
        forget = partial(self._forget, record, image)
        machine = self._make(record.ours, record.vm, image, seen=self._seen, forget=forget, mark=mark)
        self._machines[record.vm] = machine
        self._records_of[record.vm] = record
        try:
            with trio.CancelScope(shield=True):
                await self._write(record)
                await self._note(record.ours, image, "running")
            await trio.lowlevel.checkpoint_if_cancelled()
        except BaseException:
            await machine.destroy()
            raise
        return machine

    async def restore(self, snapshot: Path, *, key: bytes | None, size: Size | None = None) -> Machine:
        """Refused: see `roll_back`."""
        raise NoMachine(
            f"the snapshot {snapshot.name} is the remote service's: only the machine itself goes back to it, "
            "and its end is the snapshot's"
        )

    async def roll_back(self, machine: Machine, snapshot: Path) -> Machine:
        """See `driver.RollsBack`. The service knows no other machine: it goes on under the same id there."""
        what = f"the snapshot {snapshot.name} cannot be gone back to"
        try:
            kept = msgspec.json.decode(await trio.Path(snapshot, "snapshot.json").read_bytes(), type=Kept)
        except (OSError, msgspec.MsgspecError) as problem:
            raise NoMachine(f"{what}: {problem}") from problem
        before = self._machines.get(kept.vm)
        if before is None or before.id != machine.id or before.lost.is_set():
            raise NoMachine(f"{what}: it ended with its machine")
        name = self._new_name()
        await self._note(name, before.image, "starting")
        try:
            await self._service.roll_back(kept.vm, kept.snapshot)
            if before.lost.is_set():
                raise NoMachine(f"{what}: its machine ended meanwhile: {before.reason}")
        except BaseException as problem:
            with trio.CancelScope(shield=True):
                await self._note(name, before.image, "gone")
            if isinstance(problem, ServiceTrouble):
                raise NoMachine(f"{what}: {problem}") from problem
            raise
        before.give_up("it was rolled back")
        if before.identity is not None:  # it comes up as itself once more, which makes no twin of it
            self._seen.discard(before.identity.boot_id)
        record = msgspec.structs.replace(self._records_of[kept.vm], machine=name)
        after = await self._taken_up(record, before.image, kept.mark)
        await self._note(before.id, before.image, "gone")
        return after

    async def adopt_or_reap(self) -> int:
        """Release what an earlier daemon left, and what could not be released when its job ended.

        A request whose answer never came is looked after by its name, where the service keeps names; where
        it does not, the log names the machines that nobody accounts for.
        """
        records = await trio.to_thread.run_sync(self._records.all, limiter=self._blocking)
        left = [record for record in records if not self._in_use(record)]
        released = 0
        for record in left:
            if record.vm:
                released += await self._release(record)
        unnamed = [record for record in left if not record.vm and self._now() - record.asked > SETTLED]
        if unnamed:
            released += await self._look_for(unnamed, {record.vm for record in records if record.vm})
        return released

    def _in_use(self, record: Record) -> bool:
        machine = self._machines.get(record.vm)
        return record.name in self._asking or (machine is not None and not machine.lost.is_set())

    async def _release(self, record: Record) -> bool:
        try:
            await self._service.remove(record.vm)
        except ServiceTrouble as trouble:
            _log.error("a machine is still not released", machine=record.ours, problem=str(trouble))
            return False
        await self._forget(record, "")
        return True

    async def _look_for(self, unnamed: list[Record], known: set[str]) -> int:
        try:
            there = (await self._service.machines()).vms
        except ServiceTrouble as trouble:
            _log.error("the service does not list its machines", problem=str(trouble))
            return 0
        released = 0
        for record in unnamed:
            ours = [vm.name for vm in there if record.name in (vm.label, vm.name)]
            if not ours and (strangers := [vm.name for vm in there if vm.name not in known]):
                _log.warning(
                    "a request for a machine was never answered; the service may hold one that nobody uses",
                    asked=record.asked,
                    unaccounted=strangers[:20],
                )
            for vm in ours:
                released += await self._release(msgspec.structs.replace(record, vm=vm))
            if not ours:
                await self._forget(record, "")
        return released

    async def close(self) -> None:
        """Release every machine."""
        async with trio.open_nursery() as nursery:
            for machine in tuple(self._machines.values()):
                nursery.start_soon(machine.destroy)

    async def _write(self, record: Record) -> None:
        await trio.to_thread.run_sync(self._records.write, record, limiter=self._blocking)

    async def _forget(self, record: Record, image: str) -> None:
        self._machines.pop(record.vm, None)
        self._records_of.pop(record.vm, None)
        await trio.to_thread.run_sync(self._records.drop, record.name, limiter=self._blocking)
        await self._note(record.ours, image, "gone")

    async def _note(self, id: str, image: str, state: str) -> None:
        await self._journal(MachineNote(id=id, driver=self.name, image=image, state=state))

    def _new_name(self) -> str:
        return f"runnerd-fcctl-{self._entropy(8).hex()}"

    def _look_at_the_token(self) -> None:
        now = self._now()
        if not (trouble := token_trouble(self._token, now)):
            return
        if token_trouble(self._token, now, ahead=0.0):
            raise NoMachine(trouble)
        if now >= self._warned + WARNED:
            self._warned = now
            _log.warning(trouble)
