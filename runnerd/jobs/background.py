"""Steps that run beside the others: started, waited for, cancelled. What they did shows when waited for.

Rules of GitHub's runner: at most ten run at once, the others queue; outputs, variables and paths reach the
job with the wait; a failure fails the wait, and the job in the end; what was cancelled counts for nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import trio

from runnerd.jobs.console import Console
from runnerd.jobs.record import Record
from runnerd.jobs.sequence import Placed
from runnerd.jobs.standing import Beside
from runnerd.jobs.state import Finish, JobState
from runnerd.jobs.step import Ended
from runnerd.jobs.turn import Turn
from runnerd.model import Outcome

AT_ONCE = 10

Take = Callable[[Turn, bool], Awaitable[Finish | None]]
"""Takes a turn to its end, or only records it where it has no place; None: the job ends with it."""


class _Running:
    def __init__(self, key: str, name: str, turn: Turn | None, finish: Finish | None = None) -> None:
        self.key = key
        self.name = name
        self.turn = turn
        """None for a step that ended before the job was gone on with."""
        self.finish = finish
        self.over = trio.Event()
        if finish is not None:
            self.over.set()


class Background:
    """The background steps of one job, as tasks of its nursery."""

    def __init__(self, state: JobState, record: Record, take: Take) -> None:
        self._state = state
        self._record = record
        self._take = take
        self._places = trio.Semaphore(AT_ONCE)
        self._steps: dict[int, _Running] = {}
        self._settled: set[int] = set()

    async def start(self, turn: Turn, nursery: trio.Nursery) -> None:
        """Let a step run; it begins when there is a place for it, in the order of the file."""
        running = self._steps[turn.number] = _Running(turn.placed.step.id, turn.name, turn)
        await nursery.start(self._run, running, turn)

    @property
    def ended(self) -> tuple[Beside, ...]:
        """The steps that are over."""
        return tuple(
            Beside(number=number, finish=running.finish, settled=number in self._settled)
            for number, running in self._steps.items()
            if running.finish is not None
        )

    def resume(self, ended: Iterable[Beside], steps: Sequence[Placed], names: Mapping[int, str]) -> None:
        """Have steps that ended before; none may have been started yet. `names` is by number."""
        for each in ended:
            key = steps[each.number - 1].step.id
            self._steps[each.number] = _Running(key, names[each.number], None, each.finish)
            if each.settled:
                self._settled.add(each.number)

    async def control(self, placed: Placed, console: Console) -> Ended:
        """Do what a `wait`, a `wait-all` or a `cancel` asks for."""
        step = placed.step
        numbers = self._left() if step.wait_all else [n for n in placed.targets if n in self._steps]
        if not numbers:
            await console.line("There is no background step to wait for.")
            return Ended(outcome=Outcome.SUCCESS)
        doing = "Cancelling" if step.cancel is not None else "Waiting for"
        await console.line(f"{doing}: {', '.join(self._steps[n].name for n in numbers)}")
        if step.cancel is not None:
            await self._cancel(numbers)
        else:
            await self._wait(numbers)
        finishes = self._settle(numbers)
        for number, finish in zip(numbers, finishes, strict=True):
            await console.line(f"  {self._steps[number].name}: {finish.conclusion}")
        if step.cancel is not None:
            return Ended(outcome=Outcome.SUCCESS)
        return await self._waited(placed, numbers, finishes, console)

    async def rest(self) -> None:
        """Wait for the steps nobody waited for; then let every one count for the job's status."""
        numbers = self._left()
        await self._wait(numbers)
        self._settle(numbers)
        for running in self._steps.values():
            if running.finish is not None:
                self._state.count(running.finish.conclusion)

    async def _run(self, running: _Running, turn: Turn, *, task_status: trio.TaskStatus) -> None:
        task_status.started()  # it queues before its starter goes on
        has_place = await turn.place(self._places)
        try:
            running.finish = await self._take(turn, has_place)
        finally:
            if has_place:
                self._places.release()
        if running.finish is not None:
            running.over.set()

    def _left(self) -> list[int]:
        return [number for number in self._steps if number not in self._settled]

    async def _wait(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            await self._steps[number].over.wait()

    async def _cancel(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            running = self._steps[number]
            if running.turn is not None and not running.over.is_set():
                self._record.excused.add(number)
                running.turn.stop("a later step cancelled it")
        await self._wait(numbers)

    def _settle(self, numbers: Iterable[int]) -> list[Finish]:
        """Let later steps see what these did, once."""
        finishes = []
        for number in numbers:
            running = self._steps[number]
            assert running.finish is not None
            finish = running.finish
            finishes.append(finish)
            if number not in self._settled:
                self._settled.add(number)
                self._state.show(running.key, finish.effects, finish.outcome, finish.conclusion)
        return finishes

    async def _waited(
        self, placed: Placed, numbers: list[int], finishes: list[Finish], console: Console
    ) -> Ended:
        """A wait ends as the worst of what it waited for."""
        for number, finish in zip(numbers, finishes, strict=True):
            if not finish.conclusion.green and finish.conclusion is not Outcome.CANCELLED:
                reason = f"the background step {self._steps[number].name!r} failed: {finish.reason}"
                await console.error(reason[0].upper() + reason[1:])
                return Ended(outcome=Outcome.FAILURE, reason=reason)
        cancelled = {n for n, finish in zip(numbers, finishes, strict=True) if not finish.conclusion.green}
        if cancelled:
            if cancelled <= self._record.excused:
                self._record.excused.add(placed.number)
            return Ended(outcome=Outcome.CANCELLED, reason="what it waited for was cancelled")
        return Ended(outcome=Outcome.SUCCESS)
