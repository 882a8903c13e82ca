"""Runs one job in one machine, from its first line of log to its result.

What a workflow or a guest does never raises here: it becomes the job's outcome.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import trio

import runnerd
from runnerd.jobs.console import Console
from runnerd.jobs.evaluation import status_functions
from runnerd.jobs.keys import StepFailed, default_name, environment_of, minutes_of
from runnerd.jobs.masker import SHORT, Masker
from runnerd.jobs.outcome import joined, judged, storable, unrunnable
from runnerd.jobs.ports import Checkout, Clock, LogSink, StepObserver
from runnerd.jobs.spec import JobSpec
from runnerd.jobs.state import JobState
from runnerd.jobs.step import Ended, StepRun
from runnerd.jobs.workplace import Unusable, Workplace
from runnerd.machines.driver import Machine, MachineLost
from runnerd.model import Annotation, JobResult, Outcome, StepResult
from runnerd.workflow import ExpressionError, interpolate, value_of
from runnerd.workflow.model import Step

_COLLECT_SECONDS = 30.0
"""How long reading a step's files may take."""
_RECORD_SECONDS = 10.0
"""How long telling of a step's end may take while the job is being cancelled."""


async def run_job(
    spec: JobSpec,
    machine: Machine,
    *,
    checkout: Checkout,
    log: LogSink,
    observer: StepObserver,
    secrets: Mapping[str, str],
    cancel: trio.Event,
    clock: Clock = time.time,
) -> JobResult:
    """Run the job's steps in a machine that was leased for it, and say how it ended.

    `secrets` are the `secrets` context; their values are masked in the log and in every field of the
    result. Setting `cancel` stops the running step, unless its `if` holds for a cancelled job too; then
    `always()` and `cancelled()` steps still run, all within `cancel-timeout-minutes`.

    A lost machine makes the result `lost`, a process without an exit status `infra_error`, a job that
    cannot be started as written `startup_failure`. Raises only what `observer` and `log` raise, and
    `Cancelled`, after the running process was stopped.
    """
    run = _JobRun(spec, machine, checkout, log, observer, secrets, cancel, clock)
    return await run.whole()


