"""One job on one machine: lease, claim, steps, outcome, retries; a part of the executor.

What a run's graph allows next decides `executor`; what a job gets of its host, and how an attempt of it is
made, repeated and recorded, stands here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import trio

from runnerd import log, metrics
from runnerd.actors.wayon import way_on
from runnerd.jobs.ports import Checkout, LogSink, Network
from runnerd.jobs.runner import run_job
from runnerd.jobs.spec import JobSpec
from runnerd.jobs.standing import Standing
from runnerd.machines import rewind
from runnerd.machines.driver import Machine, NoMachine
from runnerd.machines.kept import Kept, KeptMachines, before_failure, way_back
from runnerd.machines.rewinding import RewindingMachine
from runnerd.messages import LeaseMachine, OutboxChanged, PoolRestarted, RestoreMachine
from runnerd.model import JobRecord, JobResult, Outcome, Phase, RunRecord, StepResult
from runnerd.store.changes import EndJob
from runnerd.store.ledger import Ledger, LedgerUnavailable, StaleEpoch
from runnerd.store.progress import nodes
from runnerd.store.recovery import ATTEMPTS
from runnerd.supervise.mailbox import Mailbox
from runnerd.supervise.reply import Reply
from runnerd.trust.handed import handed
from runnerd.trust.token import token_permissions
from runnerd.workflow import graph, value_of
from runnerd.workflow.calls import Scope, file_of, is_plain, leg_contexts, scope_of, secrets_of
from runnerd.workflow.model import ExpressionError, WorkflowErrors
from runnerd.workflow.naming import named_at_root

_log = log.get("executor")

WEAK = (
    "a pull request from a fork is not run on machines that are no security boundary (software emulation or "
    "none): use a host with KVM, or allow it with [machines] allow_emulated_forks"
)
ASK_AGAIN = 0.1
"""Seconds before a machine is asked for again after the pool went down."""


class Site(Protocol):
    """What a host gives to the jobs it runs; the daemon fills it in."""

    checkout: Checkout
    network: Network | None
    """What jobs reach; None leaves their machines as they are."""
    server_url: str
    api_url: str
    variables: Mapping[str, str]
    environment: Mapping[str, str]
    """Environment variables of every job, which a workflow's own `env` overrides."""
    job_minutes: float
    cancel_minutes: float
    foreign_is_failure: bool
    """Whether a job that no image claims is ours to fail, or not ours."""
    allow_emulated_forks: bool
    """Whether strangers' code may run on machines that are no security boundary."""
    rewinds: rewind.Rules
    """Before which steps machines are kept, and which steps that fail are tried again."""
    kept: KeptMachines
    """Where."""

    async def secrets_for(
        self, run: RunRecord, named: frozenset[str] | None, environment: str
    ) -> Mapping[str, str]:
        """The secrets a job of this run may have, of those it can name (None: any).

        `environment` is the name of the environment the job is for, or empty. Raises `NoSecrets`.
        """
        ...

    def job_token(self, run: RunRecord, permissions: Mapping[str, str]) -> AbstractAsyncContextManager[str]:
        """A token of one job, revoked when it is left; empty where there is none. Raises `NoSecrets`."""
        ...

    def image_for(self, labels: tuple[str, ...]) -> str | None:
        """The image that claims these labels, or None."""
        ...

    def open_log(self, run: RunRecord, job: JobRecord) -> AbstractAsyncContextManager[LogSink]:
        """Where the job's log goes."""
        ...


class NoSecrets(Exception):
    """The host's secrets cannot be read; the sentence says what to do and holds no value."""


class Attempt:
    """A job that has a task: waiting for a machine, or running on one."""

    def __init__(self) -> None:
        self.cancel = trio.Event()
        self.standing: Standing | None = None
        """How the job stood where it goes on; None where it begins."""
        self.source: Kept | None = None
        """The machine it goes on in, as it was kept."""
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


