"""Keeps warm machines and hands them out: performs what `machines.pool.decide` decides."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path

import trio

from runnerd import log, metrics
from runnerd.actors import pool_report
from runnerd.actors.pool_images import PoolImages, Records, Unrecorded
from runnerd.actors.pool_places import Places
from runnerd.machines import pool
from runnerd.machines.demand import MEMORY, Demand
from runnerd.machines.driver import (
    DESTROYED,
    Driver,
    Machine,
    MachineLost,
    NoMachine,
    OpenDriver,
    RollsBack,
    Size,
)
from runnerd.machines.kinds import Kind, Rules, limits
from runnerd.messages import (
    DescribePool,
    ImagesChanged,
    LeaseMachine,
    PausePool,
    PoolRestarted,
    RestoreMachine,
)
from runnerd.model import Pause
from runnerd.store.records import MachineNews
from runnerd.supervise.mailbox import Mailbox
from runnerd.supervise.reply import Reply

_log = log.get("pool")

REAP_EVERY = 60.0
"""Seconds between searches for machines that belong to nobody (I5)."""
READY_WITHIN = 240.0
"""Seconds after which the pool serves although images are still being tried: less than its start may take."""
LEASE_TIMEOUT = 5.0
"""Seconds a warm machine may take to become a job's; one that takes longer is destroyed."""


async def _never_paused() -> Pause | None:
    return None


def _no_key() -> bytes | None:
    return None


def _unwritten(news: MachineNews) -> None:
    """A journal for those who keep none."""


async def _nothing_asked(seconds: float) -> Sequence[tuple[str, float]]:
    return ()


