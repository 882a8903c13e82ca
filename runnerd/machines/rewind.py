"""A job's kept machines while it runs: before which steps there is one, which go, and which steps go back."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec
import trio

from runnerd.machines.driver import NotKept
from runnerd.machines.kept import Kept, KeptMachines
from runnerd.machines.rewinding import RewindingMachine
from runnerd.machines.sealed import TooLarge

Mode = Literal["off", "on-failure", "each-step"]

ENDS = "snapshots of this driver end with their machine: there are some only for steps that are tried again"

SHARE = 0.1
GRACE = 2.0
"""What keeping may take of a job by itself: this share of the time it has run so far, and seconds."""
TOO_LONG = (
    "keeping machines may take a tenth of a job's time and two seconds, and would have taken more of this "
    "one's; [snapshots] mode each-step has no such limit"
)
PACE = 200 << 20
"""Bytes that are taken to be kept in a second."""


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator wants kept and tried again; see `[snapshots]` and `[retry]` in config.toml."""

    mode: Mode = "off"
    steps: tuple[str, ...] = ()
    """Patterns of WORKFLOW/JOB/STEP that are tried again."""
    times: int = 1

    @property
    def idle(self) -> bool:
        """Whether no machine is ever kept."""
        return self.mode == "off" and not self.steps

    def tries(self, step: str) -> int:
        """How many times a step, called WORKFLOW/JOB/STEP, may be run in all."""
        return 1 + self.times * any(fnmatchcase(step, pattern) for pattern in self.steps)


