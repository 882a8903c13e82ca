"""Serves the control API over the ledger and the mailboxes of the other actors."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import trio

from runnerd import __version__, log
from runnerd.machines.kept import KeptMachines
from runnerd.messages import CancelRun, DescribePool, ImagesChanged, PausePool, PoolDescription, RunCreated
from runnerd.model import Approval, JobRecord, Pause, Phase, RunRecord
from runnerd.planning.again import CannotRerun, Part, Wish
from runnerd.planning.kept import kept_of
from runnerd.store import logs
from runnerd.store.changes import Again
from runnerd.store.ledger import IllegalTransition, Ledger, LedgerUnavailable, MachineRow
from runnerd.supervise.mailbox import Mailbox
from runnerd.supervise.reply import Reply
from runnerd.web import control, guard
from runnerd.web.control import KeptView, LogView, Refused, RunView, Unavailable
from runnerd.web.listeners import Listen
from runnerd.web.terminal import Screen, Talk

ANSWER_TIMEOUT = 5.0
"""Seconds another actor has for its part of an answer."""
GLANCE_TIMEOUT = 2.0
"""The same where the answer says as much without that part."""
POLL = 0.15
"""Seconds between looks at a log that somebody follows."""
PIECE = 256 << 10
"""Bytes of log in one answer."""
PENDING_COUNTED = 1000
LIFETIME = 600.0

_log = log.get("control")


async def _nothing_known(run: RunRecord) -> str:
    return ""


class ControlActor:
    """The control socket: whoever may open it may ask for all of `Api`."""

    name = "control"

    def __init__(self, listen: Listen, api: control.ControlApi, *, stop: trio.Event) -> None:
        self._listen = listen
        self._api = api
        self._stop = stop

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop` is set. Raises OSError when the socket cannot be had."""
        app = control.app(self._api, unavailable=(LedgerUnavailable,))
        listeners = await self._listen()
        await guard.serve(app, listeners, stop=self._stop, lifetime=LIFETIME, task_status=task_status)