class _JobRun:
    def __init__(
        self,
        spec: JobSpec,
        machine: Machine,
        checkout: Checkout,
        log: LogSink,
        observer: StepObserver,
        secrets: Mapping[str, str],
        cancel: trio.Event,
        clock: Clock,
    ) -> None:
        self.spec = spec
        self.machine = machine
        self.checkout = checkout
        self.log = log
        self.observer = observer
        self.cancel = cancel
        self.clock = clock
        self.secrets = secrets
        self.state = JobState(spec, secrets, machine.paths, machine.id)
        self.masker = Masker([*secrets.values(), str(self.state.github.get("token") or "")])
        self.place = Workplace(machine, self.state.workspace, self.state.variables({}, {}))
        self.results: list[StepResult] = []
        self.annotations: list[Annotation] = []
        self.summaries: list[str] = []
        self.verdict: tuple[Outcome, str] | None = None
        """Set once the job's outcome does not depend on its steps any more."""
        self.fault: Exception | None = None
        """What observer or log raised; kept so that it leaves plainly, in no group."""
        self.current: StepRun | None = None
        self.stop_current = trio.CancelScope()
        self.everything = trio.CancelScope()

    async def whole(self) -> JobResult:
        if self.cancel.is_set():
            return self.result(Outcome.CANCELLED, "it was cancelled before it began")
        if reason := unrunnable(self.spec):
            await self.log.begin_step(0)
            await self.console(0).error(reason)
            return self.result(Outcome.STARTUP_FAILURE, reason)
        with self.everything:
            async with trio.open_nursery() as nursery:
                try:
                    await self.begin(nursery)
                except MachineLost as error:
                    await self.end_early(Outcome.LOST, f"the machine was lost: {error}")
                except Exception as error:
                    self.fault = error
                nursery.cancel_scope.cancel()
        if self.fault is not None:
            raise self.fault
        await self.leave_out_the_rest()
        outputs = await self.outputs()
        outcome, reason = self.verdict or judged(self.results)
        return self.result(outcome, reason, outputs)

    async def begin(self, nursery: trio.Nursery) -> None:
        """Set the job up, then run its steps, watched from the side."""
        await self.introduce()
        contexts = self.state.contexts({})
        try:
            for written in (self.spec.workflow.env, self.spec.job.env):
                self.state.environment |= environment_of(written, contexts, {})
            timeout = self.minutes("timeout-minutes", self.spec.job.timeout_minutes)
            grace = self.minutes("cancel-timeout-minutes", self.spec.job.cancel_timeout_minutes)
        except (ExpressionError, StepFailed) as error:
            await self.end_early(Outcome.STARTUP_FAILURE, f"the job cannot be started as written: {error}")
            return
        nursery.start_soon(
            self.watch,
            (timeout or self.spec.default_timeout_minutes) * 60,
            (grace or self.spec.cancel_minutes) * 60,
        )
        try:
            await self.place.prepare(len(self.spec.job.steps), dict(self.state.github.get("event") or {}))
        except Unusable as error:
            await self.end_early(Outcome.INFRA_ERROR, str(error))
            return
        self.state.github["event_path"] = self.place.event_path
        for number, step in enumerate(self.spec.job.steps, 1):
            await self.take(number, step)
            if self.verdict and self.verdict[0] in (Outcome.LOST, Outcome.INFRA_ERROR):
                return

    async def watch(self, timeout: float, grace: float) -> None:
        """Wait for a cancellation or the end of the job's time; then stop what must not go on."""
        with trio.move_on_after(timeout) as waiting:
            await self.cancel.wait()
        if waiting.cancelled_caught:
            reason = f"the job took longer than {timeout / 60:g} minutes"
            self.verdict = (Outcome.TIMED_OUT, reason)
        else:
            reason = "the job was cancelled"
            self.verdict = (Outcome.CANCELLED, reason)
        self.state.status = "cancelled"
        self.everything.deadline = trio.current_time() + grace
        try:
            said = f"{reason[0].upper()}{reason[1:]}; only steps that run always go on."
            await self.console(0).warning(said)
        except Exception as error:
            self.fault = error
            self.everything.cancel()
        if self.current is not None and not await self.goes_on(self.current):
            self.stop_current.cancel()

    async def goes_on(self, step: StepRun) -> bool:
        try:
            return await step.holds()
        except (StepFailed, MachineLost):
            return False

    async def take(self, number: int, step: Step) -> None:
        """Run one step or skip it, and record how it ended, whatever ends it."""
        run = StepRun(self.spec, step, number, self.state, self.place, self.machine, self.checkout)
        self.state.github["action"] = step.id or f"__run_{number}"
        self.current, self.stop_current = run, trio.CancelScope()
        trouble = ""
        try:
            await run.evaluate_env()
            if not await run.holds():
                await self.skip(run)
                return
        except StepFailed as error:
            trouble = str(error)
        name = storable(self.masker.mask(await run.name()))
        console = self.console(number)
        started = self.clock()
        await self.log.begin_step(number)
        await self.observer.step_started(number, name)
        ended = Ended(outcome=Outcome.CANCELLED, reason="the job was stopped")
        conclusion = ended.outcome
        try:
            ended = await self.perform(run, console, trouble)
            conclusion = await self.concluded(run, console, ended)
        except MachineLost as error:
            conclusion = Outcome.LOST
            ended = Ended(outcome=Outcome.LOST, reason=f"the machine was lost: {error}")
            raise
        finally:
            self.current = None
            self.state.take_step(step.id, ended.outputs, ended.outcome, conclusion)
            self.annotations += console.annotations
            if ended.summary.strip():
                self.summaries.append(ended.summary)
            # Also when this task is being cancelled: who is shown the step must learn that it ended.
            with trio.move_on_after(_RECORD_SECONDS, shield=True):
                await self.put_result(
                    number, step.id, name, ended.outcome, conclusion, ended.reason, ended.exit_code, started
                )

    async def perform(self, run: StepRun, console: Console, trouble: str) -> Ended:
        """Run a step whose `if` holds, within its time and until it is stopped."""
        ended: Ended | None = None
        minutes: float | None = None
        try:
            if trouble:
                raise StepFailed(trouble)
            minutes = await run.minutes()
            with self.stop_current, trio.move_on_after(math.inf if minutes is None else minutes * 60) as time:
                ended = await run.run(console)
            if ended is None and time.cancelled_caught:
                reason = f"The step has timed out after {minutes:g} minutes."
                await console.error(reason)
                ended = Ended(outcome=Outcome.TIMED_OUT, reason=reason)
            elif ended is None:
                reason = self.verdict[1] if self.verdict else "it was stopped"
                await console.error(f"The operation was canceled: {reason}.")
                ended = Ended(outcome=Outcome.CANCELLED, reason=reason)
        except StepFailed as error:
            await console.error(str(error)[0].upper() + str(error)[1:])
            ended = Ended(outcome=Outcome.FAILURE, reason=str(error))
        if run.step.run is None or ended.outcome is Outcome.INFRA_ERROR:
            return ended
        with trio.move_on_after(_COLLECT_SECONDS):
            return await run.collect(console, ended)
        await console.error("The step's files could not be read in time.")
        return ended if not ended.outcome.green else Ended(outcome=Outcome.FAILURE, reason="no files")

    async def concluded(self, run: StepRun, console: Console, ended: Ended) -> Outcome:
        """The step's conclusion: its outcome, but success where it may fail."""
        if ended.outcome is Outcome.INFRA_ERROR:
            self.verdict = (Outcome.INFRA_ERROR, ended.reason)
        if ended.outcome not in (Outcome.FAILURE, Outcome.TIMED_OUT):
            return ended.outcome
        try:
            return Outcome.SUCCESS if await run.may_fail() else ended.outcome
        except StepFailed as error:
            await console.error(str(error))
            return ended.outcome

    async def skip(self, run: StepRun) -> None:
        written = run.step.condition
        why = {"failure": "an earlier step failed", "cancelled": "the job was cancelled"}
        reason = (
            f"its `if` does not hold: {written}" if written is not None else why.get(self.state.status, "")
        )
        self.state.take_step(run.step.id, {}, Outcome.SKIPPED, Outcome.SKIPPED)
        self.current = None
        name = await run.name()
        await self.put_result(run.number, run.step.id, name, Outcome.SKIPPED, Outcome.SKIPPED, reason)

    async def put_result(
        self,
        number: int,
        key: str,
        name: str,
        outcome: Outcome,
        conclusion: Outcome,
        reason: str,
        exit_code: int | None = None,
        started: float | None = None,
    ) -> None:
        result = StepResult(
            number=number,
            id=key,
            name=storable(self.masker.mask(name)),
            outcome=outcome,
            conclusion=conclusion,
            exit_code=exit_code,
            started=started,
            ended=None if started is None else self.clock(),
            reason=storable(self.masker.mask(reason)),
        )
        self.results.append(result)
        await self.observer.step_ended(result)

    async def leave_out_the_rest(self) -> None:
        """Record the steps that were not reached."""
        done = {result.number for result in self.results}
        reason = self.verdict[1] if self.verdict else "the job ended before it"
        for number, step in enumerate(self.spec.job.steps, 1):
            if number not in done:
                name = default_name(step) if step.name is None else str(step.name)
                await self.put_result(number, step.id, name, Outcome.SKIPPED, Outcome.SKIPPED, reason)

    async def outputs(self) -> dict[str, str]:
        """Evaluate the job's outputs; what holds a secret is dropped with a warning."""
        outputs: dict[str, str] = {}
        if not self.spec.job.outputs or (self.verdict and self.verdict[0].retryable):
            return outputs
        console = self.console(0)
        contexts = self.state.contexts(self.state.environment)
        for name, written in self.spec.job.outputs.items():
            try:
                value = interpolate(written, contexts, functions=status_functions(self.state.status))
            except ExpressionError as error:
                reason = f"the output {name!r} cannot be evaluated: {error}"
                await console.error(reason)
                self.verdict = self.verdict or (Outcome.FAILURE, reason)
                continue
            if self.masker.reveals(value):
                await console.warning(f"The output {name!r} was dropped because it may contain a secret.")
            elif sum(map(len, outputs.values())) + len(value) > self.spec.limits.outputs:
                reason = f"the job's outputs are larger than {self.spec.limits.outputs >> 10} KiB together"
                await console.error(reason)
                self.verdict = self.verdict or (Outcome.FAILURE, reason)
            elif value:
                outputs[name] = storable(value)
        self.annotations += console.annotations
        return outputs

    def result(self, outcome: Outcome, reason: str, outputs: Mapping[str, str] | None = None) -> JobResult:
        return JobResult(
            outcome=outcome,
            reason=storable(self.masker.mask(reason)),
            outputs=dict(outputs or {}),
            steps=tuple(self.results),
            annotations=tuple(self.annotations),
            summary=joined(storable(self.masker.mask("\n\n".join(self.summaries))), self.spec.limits.summary),
        )

    async def introduce(self) -> None:
        """Say at the head of the log what runs where."""
        await self.log.begin_step(0)
        identity = self.machine.identity
        console = self.console(0)
        await console.line(f"##[group]runnerd {runnerd.__version__}")
        await console.line(
            f"Job: {self.spec.record.name}, run {self.spec.run.id}, attempt {self.spec.run.attempt}"
        )
        await console.line(f"Labels: {', '.join(self.spec.record.labels) or 'none'}")
        await console.line("##[endgroup]")
        await console.line("##[group]Machine")
        await console.line(f"Machine: {self.machine.id}, image {self.machine.image}")
        if identity is not None:
            await console.line(f"Boot id: {identity.boot_id}")
            await console.line(f"Machine id: {identity.machine_id}")
        if not self.machine.capabilities.isolated:
            await console.line("Isolation: none, the job runs as a process of the host")
        await console.line("##[endgroup]")
        for problem in (*self.spec.workflow.unsupported, *self.spec.workflow.warnings):
            await console.line(f"##[warning]{problem}")
        short = sorted(name for name, value in self.secrets.items() if 0 < len(value.strip()) < SHORT)
        if short:
            await console.warning(
                f"The secret {short[0]} has fewer than {SHORT} characters: masking it will also hide "
                "other text, and outputs that happen to contain it are dropped."
            )
            self.annotations += console.annotations

    async def end_early(self, outcome: Outcome, reason: str) -> None:
        self.verdict = self.verdict or (outcome, reason)
        console = self.console(0)
        await console.error(reason[0].upper() + reason[1:])
        self.annotations += console.annotations

    def minutes(self, key: str, written: Any) -> float | None:
        return minutes_of(value_of(written, self.state.contexts({})), key)

    def console(self, number: int) -> Console:
        return Console(
            number,
            self.log,
            self.masker,
            workspace=self.state.workspace,
            debug=self.spec.debug,
            limits=self.spec.limits,
        )
