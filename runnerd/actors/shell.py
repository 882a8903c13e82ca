"""A person's shell in a copy of a job's machine, as it was before one of its steps.

The copy is leased from the pool like any machine, and destroyed when the shell ends, whoever ends it: the
shell itself, the person who goes, the idle limit, the daemon that drains. What is kept stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import msgspec
import trio

from runnerd import log
from runnerd.jobs.contexts import github_context
from runnerd.jobs.ports import Network, PolicyUnheld
from runnerd.jobs.standing import BadStanding, Standing, decode
from runnerd.jobs.visit import READY, shell_of
from runnerd.machines.driver import Exit, Machine, MachineLost, NoMachine, Window
from runnerd.machines.kept import Kept
from runnerd.machines.sealed import Unsealed
from runnerd.messages import LeaseMachine, PoolRestarted
from runnerd.model import JobRecord, RunRecord
from runnerd.planning.kept import kept_of, why_none
from runnerd.store.ledger import Ledger
from runnerd.supervise.mailbox import Mailbox
from runnerd.supervise.reply import Reply
from runnerd.web.control import Refused, Unavailable
from runnerd.web.terminal import Person, Screen, Talk
from runnerd.workflow.meant import Named, meant

AT_ONCE = 4
"""Shells that may be open."""
IDLE = 1800.0
"""Seconds that a shell may be open while nothing is typed and nothing shown."""
LIFE = 8 * 3600.0
"""Seconds that a shell may be open at all."""
PATIENCE = 120.0
"""Seconds that a shell waits for room for its machine."""
SLOW = 5.0
"""Seconds after which a person is told what they wait for."""
ASK_AGAIN = 0.1
"""Seconds before a machine is asked for again after the pool went down."""
END_AGAIN = 0.5
"""Seconds between two ends of the input: each is heard by one reader only."""
_END = b"\x04"
_MARK = re.compile(r"^##\[\w+\]")

_log = log.get("shell")


class Host(Protocol):
    """What a host gives to the jobs it runs, as far as a shell needs it."""

    network: Network | None
    server_url: str
    api_url: str

    def image_for(self, labels: tuple[str, ...]) -> str | None:
        """The image that claims these labels, or None."""
        ...


class Shelf(Protocol):
    """The machines that are kept; `of` and `standing` block."""

    def of(self, job: int) -> tuple[Kept, ...]:
        """What is kept of a job, by step."""
        ...

    def standing(self, kept: Kept) -> bytes:
        """How the job stood. Raises Unsealed."""
        ...

    def held(self, folder: Path) -> AbstractContextManager[None]:
        """Nothing removes this one meanwhile."""
        ...


class _Visit(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be looked at, and how."""

    run: RunRecord
    job: JobRecord
    image: str
    kept: Kept
    standing: Standing
    github: dict[str, Any]
    screen: Screen