class Api:
    """`ControlApi` of a running daemon.

    `executor` and `pool` are those actors' mailboxes; `explain` explains a run; `part` says which of its jobs
    a wish means, or raises `CannotRerun`; `shell` opens a shell in one of them; `drain` asks the daemon to
    take nothing new and end, and `draining` says whether it does so; `state_directory` is where the logs
    lie, `kept` what is kept of jobs' machines; `why_void` says why a run's commit cannot be approved. Its
    state is the ledger's, so that it outlives the actor.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        executor: Mailbox[Any],
        pool: Mailbox[Any],
        drain: Callable[[], object],
        draining: Callable[[], bool],
        explain: Callable[[RunRecord], Awaitable[Any]],
        part: Callable[[RunRecord, Wish], Awaitable[Part]],
        shell: Callable[[RunRecord, JobRecord, str | None, Screen], Awaitable[Talk]],
        state_directory: Path,
        kept: KeptMachines,
        clock: Callable[[], float] = time.time,
        why_void: Callable[[RunRecord], Awaitable[str]] = _nothing_known,
    ) -> None:
        self._why_void = why_void
        self._kept = kept
        self._ledger = ledger
        self._executor = executor
        self._pool = pool
        self._drain = drain
        self._draining = draining
        self._explain = explain
        self._part = part
        self._shell = shell
        self._state_directory = state_directory
        self._clock = clock
        self._started = clock()

    async def status(self) -> dict[str, Any]:
        """Version, age, and how much is owed."""
        return {
            "version": __version__,
            "pid": os.getpid(),
            "started": self._started,
            "uptime": self._clock() - self._started,
            "draining": self._draining(),
            "paused": "no" if (pause := await self._ledger.pause()) is None else pause.reason or "yes",
            "open_runs": (open_runs := await self._ledger.open_runs()),
            "waiting_for_approval": await self._held(open_runs),
            "pending_deliveries": len(await self._ledger.pending_deliveries(PENDING_COUNTED)),
            "reports_owed": (backlog := await self._ledger.outbox_backlog()).owed,
            "reports": backlog,
            "intake": await self._ledger.intake(),
            "ledger": await self._ledger_problem(),
            "machines": await self._machines_ready(),
        }

    async def _ledger_problem(self) -> str:
        """Why nothing can be written, such as a full disk; empty where that works."""
        with trio.move_on_after(GLANCE_TIMEOUT):
            try:
                await self._ledger.check_writable()
            except LedgerUnavailable as problem:
                return str(problem)
            return ""
        return f"the ledger's writer did not answer within {GLANCE_TIMEOUT:g} s"

    async def _machines_ready(self) -> dict[str, Any]:
        """Whether jobs can get machines, and what is wrong with any image."""
        try:
            pool = await self.pool(GLANCE_TIMEOUT)
        except Unavailable as absent:
            return {"ready": False, "trouble": [str(absent)]}
        more = [] if pool.problem in ("", "; ".join(pool.trouble)) else [pool.problem]
        return {"ready": not pool.problem, "trouble": [*more, *pool.trouble]}

    async def runs(self, limit: int, before: int | None, repository: str | None) -> Sequence[RunRecord]:
        """Runs, newest first."""
        return await self._ledger.runs(limit, before, repository)

    async def run(self, run: int) -> RunView:
        """One run with its jobs and notes; raises LookupError."""
        record = await self._known(run)
        jobs = await self._ledger.jobs(run)
        notes = await self._ledger.notes(record.delivery)
        snapshots = await self._snapshots(jobs)
        return RunView(
            run=record,
            jobs=tuple(jobs),
            notes=tuple(notes),
            snapshots=snapshots,
            not_kept={job.id: job.not_kept for job in jobs if job.not_kept},
        )

    async def _snapshots(self, jobs: Sequence[JobRecord]) -> tuple[KeptView, ...]:
        """What jobs can be gone back to, also where it is of the job that one stands for or goes on from."""
        plain = await trio.to_thread.run_sync(lambda: [self._kept.of(job.id) for job in jobs])
        views = []
        for job, found in zip(jobs, plain, strict=True):
            if job.carried or job.resumes:
                found = tuple((await kept_of(job, ledger=self._ledger, kept=self._kept.of)).values())
            views += [
                KeptView(
                    job=job.id,
                    step=kept.step,
                    name=kept.name,
                    at=kept.at,
                    bytes=kept.bytes,
                    encrypted=kept.encrypted,
                )
                for kept in found
            ]
        return tuple(views)

    async def explain(self, run: int) -> Any:
        """Why each workflow and job of a run ran, was skipped or waits; raises LookupError."""
        return await self._explain(await self._known(run))

    async def log(self, run: int, job: int, offset: int, wait: float) -> LogView:
        """A piece of a job's log; with `wait`, as soon as there is one or the job has ended."""
        deadline = trio.current_time() + wait
        while True:
            # The job is looked at first: what it logged before its end is then in the file.
            record = await self._job(run, job)
            path = logs.log_path(self._state_directory, *record.logged)
            ended = record.phase is Phase.DONE
            data, following = await logs.read(path, offset, PIECE)
            late = trio.current_time() >= deadline
            if data or ended or late:
                return LogView(text=data.decode("utf-8", "replace"), next=following, end=ended and not data)
            await trio.sleep(POLL)

    async def cancel(self, run: int) -> dict[str, Any]:
        """Record that the run is to end, and tell the executor; raises `Refused` when it has ended."""
        await self._known(run)
        if not await self._ledger.request_cancel(run):
            raise Refused(f"run {run} has ended already")
        await self._tell(CancelRun(run))
        return {"run": run, "message": f"run {run} is being cancelled"}

    async def approve(self, run: int) -> dict[str, Any]:
        """Let a run start that waits for approval, in the operator's name; raises `Refused`."""
        record = await self._known(run)
        if record.held and (reason := await self._why_void(record)):
            raise Refused(f"run {run} cannot be approved: {reason}")
        approval = Approval(sha=record.event.report_sha, login="", permission="operator")
        try:
            await self._ledger.approve(run, approval)
        except IllegalTransition as error:
            raise Refused(str(error)) from error
        await self._tell(RunCreated(run))
        return {"run": run, "message": f"run {run} is approved at commit {approval.sha}"}

    async def rerun(self, run: int, job: str, step: str, *, failed: bool) -> dict[str, Any]:
        """Start the next attempt of a run that has ended, or of a part of it; raises `Refused`, with why."""
        record = await self._known(run)
        part: Part | None = None
        try:
            if job or failed:
                part = await self._part(record, Wish(job=job, step=step))
                run = part.run
            again = await self._again(run, None if part is None else part.again)
        except (CannotRerun, IllegalTransition) as error:
            raise Refused(str(error)) from error
        await self._tell(RunCreated(again))
        what = "" if part is None else f": {part.said}"
        newer = "" if run == record.id else f"run {record.id} has a newer attempt: "
        return {"run": again, "message": f"{newer}run {run} runs again as run {again}{what}"}

    async def _again(self, run: int, part: Again | None) -> int:
        """Write the next attempt; what it goes on from is removed by nobody before it is written."""
        with ExitStack() as holds:
            for resumes in part.resumes.values() if part is not None else ():
                holds.enter_context(self._kept.held(folder := self._kept.named(resumes)))
                if not await trio.to_thread.run_sync(folder.is_dir):
                    raise Refused("the machine that it was to go on from was removed just now")
            return await self._ledger.rerun(run, part)

    async def drain(self) -> dict[str, Any]:
        """Ask the daemon to end when what runs has ended."""
        self._drain()
        return {"message": "draining: nothing new is taken, and the daemon ends when its jobs have"}

    async def pause(self, reason: str) -> dict[str, Any]:
        """Have the pool start no job and build no machine, over restarts too, until `resume`."""
        await self._set_pause(Pause(reason=reason, since=self._clock()))
        return {"message": "paused: jobs wait for a machine until `runnerd resume`; those that run go on"}

    async def resume(self) -> dict[str, Any]:
        """End a pause; raises `Refused` when there is none."""
        if await self._ledger.pause() is None:
            raise Refused("the pool is not paused")
        await self._set_pause(None)
        return {"message": "resumed: the jobs that waited are given machines"}

    async def look_at_images(self) -> dict[str, Any]:
        """Have the pool look at the images at once; it does so each minute anyway."""
        self._pool.offer(ImagesChanged())
        return {"message": "the pool looks at the images"}

    async def pool(self, patience: float | None = None) -> PoolDescription:
        """The machines, as the pool sees them; raises `Unavailable` when it does not answer."""
        reply: Reply[PoolDescription] = Reply()
        if self._pool.offer(DescribePool(reply)):
            with trio.move_on_after(ANSWER_TIMEOUT if patience is None else patience):
                return await reply.wait()
        raise Unavailable("the machine pool does not answer: it is starting, busy or ending")

    async def machines(self, limit: int) -> Sequence[MachineRow]:
        """The machines that exist or ended in the last day, the newest first."""
        return await self._ledger.machine_history(limit)

    async def shell(self, run: int, job: int, at: str | None, screen: Screen) -> Talk:
        """What opens a shell in a copy of a job's machine, before the step `at` or the newest there is.

        Raises LookupError, `Refused` and `Unavailable`.
        """
        return await self._shell(await self._known(run), await self._job(run, job), at, screen)

    async def _set_pause(self, pause: Pause | None) -> None:
        """Record it, so that a pool which starts anew knows, and tell the one that runs."""
        await self._ledger.set_pause(pause)
        with suppress(trio.ClosedResourceError), trio.move_on_after(ANSWER_TIMEOUT) as telling:
            await self._pool.send(PausePool(pause))
            return
        if telling.cancelled_caught:
            raise Unavailable("it is recorded, but the machine pool was too busy to be told: say it again")

    async def _held(self, runs: Sequence[int]) -> list[int]:
        records = [await self._ledger.run(run) for run in runs]
        return [record.id for record in records if record is not None and record.held]

    async def _known(self, run: int) -> RunRecord:
        record = await self._ledger.run(run)
        if record is None:
            raise LookupError(f"there is no run {run}")
        return record

    async def _job(self, run: int, job: int) -> JobRecord:
        record = await self._ledger.job(job)
        if record is None or record.run != run:
            raise LookupError(f"run {run} has no job {job}")
        return record

    async def _tell(self, message: CancelRun | RunCreated) -> None:
        """Pass a message on; the ledger has it already, so that a restarted executor knows as well."""
        try:
            with trio.move_on_after(ANSWER_TIMEOUT) as waiting:
                await self._executor.send(message)
            if waiting.cancelled_caught:
                _log.warning("executor_not_told", message=type(message).__name__, run=message.run)
        except trio.ClosedResourceError:
            _log.info("executor_not_told", message=type(message).__name__, run=message.run)
