"""One step's turn in a job: from its `if` to its recorded end, within its time and until it is stopped."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import msgspec
import trio

from runnerd.jobs.collection import collect
from runnerd.jobs.console import Console
from runnerd.jobs.keys import StepFailed
from runnerd.jobs.ports import Clock, LogSink, Rewind, StepObserver
from runnerd.jobs.record import Record
from runnerd.jobs.sequence import Placed
from runnerd.jobs.spec import JobLimits
from runnerd.jobs.state import Effects, Finish, JobState
from runnerd.jobs.step import Ended, StepRun
from runnerd.jobs.workplace import Workplace
from runnerd.machines.driver import MachineLost, NotKept
from runnerd.model import Outcome

_COLLECT_SECONDS = 30.0
"""How long reading a step's files may take."""
_RECORD_SECONDS = 10.0
"""How long telling of a step's end may take while the job is being cancelled."""

Control = Callable[[Placed, Console], Awaitable[Ended]]
"""Does what a step that waits or cancels asks for."""


class Desk(msgspec.Struct, frozen=True, kw_only=True):
    """What every turn of one job works with."""

    state: JobState
    place: Workplace
    record: Record
    log: LogSink
    observer: StepObserver
    clock: Clock
    limits: JobLimits
    console: Callable[[int], Console]
    rewind: Rewind | None = None
    keep: Callable[[Turn, bool], Awaitable[None]]
    """Keeps the machine as it is before a turn, which is wanted or only for its tries; see `Rewind.keep`."""


