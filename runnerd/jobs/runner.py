"""Runs one job in one machine, from its first line of log to its result.

What a workflow or a guest does never raises here: it becomes the job's outcome.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from typing import Any

import msgspec
import trio

import runnerd
from runnerd.jobs.background import Background
from runnerd.jobs.console import Console
from runnerd.jobs.evaluation import status_functions
from runnerd.jobs.keys import StepFailed, default_name, environment_of, minutes_of
from runnerd.jobs.masker import SHORT, Masker
from runnerd.jobs.outcome import storable, unrunnable
from runnerd.jobs.ports import Checkout, Clock, LogSink, Network, PolicyUnheld, Rewind, StepObserver
from runnerd.jobs.problems import Problems
from runnerd.jobs.record import Record
from runnerd.jobs.sequence import placed
from runnerd.jobs.spec import JobSpec, wants_debug
from runnerd.jobs.standing import Standing, encode
from runnerd.jobs.state import Finish, JobState
from runnerd.jobs.step import StepRun
from runnerd.jobs.turn import Desk, Turn
from runnerd.jobs.workplace import Unusable, Workplace
from runnerd.machines.driver import Machine, MachineLost, NotKept
from runnerd.model import JobResult, Outcome
from runnerd.workflow import ExpressionError, interpolate, value_of


async def run_job(
    spec: JobSpec,
    machine: Machine,
    *,
    checkout: Checkout,
    log: LogSink,
    observer: StepObserver,
    secrets: Mapping[str, str],
    cancel: trio.Event,
    network: Network | None = None,
    clock: Clock = time.time,
    masked: Collection[str] = (),
    rewind: Rewind | None = None,
    standing: Standing | None = None,
) -> JobResult:
    """Run the job's steps in a machine that was leased for it, and say how it ended.

    `secrets` are the `secrets` context; their values, and those of `masked`, are masked in the log and in
    every field of the result. Setting `cancel` stops the running step, unless its `if` holds for a
    cancelled job too; then `always()` and `cancelled()` steps still run, all within
    `cancel-timeout-minutes`. `network` is open for as long as steps run; None leaves the machine as it is.
    `rewind` keeps the machine before steps, and says which of those that fail are tried again from there.
    With `standing` the job goes on in a machine that was kept before a step: what came earlier stays as it
    was, and nothing of it runs again; one that does not fit the job makes the result `infra_error`.

    A lost machine makes the result `lost`, a process without an exit status `infra_error`, a job that
    cannot be started as written `startup_failure`. Raises only what `observer` and `log` raise, and
    `Cancelled`, after the running process was stopped.
    """
    run = _JobRun(spec, machine, checkout, log, observer, secrets, cancel, network, clock, masked, rewind)
    try:
        return await run.whole(standing)
    finally:
        await run.problems.close()


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
        network: Network | None,
        clock: Clock,
        masked: Collection[str],
        rewind: Rewind | None,
    ) -> None:
        self.spec = msgspec.structs.replace(spec, debug=spec.debug or wants_debug(spec, secrets))
        self.steps = placed(spec.job.steps or ())
        self.machine = machine
        self.checkout = checkout
        self.log = log
        self.cancel = cancel
        self.network = network
        self.secrets = secrets
        self.state = JobState(self.spec, secrets, machine.paths, machine.id)
        self.masker = Masker([*secrets.values(), *masked, str(self.state.github.get("token") or "")])
        self.given = self.masker.count
        self.place = Workplace(machine, self.state.workspace, self.state.variables({}, {}))
        self.problems = Problems(self.place.read_file, self.place.is_file, self.state.workspace)
        self.record = Record(self.masker, observer, clock)
        self.desk = Desk(
            state=self.state,
            place=self.place,
            record=self.record,
            log=log,
            observer=observer,
            clock=clock,
            limits=spec.limits,
            console=self.console,
            rewind=rewind,
            keep=self.keep,
        )
        self.complained = False
        """Whether the log says that the machine is not kept, and why."""
        self.background = Background(self.state, self.record, self.beside)
        self.turns: set[Turn] = set()
        """Those that are being taken, or queue for it."""
        self.verdict: tuple[Outcome, str] | None = None
        """Set once the job's outcome does not depend on its steps any more."""
        self.fault: Exception | None = None
        """What observer or log raised; kept so that it leaves plainly, in no group."""
        self.everything = trio.CancelScope()

    async def whole(self, standing: Standing | None) -> JobResult:
        if self.cancel.is_set():
            return self.result(Outcome.CANCELLED, "it was cancelled before it began")
        if reason := unrunnable(self.spec):
            await self.log.begin_step(0)
            await self.console(0).error(reason)
            return self.result(Outcome.STARTUP_FAILURE, reason)
        if standing is not None and (problem := standing.unfit(len(self.steps))):
            reason = f"the job cannot go on from what was kept: {problem}"
            await self.log.begin_step(0)
            await self.console(0).error(reason)
            return self.result(Outcome.INFRA_ERROR, reason)
        for value in () if standing is None else standing.masks:
            self.masker.add(value)
        with self.everything:
            async with trio.open_nursery() as nursery:
                with self.blamed():
                    try:
                        await self.begin(nursery, standing)
                    except MachineLost as error:
                        await self.end_early(Outcome.LOST, f"the machine was lost: {error}")
                nursery.cancel_scope.cancel()
        if self.fault is not None:
            raise self.fault
        await self.leave_out_the_rest()
        outputs = await self.outputs()
        if url := self.environment("url"):
            await self.console(0).line(f"Environment's address: {url}")
        outcome, reason = self.verdict or self.record.judged()
        ended = outcome in (Outcome.LOST, Outcome.INFRA_ERROR)
        if (ended or (self.verdict and self.machine.lost.is_set())) and await self.keep_console():
            reason += " (the end of the machine's console is in the job's log)"
        return self.result(outcome, reason, outputs)

    async def begin(self, nursery: trio.Nursery, standing: Standing | None) -> None:
        """Set the job up, then run its steps, watched from the side."""
        await self.introduce()
        contexts = self.state.contexts({})
        try:
            for written in (self.spec.workflow.env, self.spec.job.env):
                self.state.provide(environment_of(written, contexts, {}))
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
        async with AsyncExitStack() as around:
            try:
                if self.network is not None:
                    opened = self.network.open(self.machine, self.spec.run, self.say)
                    self.state.host_environment = await around.enter_async_context(opened)
                if standing is None:
                    await self.place.prepare(len(self.steps), dict(self.state.github.get("event") or {}))
            except PolicyUnheld as error:
                await self.end_early(Outcome.STARTUP_FAILURE, str(error))
            except OSError as error:
                await self.end_early(Outcome.INFRA_ERROR, f"the machine got no network: {error}")
            except Unusable as error:
                await self.end_early(Outcome.INFRA_ERROR, str(error))
            else:
                self.state.github["event_path"] = self.place.event_path
                if standing is not None:
                    await self.resume(standing)
                await self.all_steps(nursery, 1 if standing is None else standing.before)

    async def all_steps(self, nursery: trio.Nursery, first: int) -> None:
        """Take the steps in their order from the `first` on, until the machine is no more."""
        for step in self.steps[first - 1 :]:
            run = StepRun(self.spec, step, self.state, self.place, self.machine, self.checkout)
            turn = Turn(self.desk, step, run)
            self.turns.add(turn)
            if not await turn.begins():
                self.turns.discard(turn)
                continue
            why_not = await turn.keep()
            if why_not and not self.complained and self.desk.rewind is not None and self.desk.rewind.asked:
                self.complained = True
                await self.say(f"The machine is not kept as it is before the step {turn.name!r}: {why_not}")
            if step.background:
                await self.background.start(turn, nursery)
            else:
                await self.front(turn)
                if self.verdict and self.verdict[0] in (Outcome.LOST, Outcome.INFRA_ERROR):
                    return
        await self.background.rest()

    async def front(self, turn: Turn) -> None:
        """Take a step that the next one waits for; what it did shows at once."""
        finish = await self.taken(turn)
        self.state.show(turn.placed.step.id, finish.effects, finish.outcome, finish.conclusion)
        self.state.count(finish.conclusion)

    async def beside(self, turn: Turn, has_place: bool) -> Finish | None:
        """Take a step of the background; when the machine or we are at fault the whole job ends."""
        finish = None
        if not has_place:
            self.turns.discard(turn)
        with self.blamed():
            try:
                finish = await (self.taken(turn) if has_place else turn.never())
            except MachineLost as error:
                await self.end_early(Outcome.LOST, f"the machine was lost: {error}")
        if finish is None or finish.outcome is Outcome.INFRA_ERROR:
            self.everything.cancel()
            return None
        return finish

    async def taken(self, turn: Turn) -> Finish:
        try:
            finish = await turn.take(self.background.control)
        finally:
            self.turns.discard(turn)
            await self.conceal()
        if finish.outcome is Outcome.INFRA_ERROR:
            self.verdict = (Outcome.INFRA_ERROR, finish.reason)
        return finish

    async def keep(self, turn: Turn, wanted: bool) -> None:
        """Keep the machine and how the job stands before a step; see `Rewind.keep`."""
        assert self.desk.rewind is not None
        if len(self.turns) > 1:
            raise NotKept("steps run in the background")
        if self.state.status == "cancelled":
            raise NotKept("the job was cancelled")
        masked = self.masker.count > self.given
        standing = encode(self.standing(turn.number))
        await self.desk.rewind.keep(turn.number, turn.name, standing, masked=masked, wanted=wanted)

    async def conceal(self, *, again: bool = False) -> None:
        """Have the machine be kept by nobody as it was before the job masked a value; see `Rewind`."""
        if self.desk.rewind is not None and self.masker.count > self.given:
            await self.desk.rewind.conceal(again=again)

    def standing(self, before: int) -> Standing:
        """How the job stands before a step, while none runs."""
        given = self.desk.rewind is not None and self.desk.rewind.given
        return Standing(
            run=self.spec.run.id,
            job=self.spec.record.id,
            before=before,
            shown=self.state.shown(self.masker.reveals),
            # It is encrypted then; and who goes on may be given other secrets than its machine holds.
            masks=tuple(self.masker.values[0 if given else self.given :]),
            matchers=self.problems.matchers,
            beside=self.background.ended,
            results=self.record.results,
            # Those of the set-up are made anew by the next one.
            annotations=tuple(each for each in self.record.annotations if each.step),
            summaries=self.record.summaries,
            excused=tuple(self.record.excused),
            shells=self.place.shells,
            used=self.place.used,
        )

    async def resume(self, standing: Standing) -> None:
        """Stand as the job did; the log says of each earlier step how it ended."""
        self.state.resume(standing.shown)
        self.problems.resume(standing.matchers)
        self.place.resume(standing.shells, used=standing.used)
        names = {result.number: result.name for result in standing.results}
        self.background.resume(standing.beside, self.steps, names)
        for result in standing.results:
            await self.log.begin_step(result.number)
            said = f"{result.name}: {result.conclusion}, as it was in job {standing.job}"
            await self.console(result.number).line(said)
            await self.log.end_step(result.number)
        await self.record.resume(standing.results, standing.annotations, standing.summaries, standing.excused)

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """Keep what observer or log raise, and end the job with it."""
        try:
            yield
        except Exception as error:
            self.fault = self.fault or error
            self.everything.cancel()

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
        with self.blamed():
            said = f"{reason[0].upper()}{reason[1:]}; only steps that run always go on."
            await self.console(0).warning(said)
        for turn in tuple(self.turns):
            if not await turn.goes_on():
                turn.stop(reason)

    async def leave_out_the_rest(self) -> None:
        """Record the steps that were not reached."""
        reason = self.verdict[1] if self.verdict else "the job ended before it"
        for number, step in ((each.number, each.step) for each in self.steps):
            if not self.record.has(number):
                name = default_name(step) if step.name is None else str(step.name)
                await self.record.put(number, step.id, name, Outcome.SKIPPED, Outcome.SKIPPED, reason=reason)

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
        self.record.annotations += console.annotations
        return outputs

    def result(self, outcome: Outcome, reason: str, outputs: Mapping[str, str] | None = None) -> JobResult:
        return self.record.result(outcome, reason, outputs or {}, summary=self.spec.limits.summary)

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
        if environment := self.environment("name"):
            await console.line(f"Environment: {environment}")
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
            self.record.annotations += console.annotations

    def environment(self, key: str) -> str:
        """The name or the url of the environment that the job is for; empty where it says none."""
        written = self.spec.job.environment
        if key == "name" and not isinstance(written, Mapping):
            said = written
        else:
            said = written.get(key) if isinstance(written, Mapping) else None
        try:
            return interpolate(said, self.state.contexts(self.state.environment))
        except ExpressionError as error:
            return f"its {key} cannot be evaluated: {error}"

    async def keep_console(self) -> bool:
        """Put the end of the machine's console into the job's log; whether there was any."""
        lines = self.machine.console_end()
        if lines:
            # Marked, so that nothing the guest wrote passes for a line of the log's own.
            for line in ("##[group]The end of the machine's console", *(f"| {line}" for line in lines)):
                await self.say(line)
            await self.say("##[endgroup]")
        return bool(lines)

    async def say(self, text: str) -> None:
        """Log a line that concerns the whole job, masked, among those of the step begun last."""
        await self.log.line(storable(self.masker.mask(text)))

    async def end_early(self, outcome: Outcome, reason: str) -> None:
        if self.verdict is None:
            self.verdict = (outcome, reason)
        elif self.verdict[0] is outcome or reason in self.verdict[1]:
            return  # several steps may see the machine end
        else:  # a machine that hangs is noticed once the job's time is over, or nobody waits any longer
            self.verdict = (self.verdict[0], f"{self.verdict[1]}; {reason}")
        console = self.console(0)
        await console.error(reason[0].upper() + reason[1:])
        self.record.annotations += console.annotations

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
            problems=self.problems,
            masked=partial(self.conceal, again=True),
        )
