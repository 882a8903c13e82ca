"""Walks each run's job graph and has its jobs run, one machine each; the ledger is the only memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec
import trio

from runnerd import log
from runnerd.actors.attempt import Attempt, Attempts, Site, blame
from runnerd.jobs.contexts import github_context
from runnerd.messages import CancelRun, OutboxChanged, RunCreated
from runnerd.model import JobRecord, JobResult, Outcome, Phase, RunRecord
from runnerd.planning.reread import reread
from runnerd.reading.process import Reader
from runnerd.store.changes import Change, EndJob, EndRun
from runnerd.store.ledger import Ledger, LedgerUnavailable
from runnerd.store.progress import holds, nodes, progress
from runnerd.supervise.mailbox import Mailbox
from runnerd.workflow import graph
from runnerd.workflow.calls import Scope, is_plain

_log = log.get("executor")

SWEEP_EVERY = 10.0
"""Seconds between looks at the ledger for open runs whose hint was lost."""


SWEEP_KEPT_EVERY = 60.0
"""Seconds between looks at what is kept of jobs for what is too old."""


class _Drive:
    """One run being walked, with the jobs that have a task."""

    def __init__(self) -> None:
        self.bell = trio.Event()
        self.attempts: dict[int, Attempt] = {}
        self.script: Scope | None = None
        """The workflow and the contexts that all jobs share; the same for as long as the run lives."""
        self.plain = False
        """Whether it calls no other workflow and has no concurrency group."""

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
        self._attempts: Attempts

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until the mailbox is closed and every running job has ended.

        What a workflow or a machine does ends its job, or its run, and never this task. It crashes when the
        ledger fails; the next one goes on from what the ledger says.
        """
        await trio.to_thread.run_sync(self._site.kept.tidy)
        recovery = await self._ledger.recover(self._clock())
        for run, job, _ in recovery.lost:
            _log.error("a job was lost with an earlier daemon", run=run, job=job)
        self._reporter.offer(OutboxChanged())
        async with trio.open_nursery() as watch:
            async with trio.open_nursery() as drives:
                self._attempts = Attempts(
                    ledger=self._ledger,
                    pool=self._pool,
                    reporter=self._reporter,
                    site=self._site,
                    clock=self._clock,
                    nursery=drives,
                )
                watch.start_soon(self._stop_everything_when_told)
                for run in await self._ledger.open_runs():
                    self._take_up(run, drives)
                task_status.started()
                watch.start_soon(self._sweep, drives)
                watch.start_soon(self._sweep_kept)
                async for message in self._mailbox:
                    self._take_up(message.run, drives)
                self._drain()
            watch.cancel_scope.cancel()

    async def _sweep(self, drives: trio.Nursery) -> None:
        """The ledger is the truth: an open run is walked and a cancelled one stopped, hint or no hint.

        While draining no run is taken up that was not walked before.
        """
        while True:
            await trio.sleep(SWEEP_EVERY)
            for run in await self._ledger.open_runs():
                if run in self._drives or not self._attempts.draining:
                    self._take_up(run, drives)

    async def _sweep_kept(self) -> None:
        """What was kept too long goes, although nothing new is kept."""
        while True:
            await trio.sleep(SWEEP_KEPT_EVERY)
            for gone in await trio.to_thread.run_sync(self._site.kept.sweep):
                _log.info("a kept machine was removed", job=gone.job, step=gone.step)

    def _take_up(self, run: int, nursery: trio.Nursery) -> None:
        if run in self._drives:
            self._drives[run].ring()
        else:
            self._drives[run] = _Drive()
            nursery.start_soon(self._walk, run, self._drives[run])

    def _drain(self) -> None:
        """Start nothing more; jobs that wait for a machine stay queued for the next start."""
        self._attempts.draining = True
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
            found = await self._ledger.whole_run(run_id)
            if found is None or found[0].phase is Phase.DONE:
                return False
            run, rows = found
            if run.held:
                # Not one job of it runs, not even one with always() when it is cancelled.
                if not run.cancel_requested:
                    return False
                reason = "it was cancelled while it waited for approval"
                return await self._give_up(run_id, rows, drive, busy, reason, Outcome.CANCELLED)
            try:
                script = drive.script
                if script is None:
                    script = drive.script = await self._read(run, rows)
                    drive.plain = is_plain(script.workflow)
                actions = graph.decide(
                    script.workflow,
                    nodes(rows, () if drive.plain else await self._ledger.calls(run_id)),
                    script.contexts,
                    cancelled=run.cancel_requested,
                    holds=None if drive.plain else holds(await self._ledger.members(run_id)),
                )
            except LedgerUnavailable:
                raise
            except Exception as error:
                return await self._give_up(run_id, rows, drive, busy, blame(error))
            todo = progress(actions, rows, self._clock(), ours=self._ours)
            if todo.changes:
                await self._apply(run_id, todo.changes)
            if todo.outcome is not None:
                _log.info("run ended", outcome=todo.outcome.value)
                return False
            stopped = self._stop(todo.cancel, rows, drive, busy)
            if stopped:
                await self._apply(run_id, stopped)
            if not self._attempts.draining:
                # A row that is queued without a task was left behind, by an earlier executor for one.
                left = (row.id for row in rows if row.phase is Phase.QUEUED and row.id not in busy)
                for job in (*todo.start, *left):
                    if job not in drive.attempts and job not in todo.cancel:
                        drive.attempts[job] = Attempt()
                        jobs.start_soon(self._work, run, job, script, drive)
            if not todo.changes and not stopped:
                return not self._attempts.draining or bool(drive.attempts)

    async def _read(self, run: RunRecord, rows: Sequence[JobRecord]) -> Scope:
        """The workflow as far as it is ours, with the contexts that all its jobs share."""
        workflow = await reread(run, ledger=self._ledger, reader=self._reader)
        ours = {row.key.partition("/")[0].partition(".")[0] for row in rows}
        workflow = msgspec.structs.replace(
            workflow,
            jobs={key: job for key, job in workflow.jobs.items() if key in ours},
        )
        github = github_context(
            run.event,
            run,
            payload=await self._ledger.payload(run.delivery),
            server_url=self._site.server_url,
            api_url=self._site.api_url,
        )
        contexts = {"github": github, "inputs": run.event.inputs, "vars": self._site.variables}
        return Scope(workflow=workflow, contexts=contexts)

    async def _give_up(
        self,
        run: int,
        rows: Sequence[JobRecord],
        drive: _Drive,
        busy: Collection[int],
        reason: str,
        outcome: Outcome = Outcome.STARTUP_FAILURE,
    ) -> bool:
        """End a run that cannot be walked, once its tasks have ended; False when that is done."""
        for attempt in drive.attempts.values():
            attempt.stop(reason)
        if busy:
            return True
        result = JobResult(outcome=outcome, reason=reason)
        undone = (row for row in rows if row.phase is not Phase.DONE)
        ended = [EndJob(job=row.id, epoch=row.epoch, result=result) for row in undone]
        await self._apply(run, [*ended, EndRun(outcome=outcome, reason=reason)])
        return False

    async def _apply(self, run: int, changes: Sequence[Change]) -> None:
        """Write changes down, and have the runs looked at that waited in a group for one of them."""
        for other in await self._ledger.apply(run, changes):
            if other in self._drives:
                self._drives[other].ring()
        self._reporter.offer(OutboxChanged())

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

    async def _work(self, run: RunRecord, job: int, script: Scope, drive: _Drive) -> None:
        """Have one job run to a recorded outcome, or be left queued when draining."""
        try:
            await self._attempts.work(run, job, script, drive.attempts[job])
        finally:
            del drive.attempts[job]
            drive.ring()