class PoolActor:
    """The pool of machines. `paused` tells at each start whether the operator has it paused.

    Each image's template is made when it is first wanted, or ahead of that when there is room. An image
    that has none, and cannot have one, is tried again and again and disturbs no other.

    `snapshot_key` reads the key of what was kept encrypted, each time anew; it may raise OSError.

    `journal` hears of a machine before it enters a stage, and must keep the order. That one is being built
    its driver says, and waits until it is durable. `history` tells each lease of the last so many seconds as
    (image, seconds since it was asked for), oldest first. `records` says which generation of an image is
    current and on trial, and keeps how trials went; without it images have none.

    When it stops or crashes every machine it made is destroyed with its driver: those jobs end as
    `lost`, and who waited is told `PoolRestarted`.
    """

    name = "pool"

    def __init__(
        self,
        mailbox: Mailbox[LeaseMachine | RestoreMachine | DescribePool | PausePool | ImagesChanged],
        open_driver: OpenDriver,
        kinds: Mapping[str, Kind],
        rules: Rules,
        *,
        clock: Callable[[], float] = trio.current_time,
        paused: Callable[[], Awaitable[Pause | None]] = _never_paused,
        patient: bool = True,
        snapshot_key: Callable[[], bytes | None] = _no_key,
        journal: Callable[[MachineNews], object] = _unwritten,
        history: Callable[[float], Awaitable[Sequence[tuple[str, float]]]] = _nothing_asked,
        records: Records | None = None,
    ) -> None:
        self._snapshot_key = snapshot_key
        self._patient = patient
        self._ask_paused = paused
        self._pause: Pause | None = None
        self._mailbox = mailbox
        self._open_driver = open_driver
        self._kinds = kinds
        self._rules = rules
        self._clock = clock
        self._places = Places(clock, journal)
        self._history = history
        self._demand: dict[str, Demand] = {}
        self._waiting: dict[int, tuple[pool.Waiting, LeaseMachine]] = {}
        self._leased_by: dict[int, str] = {}
        """The repositories of the jobs that have machines."""
        self._failing: dict[str, pool.Failing] = {}
        self._images = PoolImages(
            kinds,
            records or Unrecorded(),
            canary_leases=rules.canary_leases,
            clock=clock,
            changed=self._try_anew,
        )
        self._ready = False
        self._tickets = 0
        self._draining = False
        self._bell = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve leases until the mailbox is closed; ready when machines can be had, or none after all.

        Raises `NoMachine` for a driver that cannot be opened and, when the pool is not `patient`, when no
        image has a template at the start.
        """
        try:
            self._pause = await self._ask_paused()
            if self._pause is not None:
                _log.warning("the pool is paused", reason=self._pause.reason)
            async with self._open_driver() as driver:
                self._places.driver = driver.name
                reaped = await driver.adopt_or_reap()
                if reaped:
                    _log.warning("machines of an earlier daemon were reaped", count=reaped)
                for image, ago in await self._history(MEMORY):
                    self._note_demand(image, self._clock() - ago)
                await self._images.look()
                async with trio.open_nursery() as nursery:
                    # The tasks catch what a machine may do to them; anything else is a bug of ours and
                    # crashes the actor, whose supervisor starts it anew.
                    nursery.start_soon(self._reap_orphans, driver)
                    nursery.start_soon(self._images.keep, driver, self._places.slots.values)
                    nursery.start_soon(self._read_mailbox, driver, nursery)
                    try:
                        await self._decide_and_act(driver, nursery, task_status)
                    finally:
                        self._places.stop("the machine pool stopped")
                    nursery.cancel_scope.cancel()
        finally:
            for _, request in self._waiting.values():
                request.reply.refuse(PoolRestarted("the machine pool stopped"))

    async def _read_mailbox(self, driver: Driver, nursery: trio.Nursery) -> None:
        async for message in self._mailbox:
            if isinstance(message, DescribePool):
                message.reply.give(
                    pool_report.describe(
                        driver,
                        self._state(),
                        self._limits(driver),
                        self._clock(),
                        jobs=self._places.jobs,
                        asked={ticket: request.job for ticket, (_, request) in self._waiting.items()},
                        there=self._places.machines,
                        demand=self._demand,
                        trouble=self._images.trouble(),
                        trials=self._images.trials(),
                        pause=self._pause,
                    )
                )
            elif isinstance(message, ImagesChanged):
                self._images.look_soon()
            elif isinstance(message, PausePool):
                self._pause = message.pause
                self._ring()
            elif isinstance(message, RestoreMachine):
                nursery.start_soon(self._go_back, driver, message, nursery)
            elif message.image not in self._kinds:
                message.reply.refuse(NoMachine(f"no image is called {message.image!r}"))
            else:
                self._tickets += 1
                who = pool.Waiting(self._tickets, message.image, self._clock(), kept=message.kept is not None)
                self._waiting[who.ticket] = (who, message)
                if not who.kept:
                    self._note_demand(who.image, who.since)
                self._ring()
        self._draining = True
        self._ring()

    async def _decide_and_act(
        self, driver: Driver, nursery: trio.Nursery, task_status: trio.TaskStatus[None]
    ) -> None:
        serve_at = self._clock() + READY_WITHIN
        while True:
            self._bell = trio.Event()
            self._forget_who_left()
            state, rules, now = (
                self._state(),
                self._limits(driver),
                self._clock(),
            )
            for action in pool.decide(state, rules, now):
                self._perform(action, driver, nursery)
            self._places.count()
            if not self._ready and (self._tried() or now >= serve_at):
                self._ready = True
                self._say_ready(driver)
                task_status.started()
            if self._draining and not self._waiting and not self._places.slots:
                return
            wake = min(
                pool.wake_at(self._state(), rules, now) or math.inf, self._images.wake_at() or math.inf
            )
            if not self._ready:
                wake = min(wake, serve_at)
            # At least a moment: a sum of times may fall a hair short of the one that is waited for.
            with trio.move_on_after(max(0.001, wake - now)):
                await self._bell.wait()

    def _tried(self) -> bool:
        """Whether it is known if machines can be had: some image has its template, or none will just now."""
        making = any(
            slot.stage in (pool.Stage.BUILDING, pool.Stage.PREPARING) for slot in self._places.slots.values()
        )
        return self._images.any_template or not making or set(self._failing) == set(self._kinds)

    def _say_ready(self, driver: Driver) -> None:
        if self._images.any_template and (notice := driver.capabilities.notice):
            _log.warning(notice)
        if self._failing and not self._images.any_template:
            if not self._patient:
                raise NoMachine(next(iter(self._failing.values())).reason)
            _log.error("no machine can be had: see `runnerd pool`")

    def _perform(self, action: pool.Action, driver: Driver, nursery: trio.Nursery) -> None:
        match action:
            case pool.Build(image, canary):
                generation = self._images.generation(image, canary=canary)
                name = self._places.take("build", image, pool.Stage.BUILDING, generation=generation)
                nursery.start_soon(self._build, driver, name, nursery)
            case pool.Prepare(image):
                generation = self._images.generation(image, canary=False)
                name = self._places.take("template", image, pool.Stage.PREPARING, generation=generation)
                nursery.start_soon(self._prepare, driver, name)
            case pool.Lease(ticket, machine):
                who, request = self._waiting.pop(ticket)
                self._places.jobs[machine] = request.job
                self._leased_by[request.job] = request.by
                self._images.used(who.image, request.by)
                self._places.enter(machine, pool.Stage.LEASED, waited=self._clock() - who.since)
                nursery.start_soon(self._hand_over, self._places.machines[machine], request)
            case pool.Restore(ticket):
                who, request = self._waiting.pop(ticket)
                assert request.kept is not None, "only who asks for a kept machine waits for one"
                name = self._places.take("restore", who.image, pool.Stage.LEASED, job=request.job)
                nursery.start_soon(self._restore, driver, name, request.kept, request.reply, nursery)
            case pool.Retire(machine, reason):
                _log.info("machine retired", machine=machine, reason=reason)
                self._places.leave(machine, reason)
                nursery.start_soon(self._destroy, self._places.machines[machine])
            case pool.Refuse(ticket, reason):
                _, request = self._waiting.pop(ticket)
                request.reply.refuse(NoMachine(reason))

    async def _build(self, driver: Driver, name: str, nursery: trio.Nursery) -> None:
        image, generation = self._places.slots[name].image, self._places.slots[name].generation
        try:
            template = await self._images.template(driver, image, generation)
            self._ring()  # the first template of all makes the pool ready
            started = self._clock()
            machine = await driver.clone(template)
            async with self._places.or_ended(machine, image):
                await machine.thaw()
        except (NoMachine, MachineLost, OSError, trio.TooSlowError) as problem:
            self._places.free(name)
            why = str(problem) or "it took too long"
            if not self._images.failed(image, generation, why, excused=image in self._failing):
                self._failed(image, why)
        else:
            self._failing.pop(image, None)
            self._places.fill(name, machine, pool.Stage.WARM, template.generation)
            self._images.came_up(image, template.generation)
            metrics.vm_boot_seconds.observe(self._clock() - started)
            nursery.start_soon(self._watch, machine)
        self._ring()

    async def _prepare(self, driver: Driver, name: str) -> None:
        image, generation = self._places.slots[name].image, self._places.slots[name].generation
        try:
            await self._images.template(driver, image, generation)
        except (NoMachine, OSError) as problem:
            self._failed(image, str(problem))
        else:
            self._failing.pop(image, None)
        self._places.free(name)
        self._ring()

    def _failed(self, image: str, why: str) -> None:
        count = (self._failing[image].count if image in self._failing else 0) + 1
        retry_at = self._clock() + pool.backoff(count)
        self._failing[image] = pool.Failing(image, count, retry_at, why)
        _log.error("no machine came up", image=image, failures=count, problem=why)

    def _try_anew(self, images: Collection[str]) -> None:
        """Machines of these are made from something else now: what failed until now says nothing."""
        for image in images:
            self._failing.pop(image, None)
        self._ring()

    def _judge(self, machine: str, problem: str = "", *, by: str | None = None) -> None:
        """Count, once, how a canary did; `by` is whose job had it."""
        slot = self._places.uncount(machine)
        if slot is not None and problem and by is not None:
            self._images.lost(slot.image, slot.generation, problem, by=by)
        elif slot is not None and problem:
            self._images.failed(slot.image, slot.generation, problem)
        elif slot is not None:
            self._images.ended_well(slot.image, slot.generation)

    async def _hand_over(self, machine: Machine, request: LeaseMachine) -> None:
        """Make a warm machine the job's and give it away; a machine that fails at it is replaced."""
        try:
            with trio.fail_after(LEASE_TIMEOUT):
                await machine.lease()
        except (MachineLost, OSError, trio.TooSlowError) as problem:
            _log.error("a warm machine failed its lease", machine=machine.id, problem=str(problem))
            self._judge(machine.id, str(problem) or "its lease took too long")
            self._tickets += 1
            who = pool.Waiting(self._tickets, request.image, self._clock())
            self._waiting = {who.ticket: (who, request), **self._waiting}  # it came first, so it stays first
            self._ring()
            await self._destroy(machine, str(problem) or "its lease took too long")
            return
        except BaseException:
            request.reply.refuse(PoolRestarted("the machine pool stopped"))
            raise
        if not request.reply.give(machine):
            await self._destroy(machine, "its job no longer waited")

    async def _go_back(self, driver: Driver, request: RestoreMachine, nursery: trio.Nursery) -> None:
        """Put in a job's machine's place one as it was kept; the place stays taken meanwhile."""
        old = self._places.machines.get(request.machine)
        if old is None:
            request.reply.refuse(NoMachine("its machine ended"))
            return
        slot, job = self._places.slots[old.id], self._places.jobs[old.id]
        self._places.uncount(old.id)  # the one that follows is counted
        name = self._places.take(
            "restore", slot.image, pool.Stage.LEASED, generation=slot.generation, job=job
        )
        await self._restore(driver, name, request.kept, request.reply, nursery, instead_of=old)

    async def _restore(
        self,
        driver: Driver,
        name: str,
        kept: Path,
        reply: Reply[Machine],
        nursery: trio.Nursery,
        instead_of: Machine | None = None,
    ) -> None:
        """Bring a kept machine back into the place that was taken for it, and give it away."""
        slot, job = self._places.slots[name], self._places.jobs[name]
        try:
            kind = self._kinds[slot.image]
            machine = await self._brought_back(driver, kept, kind.size, instead_of)
            async with self._places.or_ended(machine, slot.image):
                if machine.image != (wanted := kind.image or slot.image):
                    raise NoMachine(f"what was kept is a machine of image {machine.image}, not of {wanted}")
                await machine.thaw()
                with trio.fail_after(LEASE_TIMEOUT):
                    await machine.lease()
        except (NoMachine, MachineLost, OSError, trio.TooSlowError) as problem:
            _log.error("a kept machine could not be brought back", job=job, problem=str(problem))
            reply.refuse(NoMachine(str(problem) or "it took too long"))
        except BaseException:
            reply.refuse(PoolRestarted("the machine pool stopped"))
            raise
        else:
            self._places.fill(name, machine, pool.Stage.LEASED, slot.generation)
            nursery.start_soon(self._watch, machine)
            if not reply.give(machine):
                await self._destroy(machine, "its job no longer waited")
        finally:
            self._places.free(name)
            self._ring()

    async def _brought_back(
        self, driver: Driver, kept: Path, size: Size, instead_of: Machine | None
    ) -> Machine:
        """A machine as it was kept; the one in whose place it comes is ended, or becomes it."""
        if instead_of is None:
            return await driver.restore(kept, key=self._snapshot_key(), size=size)
        if not isinstance(driver, RollsBack):
            await self._destroy(instead_of, "its job went back to an earlier step")
            return await driver.restore(kept, key=self._snapshot_key(), size=size)
        self._places.leave(instead_of.id, "rolled back: its job went back to an earlier step")
        try:
            return await driver.roll_back(instead_of, kept)
        finally:
            await instead_of.destroy()

    async def _watch(self, machine: Machine) -> None:
        """Free the place of a machine once it is gone, whoever ended it."""
        await machine.lost.wait()
        stage, ended = self._places.slots[machine.id].stage, machine.reason == DESTROYED
        job = self._places.jobs.get(machine.id)
        if stage is pool.Stage.WARM:
            _log.warning("a warm machine died", machine=machine.id, reason=machine.reason)
        if stage is pool.Stage.LEASED or (stage is pool.Stage.WARM and not ended):
            by = self._leased_by.get(job or 0, "") if stage is pool.Stage.LEASED else None
            self._judge(machine.id, "" if ended else machine.reason or "it was lost", by=by)
        await self._destroy(machine, machine.reason)
        self._places.gone(machine.id)
        if job is not None and job not in self._places.jobs.values():
            self._leased_by.pop(job, None)
        self._ring()

    async def _destroy(self, machine: Machine, why: str = "") -> None:
        self._places.leave(machine.id, why)
        await machine.destroy()

    async def _reap_orphans(self, driver: Driver) -> None:
        while True:
            await trio.sleep(REAP_EVERY)
            try:
                orphans = await driver.adopt_or_reap()
            except OSError as problem:
                _log.error("machines that belong to nobody could not be looked for", problem=str(problem))
                continue
            if orphans:
                metrics.vm_leaked.inc(orphans)
                _log.error("machines that belonged to nobody were reaped", count=orphans)

    def _forget_who_left(self) -> None:
        for ticket, (_, request) in list(self._waiting.items()):
            if request.reply.abandoned:
                del self._waiting[ticket]

    def _state(self) -> pool.State:
        slots = tuple(self._places.slots.values())
        waiting = tuple(who for who, _ in self._waiting.values())
        return pool.State(
            slots=slots,
            waiting=waiting,
            failing=tuple(self._failing.values()),
            draining=self._draining,
            paused=self._pause is not None,
            cold=self._images.cold(),
            canaries=self._images.canaries(slots, {who.image for who in waiting}),
            outdated=self._images.outdated(slots),
        )

    def _limits(self, driver: Driver) -> pool.Rules:
        now = self._clock()
        return limits(
            self._kinds,
            self._rules,
            overhead=driver.overhead,
            shared=driver.shared,
            remote=driver.capabilities.remote,
            wanted={image: demand.wanted(now) for image, demand in self._demand.items()},
        )

    def _note_demand(self, image: str, at: float) -> None:
        self._demand[image] = self._demand.get(image, Demand()).after(at)

    def _ring(self) -> None:
        self._bell.set()
