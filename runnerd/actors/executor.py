"""Walks each run's job graph and runs its jobs, one machine each; the ledger is the only memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple, Protocol

import msgspec
import trio

from runnerd import log, metrics
from runnerd.jobs.contexts import github_context
from runnerd.jobs.ports import Checkout, LogSink
from runnerd.jobs.runner import run_job
from runnerd.jobs.spec import JobSpec
from runnerd.machines.driver import Machine, NoMachine
from runnerd.messages import CancelRun, LeaseMachine, OutboxChanged, PoolRestarted, RunCreated
from runnerd.model import JobRecord, JobResult, Outcome, Phase, RunRecord, StepResult
from runnerd.reading.process import Reader
from runnerd.store.changes import EndJob, EndRun
from runnerd.store.ledger import Ledger, LedgerUnavailable, StaleEpoch
from runnerd.store.progress import nodes, progress
from runnerd.store.recovery import ATTEMPTS
from runnerd.supervise.mailbox import Mailbox
from runnerd.supervise.reply import Reply
from runnerd.workflow import graph
from runnerd.workflow.model import ExpressionError, Workflow, WorkflowErrors

_log = log.get("executor")

WEAK = (
    "a pull request from a fork is not run on machines that are no security boundary (software emulation or "
    "none): use a host with KVM, or allow it with [machines] allow_emulated_forks"
)
SWEEP_EVERY = 10.0
"""Seconds between looks at the ledger for open runs whose hint was lost."""
ASK_AGAIN = 0.1
"""Seconds before a machine is asked for again after the pool went down."""


class Site(Protocol):
    """What a host gives to the jobs it runs; the daemon fills it in."""

    checkout: Checkout
    server_url: str
    api_url: str
    secrets: Mapping[str, str]
    variables: Mapping[str, str]
    environment: Mapping[str, str]
    """Environment variables of every job, which a workflow's own `env` overrides."""
    job_minutes: float
    cancel_minutes: float
    foreign_is_failure: bool
    """Whether a job that no image claims is ours to fail, or not ours."""
    allow_emulated_forks: bool
    """Whether strangers' code may run on machines that are no security boundary."""

    def image_for(self, labels: tuple[str, ...]) -> str | None:
        """The image that claims these labels, or None."""
        ...

    def open_log(self, run: RunRecord, job: JobRecord) -> AbstractAsyncContextManager[LogSink]:
        """Where the job's log goes."""
        ...


class _Attempt:
    """A job that has a task: waiting for a machine, or running on one."""

    def __init__(self) -> None:
        self.cancel = trio.Event()
        self.waiting: trio.CancelScope | None = None
        self.reason = ""

    def stop(self, reason: str) -> None:
        """Cancel the job: at once while it waits, through its steps when it runs."""
        self.reason = self.reason or reason
        self.cancel.set()
        self.stop_waiting()

    def stop_waiting(self) -> None:
        """Give up the wait for a machine, if it still waits."""
        if self.waiting is not None:
            self.waiting.cancel()


class _Ended(NamedTuple):
    """How an attempt ended; one that was never claimed had no machine and is not repeated."""

    epoch: int
    result: JobResult
    claimed: bool = False


class _Drive:
    """One run being walked, with the jobs that have a task."""

    def __init__(self) -> None:
        self.bell = trio.Event()
        self.attempts: dict[int, _Attempt] = {}
        self.script: tuple[Workflow, dict[str, Any]] | None = None
        """The workflow and the contexts that all jobs share; the same for as long as the run lives."""

    def ring(self) -> None:
        """Something changed: look at the ledger again."""
        self.bell.set()