class JobRewind:
    """What is kept of one job that runs; a context, over which its newest machine is removed by nobody else.

    `denied` says why there is to be none, or is empty; `given` says that the job was given a secret; `source`
    is the number of the job in whose kept machine this one goes on, or 0.
    """

    def __init__(
        self,
        rules: Rules,
        store: KeptMachines,
        machine: RewindingMachine,
        *,
        run: int,
        job: int,
        repository: str,
        prefix: str,
        denied: str,
        given: bool,
        source: int = 0,
    ) -> None:
        self._rules = rules
        self._store = store
        self._machine = machine
        self._run = run
        self._job = job
        self._repository = repository
        self._prefix = prefix
        self._denied = denied
        self.given = given
        """See `jobs.ports.Rewind`."""
        self._source = source
        self._plain = bool(source)
        """Whether something may be kept that is not encrypted, of this job or of its source."""
        self._concealing = trio.Lock()
        self._concealed: set[Path] = set()
        """What of that is still there, where nobody finds it."""
        self._newest: Path | None = None
        self._tried = False
        """Whether a step may go back to the newest."""
        self._outlives = machine.capabilities.snapshot_outlives
        """Whether what is kept is of use to anybody when the job is over."""
        self._wanted: set[int] = set()
        """Steps whose machines are for people; any other is there only for its step to be tried again."""
        self._hold = ExitStack()
        self._began = trio.current_time()
        self._spent = self._last = 0.0
        """Seconds that keeping has taken, in all and the last time."""
        self.why_none = denied or ("" if self._outlives or rules.mode == "off" else ENDS)
        """Why the machine was not kept, where it was to be."""
        self.missed: dict[int, str] = {}
        """The same of each step before which it was to be."""

    async def __aenter__(self) -> JobRewind:
        await self._drop()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._hold.close()
        await self._discard(self._concealed)

    @property
    def asked(self) -> bool:
        """See `jobs.ports.Rewind`."""
        return self._rules.mode == "each-step"

    def tries(self, step: str) -> int:
        """How many times the step of this name may be run in all."""
        return self._rules.tries(f"{self._prefix}/{step}")

    def wants(self, number: int, status: str) -> bool:
        """See `jobs.ports.Rewind`. After a failure people want the machine as it was before that.

        Unless somebody asked for each step, it is not kept where that would take too much of the job's time.
        """
        if number == 1 or self._rules.mode == "off" or (self._denied and not self.asked):
            return False
        if self.asked:
            return True
        wanted = self._outlives and status == "success"
        if wanted and self._last > self._left():
            self.missed[number] = TOO_LONG
            return False
        return wanted

    async def keep(self, number: int, name: str, standing: bytes, *, masked: bool, wanted: bool) -> None:
        """See `jobs.ports.Rewind`."""
        began = trio.current_time()
        with self._store.held(self._store.named(f"{self._job}/{number}")):  # from its first moment on
            try:
                folder = await self._keep(number, name, standing, masked)
            except (NotKept, OSError) as problem:
                self.why_none = self.missed[number] = str(problem)
                raise
            finally:
                self._last = trio.current_time() - began
                self._spent += self._last
            self._hold.close()
            self._hold.enter_context(self._store.held(folder))
        self._newest = folder
        self._tried = self.tries(name) > 1
        if wanted and self._outlives:
            self._wanted = {number} if self._rules.mode == "on-failure" else self._wanted | {number}
        await self._drop(self._wanted | {number})

    async def conceal(self, *, again: bool = False) -> None:
        """See `jobs.ports.Rewind`."""
        # Steps may mask values side by side: who comes second returns no earlier than the first.
        with trio.CancelScope(shield=True):
            async with self._concealing:
                if self._plain:
                    await self._conceal()
                needed = {self._newest} if self._tried and again else set()
                await self._discard(self._concealed - needed)

    async def _conceal(self) -> None:
        self._hold.close()
        moved: dict[Path, Path] = {}
        for job in {self._job, self._source} - {0}:
            moved |= await trio.to_thread.run_sync(self._store.conceal, job)
        if moved:
            self.why_none = "the job has masked a value, and its machine was kept before that, not encrypted"
        self._concealed = set(moved.values())
        if self._newest in moved:
            self._newest = moved[self._newest]
        self._plain = False

    async def back(self) -> str:
        """Be in the machine as it was kept last; return its id. Raises MachineLost when that cannot be."""
        assert self._newest is not None, "who goes back has kept"
        await self._machine.back(self._newest)
        return self._machine.id

    async def finish(self, *, useful: bool, failed: int | None = None) -> tuple[Kept, ...]:
        """The job is over: return what stays kept. `useful`: it neither succeeded nor was cancelled.

        `why_none` says from then on why nothing is kept, or not from before the step that `failed`.
        """
        self._hold.close()
        await self._drop(self._wanted if useful or self._rules.mode == "each-step" else ())
        kept = await trio.to_thread.run_sync(self._store.of, self._job)
        if kept:
            self.why_none = self.missed.get(failed or 0, "")
        return kept

    def _left(self) -> float:
        """Seconds that keeping may still take of the job."""
        return GRACE + SHARE * (trio.current_time() - self._began) - self._spent

    async def _keep(self, number: int, name: str, standing: bytes, masked: bool) -> Path:
        encrypted = self.given or masked
        if self._denied:
            raise NotKept(self._denied)
        what = (
            "was given a secret or a token" if self.given else "has masked a value, which counts as a secret"
        )
        if not self._machine.capabilities.snapshot:
            raise NotKept("machines of this driver keep no snapshots")
        if not self._outlives:
            if encrypted and self.tries(name) > 1:  # no key of ours is where such a machine is kept
                raise NotKept(f"the job {what}, and this driver's machines are not kept encrypted")
            return await self._keep_in_passing(number, name)
        if encrypted and not self._store.seals:
            raise NotKept(f"the job {what}, and [snapshots] secrets is not on")
        room = await trio.to_thread.run_sync(self._store.room, self._job, self._repository)
        hurried = not self.asked and self.tries(name) == 1
        soon = int(self._left() * PACE)
        if hurried and soon < room:
            room = soon
        key = await trio.to_thread.run_sync(self._store.key) if encrypted else None
        new = await trio.to_thread.run_sync(self._store.place, self._job, number)
        try:
            try:
                await self._machine.snapshot(new, key=key, limit=room)
            except NotKept as problem:
                if hurried and room == soon and isinstance(problem.__cause__, TooLarge):
                    raise NotKept(TOO_LONG) from problem
                raise
            put = partial(
                self._store.put,
                new,
                standing,
                run=self._run,
                job=self._job,
                repository=self._repository,
                step=number,
                name=name,
                encrypted=encrypted,
            )
            kept = await trio.to_thread.run_sync(put)
        except BaseException:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._store.discard, new)
            raise
        self._plain = self._plain or not encrypted
        return kept.folder

    async def _keep_in_passing(self, number: int, name: str) -> Path:
        """Keep a machine for the tries of one step. Nobody gets to know of it: it ends with the machine."""
        if self.tries(name) == 1:
            raise NotKept(ENDS)
        new = await trio.to_thread.run_sync(self._store.place, self._job, number)
        await self._machine.snapshot(new, key=None, limit=self._store.limits.limit)
        return new

    async def _drop(self, but: Collection[int] = ()) -> None:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(partial(self._store.drop, self._job, but=but))

    async def _discard(self, folders: Collection[Path]) -> None:
        with trio.CancelScope(shield=True):
            for folder in tuple(folders):
                await trio.to_thread.run_sync(self._store.discard, folder)
                self._concealed.discard(folder)