class Attempts:
    """Runs jobs, each in the task that calls `work`; all of one executor share it."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        pool: Mailbox[Any],
        reporter: Mailbox[OutboxChanged],
        site: Site,
        clock: Callable[[], float],
        nursery: trio.Nursery,
    ) -> None:
        self._ledger = ledger
        self._pool = pool
        self._reporter = reporter
        self._site = site
        self._clock = clock
        self._nursery = nursery
        """Where machines that came too late are destroyed."""
        self._told = False
        """Whether it was said that these machines are kept for nobody."""
        self.draining = False
        """Whether nothing more is to start: who waits for a machine stops waiting."""

    async def work(self, run: RunRecord, job: int, script: Scope, attempt: Attempt) -> None:
        """Run one job to a recorded outcome, with its retries; leaves it queued when draining."""
        try:
            with log.context(job=job):
                while True:
                    ended = await self._try(run, job, script, attempt)
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

    async def _may_repeat(self, job: int, epoch: int) -> bool:
        """Whether an attempt that we failed had no effect, and is not the last."""
        row = await self._ledger.job(job)
        return epoch < ATTEMPTS and row is not None and not row.step_started

    async def _try(
        self,
        run: RunRecord,
        job: int,
        script: Scope,
        attempt: Attempt,
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
            machine = await self._machine(image, run, row, attempt)
        except NoMachine as problem:
            return _Ended(row.epoch, JobResult(outcome=Outcome.INFRA_ERROR, reason=str(problem)))
        if machine is None:
            return None
        why = "its job was not to run any more"
        try:
            # What was started in a run known as cancelled is to run all the same.
            who = (machine.identity.boot_id, machine.identity.machine_id) if machine.identity else ("", "")
            cancelled = run.cancel_requested
            epoch = await self._ledger.claim_job(job, machine.id, who, though_cancelled=cancelled)
            if epoch is None:
                return None
            self._reporter.offer(OutboxChanged())
            if row.queued is not None:
                metrics.job_queue_seconds.observe(self._clock() - row.queued)
            try:
                result = await self._run_on(machine, run, row, epoch, script, attempt)
            except (StaleEpoch, LedgerUnavailable):
                raise
            except Exception as error:
                result = JobResult(outcome=Outcome.INFRA_ERROR, reason=blame(error))
            why = _ending(result)
            return _Ended(epoch, result, claimed=True)
        except BaseException:
            why = _ending(None)
            raise
        finally:
            self._ledger.tell_machine_leaves(machine.id, why)
            await machine.destroy()

    async def _machine(self, image: str, run: RunRecord, row: JobRecord, attempt: Attempt) -> Machine | None:
        """A machine for a job, as it was kept where the job goes on from a step; None as for `_lease`."""
        if not row.resumes:
            return await self._lease(image, row.id, attempt, by="" if run.event.fork else run.repository)
        async with way_on(self._site.kept, row.resumes) as (attempt.source, attempt.standing):
            return await self._lease(image, row.id, attempt, attempt.source.folder)

    async def _lease(
        self, image: str, job: int, attempt: Attempt, kept: Path | None = None, by: str = ""
    ) -> Machine | None:
        """A machine from the pool; None when the wait was called off."""
        if self.draining or attempt.cancel.is_set():
            return None
        with trio.CancelScope() as attempt.waiting:
            while True:
                reply: Reply[Machine] = Reply()
                await self._pool.send(LeaseMachine(image, job, reply, kept, by))
                try:
                    return await reply.wait(take_back=self._take_back)
                except PoolRestarted:
                    await trio.sleep(ASK_AGAIN)
        return None

    def _take_back(self, machine: Machine) -> None:
        """A machine that came for a job which no longer waits serves nobody else."""
        self._nursery.start_soon(machine.destroy)

    async def _run_on(
        self,
        machine: Machine,
        run: RunRecord,
        row: JobRecord,
        epoch: int,
        script: Scope,
        attempt: Attempt,
    ) -> JobResult:
        """Run the steps; whatever the workflow or the machine does is a result."""
        weak = machine.capabilities.emulated or not machine.capabilities.isolated
        if run.event.fork and weak and not self._site.allow_emulated_forks:
            return JobResult(outcome=Outcome.STARTUP_FAILURE, reason=WEAK)
        calls = await self._ledger.calls(run.id) if "/" in row.key or not is_plain(script.workflow) else []
        jobs = graph.with_calls(nodes(await self._ledger.jobs(run.id), calls))
        scope, id = scope_of(script, {key: node.calls for key, node in jobs.items()}, row.key)
        job = scope.workflow.jobs[id]
        github = {**scope.contexts["github"], "job": id}
        try:
            contexts = {**scope.contexts, "github": github, "needs": graph.needs_context(scope, jobs, id)}
            contexts |= leg_contexts(job, contexts, row.leg, row.legs, row.matrix)
        except ExpressionError as wrong:
            reason = f"`strategy` of job {id!r}: {wrong}"
            return JobResult(outcome=Outcome.STARTUP_FAILURE, reason=reason)
        contexts["job"] = file_of(scope, github, run.called)
        workflow = scope.workflow
        spec = JobSpec(
            run=run,
            record=msgspec.structs.replace(row, machine=machine.id, epoch=epoch),
            workflow=msgspec.structs.replace(workflow, env={**self._site.environment, **workflow.env}),
            job=job,
            contexts=contexts,
            default_timeout_minutes=self._site.job_minutes,
            cancel_minutes=self._site.cancel_minutes,
        )
        try:
            kept = await self._site.secrets_for(
                run, named_at_root(scope, job), _environment(job.environment, contexts)
            )
            async with self._site.job_token(run, token_permissions(scope, job, run.event)) as token:
                if token:
                    kept = {**kept, "GITHUB_TOKEN": token}
                    contexts["github"]["token"] = token
                secrets = secrets_of(scope, kept, lambda outer, key: graph.needs_context(outer, jobs, key))
                given = handed(scope, job, kept, secrets)
                # What it goes on in holds what an earlier job was given, which may be no secret now.
                given = given or (attempt.source is not None and attempt.source.encrypted)
                masked = tuple(kept.values())
                return await self._take_steps(machine, run, row, spec, secrets, masked, given, attempt)
        except ExpressionError as wrong:
            reason = f"`secrets` of the job that calls {workflow.path}: {wrong}"
            return JobResult(outcome=Outcome.STARTUP_FAILURE, reason=reason)
        except NoSecrets as problem:
            return JobResult(outcome=Outcome.INFRA_ERROR, reason=f"its secrets cannot be had: {problem}")

    async def _take_steps(
        self,
        machine: Machine,
        run: RunRecord,
        row: JobRecord,
        spec: JobSpec,
        secrets: Mapping[str, str],
        masked: tuple[str, ...],
        given: bool,
        attempt: Attempt,
    ) -> JobResult:
        started = self._clock()
        with log.context(machine=machine.id):
            _log.info("job starts", repository=run.repository, name=row.name)
            async with self._site.open_log(run, row) as sink:
                run_steps = partial(
                    run_job,
                    spec,
                    checkout=self._site.checkout,
                    log=sink,
                    observer=_Observer(self._ledger, row.id, spec.record.epoch),
                    secrets=secrets,
                    masked=masked,
                    cancel=attempt.cancel,
                    network=self._site.network,
                    clock=self._clock,
                    standing=attempt.standing,
                )
                if self._site.rewinds.idle:
                    result = await run_steps(machine)
                else:
                    result = await self._with_rewind(machine, spec, given, sink, run_steps)
        metrics.job_duration_seconds.labels(conclusion=result.outcome.value).observe(self._clock() - started)
        if result.outcome is Outcome.CANCELLED and attempt.reason:
            return msgspec.structs.replace(result, reason=attempt.reason)
        return result

    async def _with_rewind(
        self,
        machine: Machine,
        spec: JobSpec,
        given: bool,
        sink: LogSink,
        run_steps: Callable[..., Awaitable[JobResult]],
    ) -> JobResult:
        """Run the steps on a machine that is kept before them; say at the end what stays kept."""
        if self._site.rewinds.mode != "off" and not (self._told or machine.capabilities.snapshot_outlives):
            self._told = True
            _log.warning("[snapshots] keeps no machine here", problem=rewind.ENDS)
        inside = RewindingMachine(machine, partial(self._swap, spec.record))
        source = int(spec.record.resumes.partition("/")[0] or 0)
        keeper = rewind.JobRewind(
            self._site.rewinds,
            self._site.kept,
            inside,
            run=spec.run.id,
            job=spec.record.id,
            repository=spec.run.repository,
            prefix=f"{spec.workflow.path.rpartition('/')[2]}/{spec.record.name}",
            denied="the run is a fork's" if spec.run.event.fork else "",
            given=given,
            source=source,
        )
        result: JobResult | None = None
        try:
            async with keeper:
                result = await run_steps(inside, rewind=keeper)
                useful = not result.outcome.green and result.outcome is not Outcome.CANCELLED
                failed = next((step.number for step in result.steps if not step.conclusion.green), None)
                kept = await keeper.finish(useful=useful, failed=failed)
        finally:
            self._ledger.tell_machine_leaves(inside.id, _ending(result))
            await inside.destroy()
        if useful:
            result = msgspec.structs.replace(result, not_kept=keeper.why_none)
        if kept and useful:
            await sink.note(way_back(before_failure(kept, failed)))
            if failed in keeper.missed:
                await sink.note(f"None is kept from before step {failed}: {keeper.missed[failed]}.")
        if result.outcome.green and source and self._site.rewinds.mode == "on-failure":
            # What it went on from is of a job that has succeeded now.
            await trio.to_thread.run_sync(self._site.kept.drop, source)
        return result

    async def _swap(self, row: JobRecord, machine: Machine, kept: Path) -> Machine:
        reply: Reply[Machine] = Reply()
        await self._pool.send(RestoreMachine(machine.id, kept, reply))
        try:
            restored = await reply.wait(take_back=self._take_back)
        except PoolRestarted as problem:
            raise NoMachine(str(problem)) from problem
        try:
            who = restored.identity
            own = ("", "") if who is None else (who.boot_id, who.machine_id)
            await self._ledger.move_job(row.id, row.epoch, restored.id, *own)
        except BaseException:
            await restored.destroy()
            raise
        return restored


def _ending(result: JobResult | None) -> str:
    """Why a job's machine ends, for the journal; None where its attempt was broken off."""
    return "its job was broken off" if result is None else f"its job ended: {result.outcome}"


def _environment(written: Any, contexts: Mapping[str, Any]) -> str:
    """The name of the environment a job says it is for; empty for none, and where it cannot be told."""
    name = written.get("name") if isinstance(written, Mapping) else written
    try:
        return str(value_of(name, contexts) or "")
    except ExpressionError:
        return ""


def blame(error: Exception) -> str:
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