class ExecutorActor:
    """Runs what stands in the ledger as open, from its first job to its terminal report.

    When it crashes its machines are destroyed with it; the next one takes over what the ledger says.
    Closing the mailbox drains: running jobs end, queued ones stay queued for the next start.
    """

    name = "executor"

    def __init__(
        self,
        mailbox: Mailbox[RunCreated | CancelRun],
        *,
        ledger: Ledger,
        pool: Mailbox[Any],
        reporter: Mailbox[OutboxChanged],
        site: Site,
        clock: Callable[[], float],
        cancel_all: trio.Event,
        reader: Reader | None = None,
    ) -> None:
        self._mailbox = mailbox
        self._ledger = ledger
        self._pool = pool
        self._reporter = reporter
        self._site = site
        self._clock = clock
        self._cancel_all = cancel_all
        self._reader = reader or Reader()
        self._drives: dict[int, _Drive] = {}
        self._draining = False
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until the mailbox is closed and every running job has ended.

        What a workflow or a machine does ends its job, or its run, and never this task. It crashes when the
        ledger fails; the next one goes on from what the ledger says.
        """
        recovery = await self._ledger.recover(self._clock())
        for run, job, _ in recovery.lost:
            _log.error("a job was lost with an earlier daemon", run=run, job=job)
        self._reporter.offer(OutboxChanged())
        async with trio.open_nursery() as watch:
            watch.start_soon(self._stop_everything_when_told)
            async with trio.open_nursery() as drives:
                self._nursery = drives
                for run in await self._ledger.open_runs():
                    self._take_up(run, drives)
                task_status.started()
                watch.start_soon(self._sweep, drives)
                async for message in self._mailbox:
                    self._take_up(message.run, drives)
                self._drain()
            watch.cancel_scope.cancel()

    async def _sweep(self, drives: trio.Nursery) -> None:
        """The ledger is the truth: an open run is walked and a cancelled one stopped, hint or no hint."""
        while True:
            await trio.sleep(SWEEP_EVERY)
            for run in await self._ledger.open_runs():
                if not self._draining:
                    self._take_up(run, drives)

    def _take_up(self, run: int, nursery: trio.Nursery) -> None:
        if run in self._drives:
            self._drives[run].ring()
        else:
            self._drives[run] = _Drive()
            nursery.start_soon(self._walk, run, self._drives[run])

    def _drain(self) -> None:
        """Start nothing more; jobs that wait for a machine stay queued for the next start."""
        self._draining = True
        for drive in self._drives.values():
            for attempt in drive.attempts.values():
                attempt.stop_waiting()
            drive.ring()

    async def _stop_everything_when_told(self) -> None:
        await self._cancel_all.wait()
        self._drain()
        for drive in self._drives.values():
            for attempt in drive.attempts.values():
                attempt.stop("the daemon was told to stop at once")

    async def _walk(self, run_id: int, drive: _Drive) -> None:
        """Take a run from where the ledger has it to its end, or to where draining leaves it."""
        try:
            with log.context(run=run_id):
                async with trio.open_nursery() as jobs:
                    while await self._round(run_id, drive, jobs):
                        await drive.bell.wait()
        finally:
            del self._drives[run_id]

    async def _round(self, run_id: int, drive: _Drive, jobs: trio.Nursery) -> bool:
        """Decide and act until nothing more is to be decided now; False when the run needs no more."""
        while True:
            drive.bell = trio.Event()
            # Jobs with a task may move on while this round looks; of all others its look stays true.
            busy = frozenset(drive.attempts)
            run = await self._ledger.run(run_id)
            if run is None or run.phase is Phase.DONE:
                return False
            rows = await self._ledger.jobs(run_id)
            try:
                workflow, contexts = drive.script = drive.script or await self._read(run, rows)
                actions = graph.decide(workflow, nodes(rows), contexts, cancelled=run.cancel_requested)
            except LedgerUnavailable:
                raise
            except Exception as error:
                return await self._give_up(run_id, rows, drive, busy, _blame(error))
            todo = progress(actions, rows, self._clock(), ours=self._ours)
            if todo.changes:
                await self._ledger.apply(run_id, todo.changes)
                self._reporter.offer(OutboxChanged())
            if todo.outcome is not None:
                _log.info("run ended", outcome=todo.outcome.value)
                return False
            stopped = self._stop(todo.cancel, rows, drive, busy)
            if stopped:
                await self._ledger.apply(run_id, stopped)
                self._reporter.offer(OutboxChanged())
            if not self._draining:
                # A row that is queued without a task was left behind, by an earlier executor for one.
                left = (row.id for row in rows if row.phase is Phase.QUEUED and row.id not in busy)
                for job in (*todo.start, *left):
                    if job not in drive.attempts and job not in todo.cancel:
                        drive.attempts[job] = _Attempt()
                        jobs.start_soon(self._work, run, job, workflow, contexts, drive)
            if not todo.changes and not stopped:
                return not self._draining or bool(drive.attempts)

    async def _read(self, run: RunRecord, rows: Sequence[JobRecord]) -> tuple[Workflow, dict[str, Any]]:
        """The workflow as far as it is ours, and the contexts that all its jobs share."""
        source = await self._ledger.source(run.source)
        workflow = await self._reader.load(source, run.workflow_path)
        ours = {row.key for row in rows}
        workflow = msgspec.structs.replace(
            workflow,
            env={**self._site.environment, **workflow.env},
            jobs={key: job for key, job in workflow.jobs.items() if key in ours},
        )
        github = github_context(
            run.event,
            run,
            payload=await self._ledger.payload(run.delivery),
            server_url=self._site.server_url,
            api_url=self._site.api_url,
        )
        return workflow, {"github": github, "inputs": run.event.inputs, "vars": self._site.variables}

    async def _give_up(
        self, run: int, rows: Sequence[JobRecord], drive: _Drive, busy: Collection[int], reason: str
    ) -> bool:
        """End a run that cannot be walked, once its tasks have ended; False when that is done."""
        for attempt in drive.attempts.values():
            attempt.stop(reason)
        if busy:
            return True
        result = JobResult(outcome=Outcome.STARTUP_FAILURE, reason=reason)
        undone = (row for row in rows if row.phase is not Phase.DONE)
        ended = [EndJob(job=row.id, epoch=row.epoch, result=result) for row in undone]
        await self._ledger.apply(run, [*ended, EndRun(outcome=Outcome.STARTUP_FAILURE, reason=reason)])
        self._reporter.offer(OutboxChanged())
        return False

    def _ours(self, labels: tuple[str, ...]) -> bool:
        return self._site.foreign_is_failure or self._site.image_for(labels) is not None

    def _stop(
        self, cancel: Mapping[int, str], rows: Sequence[JobRecord], drive: _Drive, busy: Collection[int]
    ) -> list[EndJob]:
        """Stop the tasks of these jobs; a queued job that has none is ended at once.

        A task that waits for a machine leaves its job queued: the next round finds it without one.
        """
        ended = []
        phases = {row.id: row for row in rows}
        for job, reason in cancel.items():
            if job in drive.attempts:
                drive.attempts[job].stop(reason)
            elif job not in busy and phases[job].phase is Phase.QUEUED:
                result = JobResult(outcome=Outcome.CANCELLED, reason=reason)
                ended.append(EndJob(job=job, epoch=phases[job].epoch, result=result))
        return ended

    async def _work(
        self, run: RunRecord, job: int, workflow: Workflow, contexts: Mapping[str, Any], drive: _Drive
    ) -> None:
        """Run one job to a recorded outcome, with its retries; leaves it queued when draining."""
        attempt = drive.attempts[job]
        try:
            with log.context(job=job):
                while True:
                    ended = await self._try(run, job, workflow, contexts, attempt)
                    if ended is None:
                        return
                    epoch, result, claimed = ended
                    if claimed and result.outcome.retryable and await self._may_repeat(job, epoch):
                        _log.warning("job is tried again", outcome=result.outcome, reason=result.reason)
                        await self._ledger.retry_job(job, epoch, result.reason)
                        self._reporter.offer(OutboxChanged())
                        continue
                    await self._ledger.apply(run.id, [EndJob(job=job, epoch=epoch, result=result)])
                    _log.info("job ended", outcome=result.outcome, reason=result.reason)
                    self._reporter.offer(OutboxChanged())
                    return
        except StaleEpoch as stale:
            _log.error("another attempt took this job over", problem=str(stale))
        finally:
            del drive.attempts[job]
            drive.ring()

    async def _may_repeat(self, job: int, epoch: int) -> bool:
        """Whether an attempt that we failed had no effect, and is not the last."""
        row = await self._ledger.job(job)
        return epoch < ATTEMPTS and row is not None and not row.step_started

    async def _try(
        self,
        run: RunRecord,
        job: int,
        workflow: Workflow,
        contexts: Mapping[str, Any],
        attempt: _Attempt,
    ) -> _Ended | None:
        """One attempt: a machine, the steps, no machine. None when the job is to stay as it is for now."""
        row = await self._ledger.job(job)
        if row is None or row.phase is not Phase.QUEUED:
            return None
        image = self._site.image_for(row.labels)
        if image is None:
            wanted = ", ".join(row.labels) or "none"
            reason = f"no image claims the labels {wanted}: see [images] in config.toml"
            return _Ended(row.epoch, JobResult(outcome=Outcome.STARTUP_FAILURE, reason=reason))
        try:
            machine = await self._lease(image, job, attempt)
        except NoMachine as problem:
            return _Ended(row.epoch, JobResult(outcome=Outcome.INFRA_ERROR, reason=str(problem)))
        if machine is None:
            return None
        try:
            # What was started in a run known as cancelled is to run all the same.
            epoch = await self._ledger.claim_job(job, machine.id, though_cancelled=run.cancel_requested)
            if epoch is None:
                return None
            self._reporter.offer(OutboxChanged())
            if row.queued is not None:
                metrics.job_queue_seconds.observe(self._clock() - row.queued)
            try:
                result = await self._run_on(machine, run, row, epoch, workflow, contexts, attempt)
            except (StaleEpoch, LedgerUnavailable):
                raise
            except Exception as error:
                result = JobResult(outcome=Outcome.INFRA_ERROR, reason=_blame(error))
            return _Ended(epoch, result, claimed=True)
        finally:
            await machine.destroy()

    async def _lease(self, image: str, job: int, attempt: _Attempt) -> Machine | None:
        """A machine from the pool; None when the wait was called off."""
        if self._draining or attempt.cancel.is_set():
            return None
        with trio.CancelScope() as attempt.waiting:
            while True:
                reply: Reply[Machine] = Reply()
                await self._pool.send(LeaseMachine(image, job, reply))
                try:
                    return await reply.wait(take_back=self._take_back)
                except PoolRestarted:
                    await trio.sleep(ASK_AGAIN)
        return None

    def _take_back(self, machine: Machine) -> None:
        """A machine that came for a job which no longer waits serves nobody else."""
        assert self._nursery is not None
        self._nursery.start_soon(machine.destroy)

    async def _run_on(
        self,
        machine: Machine,
        run: RunRecord,
        row: JobRecord,
        epoch: int,
        workflow: Workflow,
        contexts: Mapping[str, Any],
        attempt: _Attempt,
    ) -> JobResult:
        """Run the steps; whatever the workflow or the machine does is a result."""
        weak = machine.capabilities.emulated or not machine.capabilities.isolated
        if run.event.fork and weak and not self._site.allow_emulated_forks:
            return JobResult(outcome=Outcome.STARTUP_FAILURE, reason=WEAK)
        identity = machine.identity
        if identity is not None:
            await self._ledger.set_identity(row.id, epoch, identity.boot_id, identity.machine_id)
        job = workflow.jobs[row.key]
        jobs = nodes(await self._ledger.jobs(run.id))
        contexts = {
            **contexts,
            "github": {**contexts["github"], "job": row.key},
            "needs": graph.needs_context(workflow, jobs, row.key),
            "matrix": row.matrix,
        }
        try:
            contexts["strategy"] = graph.strategy_context(job, contexts, row.leg, row.legs)
        except ExpressionError as wrong:
            reason = f"`strategy` of job {row.key!r}: {wrong}"
            return JobResult(outcome=Outcome.STARTUP_FAILURE, reason=reason)
        spec = JobSpec(
            run=run,
            record=msgspec.structs.replace(row, machine=machine.id, epoch=epoch),
            workflow=workflow,
            job=job,
            contexts=contexts,
            default_timeout_minutes=self._site.job_minutes,
            cancel_minutes=self._site.cancel_minutes,
        )
        started = self._clock()
        with log.context(machine=machine.id):
            _log.info("job starts", repository=run.repository, name=row.name)
            async with self._site.open_log(run, row) as sink:
                result = await run_job(
                    spec,
                    machine,
                    checkout=self._site.checkout,
                    log=sink,
                    observer=_Observer(self._ledger, row.id, epoch),
                    secrets={} if run.event.fork else self._site.secrets,
                    cancel=attempt.cancel,
                    clock=self._clock,
                )
        metrics.job_duration_seconds.labels(conclusion=result.outcome.value).observe(self._clock() - started)
        if result.outcome is Outcome.CANCELLED and attempt.reason:
            return msgspec.structs.replace(result, reason=attempt.reason)
        return result


def _blame(error: Exception) -> str:
    """Why something could not be done; what we did not foresee is ours, and costs its own run alone."""
    if isinstance(error, WorkflowErrors):
        return f"this version cannot read the workflow any more: {error}"
    _log.error("a fault of ours", exc_info=error)
    return f"a fault of runnerd itself ({type(error).__name__}): its log says where"


class _Observer:
    """Writes each step's beginning and end to the ledger, under the attempt's epoch."""

    def __init__(self, ledger: Ledger, job: int, epoch: int) -> None:
        self._ledger = ledger
        self._job = job
        self._epoch = epoch

    async def step_started(self, number: int, name: str) -> None:
        """Durable before the step runs: an attempt with a started step is not repeated by itself."""
        await self._ledger.step_started(self._job, self._epoch, number)

    async def step_ended(self, result: StepResult) -> None:
        """Shown while the job runs on."""
        await self._ledger.step_ended(self._job, self._epoch, result)