class Turn:
    """One step's turn. `begins` first; where it says yes, `take`, after `place` where places are few."""

    def __init__(self, desk: Desk, placed: Placed, run: StepRun) -> None:
        self.placed = placed
        self.number = placed.number
        self.name = ""
        """As people see it; known once it begins."""
        self._desk = desk
        self._run = run
        self._trouble = ""
        self._reason = "it was stopped"
        self._stopped = False
        self._tries = 1
        self._untried = ""
        self._waiting, self._doing = trio.CancelScope(), trio.CancelScope()

    async def begins(self) -> bool:
        """Work out `env` and `if`; a step that is skipped is recorded. Raises `MachineLost`.

        What cannot be worked out makes the step begin, and fail.
        """
        try:
            await self._run.evaluate_env()
            holds = await self._run.holds()
        except StepFailed as error:
            self._trouble, holds = str(error), True
        self.name = self._desk.record.hidden(await self._run.name())
        if self._run.step.condition is not None:
            console = self._desk.console(self.number)
            await console.debug(f"Evaluating condition for step: {self.name!r}")
            await console.debug(f"Evaluating: {self._run.step.condition}")
            await console.debug(f"Result: {self._trouble or str(holds).lower()}")
        if not holds:
            await self._skip()
        return holds

    async def goes_on(self) -> bool:
        """Whether the step's `if` holds now that the job is cancelled."""
        try:
            return await self._run.holds()
        except (StepFailed, MachineLost):
            return False

    def stop(self, reason: str) -> None:
        """End the step as cancelled, for this reason, now or when it would begin."""
        self._reason = reason
        self._stopped = True
        self._waiting.cancel()
        self._doing.cancel()

    async def place(self, places: trio.Semaphore) -> bool:
        """Wait for a place and take it; False when the step was stopped before it got one."""
        with self._waiting:
            await places.acquire()
            return True
        return False

    async def never(self) -> Finish:
        """Record a step that was stopped before it had a place."""
        await self._put(Outcome.CANCELLED, Outcome.CANCELLED, self._reason)
        return Finish(outcome=Outcome.CANCELLED, conclusion=Outcome.CANCELLED, reason=self._reason)

    async def keep(self) -> str:
        """Keep the machine as it is before the step, where that is wanted; return why it was not kept.

        Raises `MachineLost`.
        """
        desk = self._desk
        if desk.rewind is None:
            return ""
        tries = 1 if self.placed.control else desk.rewind.tries(self.name)
        # In the background it would run on while others are kept.
        beside = self.placed.background
        wanted = not beside and desk.rewind.wants(self.number, desk.state.status)
        if tries == 1 and not wanted:
            return ""
        try:
            if beside:
                raise NotKept("it runs in the background")
            await desk.keep(self, wanted)
        except (NotKept, OSError) as problem:
            self._untried = str(problem) if tries > 1 else ""
            return str(problem)
        self._tries = tries
        return ""

    async def take(self, control: Control) -> Finish:
        """Do the step, and record how it ended whatever ends it. Raises `MachineLost`."""
        desk, number = self._desk, self.number
        console = desk.console(number)
        started = desk.clock()
        await desk.log.begin_step(number, background=self.placed.background)
        await desk.observer.step_started(number, self.name)
        ended = Ended(outcome=Outcome.CANCELLED, reason="the job was stopped")
        conclusion = ended.outcome
        try:
            if self._untried:
                await console.line(f"The step is not tried again if it fails: {self._untried}")
            ended = await self._perform(console, control)
            for number_of_try in range(2, self._tries + 1):
                if self._stopped or ended.outcome not in (Outcome.FAILURE, Outcome.TIMED_OUT):
                    break
                await console.warning(
                    f"The step failed ({ended.reason or 'no reason was given'}): the machine goes back to "
                    f"before it, and the step is tried again, try {number_of_try} of {self._tries}."
                )
                desk.record.add(number, console.annotations, "")
                console = desk.console(number)
                await self._back(console)
                ended = await self._perform(console, control)
            conclusion = await self._concluded(console, ended)
        except MachineLost as error:
            conclusion = Outcome.LOST
            ended = Ended(outcome=Outcome.LOST, reason=f"the machine was lost: {error}")
            raise
        finally:
            # Also when this task is being cancelled: who is shown the step must learn that it ended.
            with trio.move_on_after(_RECORD_SECONDS, shield=True):
                desk.record.add(number, console.annotations, ended.summary)
                await desk.log.end_step(number)
                await self._put(ended.outcome, conclusion, ended.reason, ended.exit_code, started)
        return Finish(
            outcome=ended.outcome, conclusion=conclusion, effects=ended.effects, reason=ended.reason
        )

    async def _back(self, console: Console) -> None:
        assert self._desk.rewind is not None
        machine = await self._desk.rewind.back()
        self._desk.state.goes_on_in(machine)
        await console.line(f"Machine: {machine}, as the one before was then")
        self._doing = trio.CancelScope()  # one is entered once
        if self._stopped:
            self._doing.cancel()

    async def _perform(self, console: Console, control: Control) -> Ended:
        """Do a step whose `if` holds, within its time and until it is stopped."""
        ended: Ended | None = None
        minutes: float | None = None
        try:
            if self._trouble:
                raise StepFailed(self._trouble)
            minutes = await self._run.minutes()
            with self._doing, trio.move_on_after(math.inf if minutes is None else minutes * 60) as time:
                if self.placed.control:
                    return await control(self.placed, console)
                ended = await self._run.run(console)
            if ended is None and time.cancelled_caught:
                reason = f"The step has timed out after {minutes:g} minutes."
                await console.error(reason)
                ended = Ended(outcome=Outcome.TIMED_OUT, reason=reason)
            elif ended is None:
                said = f"The operation was canceled: {self._reason}."
                # A `cancel` was meant to do this: that is no error.
                await (console.line if self.number in self._desk.record.excused else console.error)(said)
                ended = Ended(outcome=Outcome.CANCELLED, reason=self._reason)
        except StepFailed as error:
            await console.error(str(error)[0].upper() + str(error)[1:])
            ended = Ended(outcome=Outcome.FAILURE, reason=str(error))
        if self._run.step.run is None or ended.outcome is Outcome.INFRA_ERROR:
            return ended
        return await self._collected(console, ended)

    async def _collected(self, console: Console, ended: Ended) -> Ended:
        desk = self._desk
        with trio.move_on_after(_COLLECT_SECONDS):
            found = await collect(desk.place, desk.state, desk.limits, self.number, console)
            if found.failed and ended.outcome is Outcome.SUCCESS:
                reason = "a command or file of the step could not be processed"
                ended = msgspec.structs.replace(ended, outcome=Outcome.FAILURE, reason=reason)
            return msgspec.structs.replace(ended, effects=found.effects, summary=found.summary)
        await console.error("The step's files could not be read in time.")
        return ended if not ended.outcome.green else Ended(outcome=Outcome.FAILURE, reason="no files")

    async def _concluded(self, console: Console, ended: Ended) -> Outcome:
        """The step's conclusion: its outcome, but success where it may fail."""
        if ended.outcome not in (Outcome.FAILURE, Outcome.TIMED_OUT):
            return ended.outcome
        try:
            return Outcome.SUCCESS if await self._run.may_fail() else ended.outcome
        except StepFailed as error:
            await console.error(str(error))
            return ended.outcome

    async def _skip(self) -> None:
        written, status = self._run.step.condition, self._desk.state.status
        why = {"failure": "an earlier step failed", "cancelled": "the job was cancelled"}
        reason = f"its `if` does not hold: {written}" if written is not None else why.get(status, "")
        if not reason and self.placed.group is not None:
            reason = f"the `if` of its group does not hold: {self.placed.group}"
        self._desk.state.show(self.placed.step.id, Effects(), Outcome.SKIPPED, Outcome.SKIPPED)
        await self._put(Outcome.SKIPPED, Outcome.SKIPPED, reason)

    async def _put(
        self,
        outcome: Outcome,
        conclusion: Outcome,
        reason: str,
        exit_code: int | None = None,
        started: float | None = None,
    ) -> None:
        await self._desk.record.put(
            self.number,
            self.placed.step.id,
            self.name,
            outcome,
            conclusion,
            reason=reason,
            exit_code=exit_code,
            started=started,
        )