class Shells:
    """Opens shells; no more than `at_once`. Setting `stopping` ends them all.

    `mode` is that of [snapshots], for who asks for a machine that is not kept.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        pool: Mailbox[Any],
        host: Host,
        shelf: Shelf,
        mode: str,
        stopping: trio.Event,
        clock: Callable[[], float],
        at_once: int = AT_ONCE,
        idle: float = IDLE,
    ) -> None:
        self._ledger = ledger
        self._pool = pool
        self._host = host
        self._shelf = shelf
        self._mode = mode
        self._stopping = stopping
        self._clock = clock
        self._at_once = at_once
        self._idle = idle
        self._open = 0

    async def open(self, run: RunRecord, job: JobRecord, at: str | None, screen: Screen) -> Talk:
        """Find the machine that is meant; without `at` the newest that is kept.

        Raises `Refused` and `Unavailable`, and LookupError where the step is unknown or not kept.
        """
        if self._stopping.is_set():
            raise Unavailable("the daemon is draining: it opens no shell any more")
        if await self._ledger.pause() is not None:
            raise Refused("the pool is paused, so there is no machine for a shell: `runnerd resume` first")
        if full := self._full():
            raise Unavailable(full)
        image = self._host.image_for(job.labels)
        if image is None:
            raise Refused(f"no image claims the labels of job {job.id} any more: see [images] in config.toml")
        there = await kept_of(job, ledger=self._ledger, kept=self._shelf.of)
        if not there:
            why = why_none(run, job, self._mode)
            raise LookupError(f"no machine of job {job.id} ({job.name}) is kept: {why}")
        kept = chosen(job, there, at)
        try:
            standing = decode(await trio.to_thread.run_sync(self._shelf.standing, kept))
        except (BadStanding, Unsealed) as problem:
            raise Refused(str(problem)) from problem
        github = github_context(
            run.event,
            run,
            job.key.rpartition("/")[2],
            payload=await self._ledger.payload(run.delivery),
            server_url=self._host.server_url,
            api_url=self._host.api_url,
        )
        visit = _Visit(
            run=run, job=job, image=image, kept=kept, standing=standing, github=github, screen=screen
        )
        return partial(self._talk, visit)

    def _full(self) -> str:
        if self._open < self._at_once:
            return ""
        return f"{self._open} shells are open, which is as many as may be at once: end one of them first"

    async def _talk(self, visit: _Visit, person: Person) -> None:
        """Have the person use the machine, and tell how that ended; a person who goes ends it."""
        if full := self._full():
            await person.fail(full)
            return
        self._open += 1
        said: int | str | None = None
        fault: Exception | None = None
        try:
            with log.context(run=visit.run.id, job=visit.job.id):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._until_stopped, nursery.cancel_scope)
                    seat = _Seat(person, visit.screen, nursery.cancel_scope, self._idle)
                    nursery.start_soon(_tell_if_slow, person, seat)
                    try:
                        said = await self._session(visit, person, seat)
                    except (NoMachine, MachineLost, PolicyUnheld, OSError, ValueError) as problem:
                        said = str(problem)
                    except Exception as error:  # leaves plainly, in no group
                        fault = error
                    nursery.cancel_scope.cancel()
                _log.info("shell ended", step=visit.kept.step, how=said)
        finally:
            self._open -= 1
        if fault is not None:
            raise fault
        if isinstance(said, int):
            await person.end(said)
        else:
            await person.fail(said or self._why_ended())

    def _why_ended(self) -> str:
        if self._stopping.is_set():
            return "the daemon is draining: the shell was ended, and its machine is gone"
        return (
            f"nothing was typed or shown for {self._idle / 60:g} minutes, or the shell was open for "
            f"{LIFE / 3600:g} hours: it was ended, and its machine is gone"
        )

    async def _until_stopped(self, scope: trio.CancelScope) -> None:
        await self._stopping.wait()
        scope.cancel()

    async def _session(self, visit: _Visit, person: Person, seat: _Seat) -> int | str:
        """Return the shell's exit status as shells say it, or why there is none."""
        kept = visit.kept
        minutes = round(max(0.0, self._clock() - kept.at) / 60)
        ago = f"{minutes} minutes ago" if minutes > 1 else "a minute ago" if minutes else "just now"
        await person.say(
            f"job {visit.job.id} ({visit.job.name}) of run {visit.run.id}, before step {kept.step} "
            f"({kept.name}): a copy of its machine as it was {ago}. "
            "The copy is thrown away when this shell ends."
            + (" It may hold secrets of the job's, and nothing is masked here." if kept.encrypted else "")
        )
        machine = await self._lease(visit)
        seat.had.set()
        try:
            _log.info("shell starts", step=kept.step, machine=machine.id)
            async with AsyncExitStack() as stack:
                host: dict[str, str] = {}
                if self._host.network is not None:
                    say = partial(_note, person)
                    network = self._host.network.open(machine, visit.run, say)
                    host = dict(await stack.enter_async_context(network))
                command = shell_of(
                    visit.standing,
                    machine,
                    github=visit.github,
                    host=host,
                    term=visit.screen.term,
                    plain=visit.screen.plain,
                )
                return _status(await machine.shell(command, seat))
        finally:
            with trio.CancelScope(shield=True):
                await machine.destroy()

    async def _lease(self, visit: _Visit) -> Machine:
        """Have the kept machine brought back; raises `NoMachine`."""
        late: list[Machine] = []
        try:
            with self._shelf.held(visit.kept.folder), trio.move_on_after(PATIENCE):
                while True:
                    reply: Reply[Machine] = Reply()
                    await self._pool.send(
                        LeaseMachine(visit.image, visit.job.id, reply, kept=visit.kept.folder)
                    )
                    try:
                        return await reply.wait(take_back=late.append)
                    except PoolRestarted:
                        await trio.sleep(ASK_AGAIN)
        except trio.ClosedResourceError:
            raise NoMachine("the daemon is draining: it opens no shell any more") from None
        finally:
            with trio.CancelScope(shield=True):
                for machine in late:
                    await machine.destroy()
        raise NoMachine(
            f"there was no room for the machine within {PATIENCE:g} s: `runnerd pool` shows what there is"
        )


def chosen(job: JobRecord, kept: Mapping[int, Kept], at: str | None) -> Kept:
    """Return what is meant of what is kept of a job, by step. Raises LookupError with what there is."""
    if at is None:
        return kept[max(kept)]
    steps = {number: Named(number, "", each.name) for number, each in kept.items()}
    steps |= {step.number: Named(step.number, step.id, step.name) for step in job.steps}
    wanted = meant(at, [steps[number] for number in sorted(steps)], what="step", whole=f"job {job.id}")
    found = kept.get(wanted.number)
    if found is None:
        there = ", ".join(f"{number} ({each.name})" for number, each in kept.items())
        raise LookupError(
            f"no machine of job {job.id} is kept from before step {wanted}, only from before {there}"
        )
    return found


class _Seat:
    """A person's end of a machine's terminal; whatever passes it puts off the end for idleness."""

    def __init__(self, person: Person, screen: Screen, scope: trio.CancelScope, idle: float) -> None:
        self.window = Window(rows=screen.rows, columns=screen.columns)
        self._person = person
        self._scope = scope
        self._idle = idle
        self._last = trio.current_time() + LIFE
        self._plain = screen.plain
        self.had = trio.Event()
        """Set once there is a machine."""
        self._ready = trio.Event()
        if not screen.plain:
            self._ready.set()
        self._ended = False
        self._put_off()

    async def keys(self) -> bytes | Window:
        """What was typed. To a plain shell the end of it is an end of the input, which stays ended."""
        await self._ready.wait()
        if self._ended:
            await trio.sleep(END_AGAIN)
            return _END
        typed = await self._person.typed()
        self._put_off()
        if isinstance(typed, tuple):
            return Window(*typed)
        if not typed and self._plain:
            self._ended = True
            return _END
        return typed

    async def show(self, data: bytes) -> None:
        """Put bytes on the screen; those before a plain shell is ready are the terminal's own."""
        self._put_off()
        if not self._ready.is_set():
            _, ready, data = data.partition(READY)
            if not ready:
                return
            self._ready.set()
        if data:
            await self._person.show(data)

    def _put_off(self) -> None:
        self._scope.deadline = min(trio.current_time() + self._idle, self._last)


async def _tell_if_slow(person: Person, seat: _Seat) -> None:
    with trio.move_on_after(SLOW):
        await seat.had.wait()
    if not seat.had.is_set():
        await person.say("waiting for room for the machine: `runnerd pool` shows what there is")


async def _note(person: Person, line: str) -> None:
    await person.say(_MARK.sub("", line))


def _status(ended: Exit) -> int | str:
    if ended.code is not None:
        return ended.code
    return 128 + ended.signal if ended.signal is not None else "the machine did not say how the shell ended"
