"""The ledger: all the daemon must not forget, behind one object whose methods say what they promise."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
import trio

from runnerd.model import Approval, JobRecord, Pause, Repository, RunRecord, StepResult
from runnerd.store import (
    approvals,
    deliveries,
    engine,
    groups,
    intake,
    jobs,
    machines,
    outbox,
    pause,
    recovery,
    runs,
    schedules,
    transition,
)
from runnerd.store.changes import Again, Change, NewRun, WorkflowNote
from runnerd.store.deliveries import Accepted, Held
from runnerd.store.errors import CannotOpen, IllegalTransition, LedgerUnavailable, StaleEpoch
from runnerd.store.groups import Member
from runnerd.store.lock import StateLock
from runnerd.store.records import (
    Backlog,
    Delivery,
    DeliveryRecord,
    DeliveryState,
    Intake,
    Kind,
    MachineNews,
    MachineRow,
    OutboxRow,
    ReportState,
    ScheduleRow,
)
from runnerd.store.recovery import Recovery
from runnerd.store.schema import migrate
from runnerd.store.tables import pulse
from runnerd.store.writer import Work, Writer, unavailable
from runnerd.workflow.model import Call

__all__ = [
    "CannotOpen",
    "Delivery",
    "DeliveryRecord",
    "DeliveryState",
    "Held",
    "IllegalTransition",
    "Intake",
    "Kind",
    "Ledger",
    "LedgerUnavailable",
    "MachineNews",
    "MachineRow",
    "Member",
    "OutboxRow",
    "Recovery",
    "ReportState",
    "ScheduleRow",
    "StaleEpoch",
    "open_ledger",
]

T = TypeVar("T")

PULSE_TIMEOUT = 5.0
"""Seconds after which a writer that does not answer makes the ledger count as not writable."""


class Ledger:
    """An open ledger. Had from `open_ledger`; every method may be called from any trio task.

    A method that writes returns when the write is durable, together with all that belongs to it, and
    raises with nothing written. Writes are done by `serve_writes`: before it runs, and while it is being
    restarted, they wait. A caller that is cancelled does not know: its write may be applied.
    Any method raises `LedgerUnavailable` when the database fails; unknown ids raise LookupError.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Open the file, migrating it first; blocks. Raises `CannotOpen`. No lock is taken here."""
        self._clock = clock
        self._writing = engine.writing(path)
        try:
            migrate(self._writing)
        except BaseException:
            self._writing.dispose()
            raise
        self._reading = engine.Readers(path)
        self._readers = trio.CapacityLimiter(engine.READERS)
        self._writer = Writer(self._writing)

    # --- the writer ---

    async def serve_writes(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit writes until `close` was called and all that waited is durable."""
        await self._writer.serve(task_status=task_status)

    def close(self) -> None:
        """Accept no more writes: they raise `LedgerUnavailable`. Those waiting are still committed."""
        self._writer.close()

    def dispose(self) -> None:
        """Let go of the database; writes that nobody committed are refused. Safe to call twice."""
        self._writer.abandon()
        self._writing.dispose()
        self._reading.dispose()

    async def check_writable(self) -> None:
        """Write something small and durable. Raises `LedgerUnavailable` if that fails or takes long."""
        with trio.move_on_after(PULSE_TIMEOUT):
            await self._write(partial(_beat, now=self._clock()))
            return
        raise LedgerUnavailable(f"the ledger's writer did not answer within {PULSE_TIMEOUT:g} s")

    # --- deliveries ---

    async def accept_delivery(self, delivery: Delivery) -> Accepted:
        """Store a delivery: "accepted", or "duplicate" when its id is known (what is stored stays).

        "held" when its body is known under another id and `Delivery.repeated` asks for that: it is not
        pending before `release_delivery`.
        """
        return await self._write(partial(deliveries.accept, delivery=delivery))

    async def delivery(self, id: str) -> DeliveryRecord | None:
        """A delivery with its body."""
        return await self._read(partial(deliveries.find, id=id))

    async def payload(self, delivery: str) -> dict[str, Any]:
        """A delivery's body as JSON; raises ValueError when it is no JSON object."""
        return await self._read(partial(deliveries.payload, id=delivery))

    async def pending_deliveries(self, limit: int) -> list[str]:
        """Ids of deliveries that were neither planned, ignored nor rejected, oldest first."""
        return await self._read(partial(deliveries.pending, limit=limit))

    async def backlog(self, limit: int) -> list[tuple[str, str]]:
        """Id and repository (empty where none is known) of pending deliveries, oldest first.

        Where there are more than `limit`, the oldest few of each repository.
        """
        return await self._read(partial(deliveries.backlog, limit=limit))

    async def try_delivery(self, id: str) -> int:
        """Count an attempt at planning before it is made; returns how many that makes.

        With it, a delivery that kills its parser again and again can be told and rejected.
        """
        return await self._write(partial(deliveries.attempt, id=id))

    async def ignore_delivery(self, id: str, reason: str) -> None:
        """The delivery asks for nothing. Raises `IllegalTransition` when it was planned or rejected."""
        await self._write(partial(deliveries.settle, id=id, state=DeliveryState.IGNORED, reason=reason))

    async def reject_delivery(self, id: str, reason: str) -> None:
        """The delivery cannot be used. Raises `IllegalTransition` when it was planned or ignored."""
        await self._write(partial(deliveries.settle, id=id, state=DeliveryState.REJECTED, reason=reason))

    async def plan_delivery(
        self, id: str, runs_: Sequence[NewRun], notes: Sequence[WorkflowNote]
    ) -> list[int]:
        """Write what a delivery comes to, all in one piece; returns the ids of its runs.

        Each run gets its number, its jobs and the first report of each job whose name is known. Without
        a run the delivery is ignored. A repeated call writes nothing and returns the ids of the first
        one (I2). Raises `IllegalTransition` when the delivery was ignored or rejected before, and
        ValueError when two runs have the same path or a run that ends at birth has jobs.
        """
        return await self._write(partial(runs.plan, delivery=id, planned=runs_, why=notes, now=self._clock()))

    async def held_deliveries(self, limit: int) -> list[Held]:
        """What waits for the forge to say that it sent it, oldest first."""
        return await self._read(partial(deliveries.held, limit=limit))

    async def release_delivery(self, id: str, remark: str = "") -> None:
        """Let a held delivery be planned; nothing for one that is not held."""
        await self._write(partial(deliveries.release, id=id, remark=remark))

    async def unknown_deliveries(self, ids: Sequence[str]) -> set[str]:
        """Those of some delivery ids that are not stored."""
        return await self._read(partial(intake.unknown, ids=list(ids)))

    async def repositories(self) -> list[str]:
        """Every repository a delivery was about, by name."""
        return await self._read(intake.repositories)

    async def intake(self) -> list[Intake]:
        """How far each of the forge's delivery lists was read."""
        return await self._read(intake.marks)

    async def note_intake(self, mark: Intake) -> None:
        """Remember how far a delivery list was read."""
        await self._write(partial(intake.write, mark=mark))

    async def notes(self, delivery: str) -> list[WorkflowNote]:
        """Why each workflow file was or was not started by a delivery, ordered by path."""
        return await self._read(partial(runs.notes_of, delivery=delivery))

    # --- schedules ---

    async def newest_pushes(self) -> list[str]:
        """The id of the newest push of each repository: which repositories there are, and how they are."""
        return await self._read(deliveries.newest_pushes)

    async def schedules(self) -> list[ScheduleRow]:
        """The schedules of all default branches."""
        return await self._read(schedules.listed)

    async def keep_schedules(
        self, repository: Repository, wanted: Collection[tuple[str, str, str]], minute: int
    ) -> None:
        """Make these (path, cron, zone) the repository's schedules; new ones count from `minute` on."""
        await self._write(partial(schedules.keep, repository=repository, wanted=wanted, minute=minute))

    async def start_schedule(self, row: ScheduleRow, looked: int, fired: int, delivery: Delivery) -> bool:
        """Store a start's delivery and that it was decided, both or neither; False when it was before."""
        work = partial(schedules.start, row=row, looked=looked, fired=fired, delivery=delivery)
        return await self._write(work)

    async def look_at_schedules(self, minute: int) -> None:
        """Remember that up to this minute every start was decided."""
        await self._write(partial(schedules.look, minute=minute))

    # --- runs ---

    async def run(self, id: int) -> RunRecord | None:
        """One run."""
        return await self._read(partial(runs.find, id=id))

    async def whole_run(self, id: int) -> tuple[RunRecord, list[JobRecord]] | None:
        """One run and its jobs as `jobs` has them, both of one moment."""
        return await self._read(partial(_whole, id=id))

    async def runs(
        self, limit: int, before: int | None = None, repository: str | None = None
    ) -> list[RunRecord]:
        """Runs, newest first; `before` is the id that the page starts below."""
        return await self._read(partial(runs.latest, limit=limit, before=before, repository=repository))

    async def open_runs(self) -> list[int]:
        """Ids of the runs that have not ended, oldest first."""
        return await self._read(runs.unfinished)

    async def source(self, sha256: str) -> str:
        """A workflow file's text by its hash."""
        return await self._read(partial(runs.source, sha256=sha256))

    async def calls(self, run: int) -> list[Call]:
        """The calls of reusable workflows that a run made, each job's in the order of its matrix."""
        return await self._read(partial(jobs.calls_of, run=run))

    async def members(self, run: int) -> list[Member]:
        """What of a run came to a concurrency group, and how it stands there, in the order of arrival."""
        return await self._read(partial(groups.of_run, run=run))

    async def apply(self, run: int, changes: Sequence[Change]) -> frozenset[int]:
        """Apply what was decided about a run, all or nothing, with the reports it owes (I4).

        Returns the other runs for which something changed in a concurrency group.

        Raises `IllegalTransition` for what `model.PHASES` does not allow, for a run that has ended and
        for ending one before its jobs; `StaleEpoch` when another attempt took the job over.
        """
        return await self._write(partial(transition.apply, run_id=run, changes=changes, now=self._clock()))

    async def request_cancel(self, run: int) -> bool:
        """Ask for the end of a run: from here on no job is claimed by who does not know. False: it ended."""
        return await self._write(partial(runs.request_cancel, id=run))

    async def approve(self, run: int, approval: Approval) -> None:
        """Let a run start that waits for approval, in one piece with what is said of it.

        Raises `IllegalTransition` for one that does not wait, has ended, or is about another commit.
        """
        await self._write(partial(approvals.approve, id=run, approval=approval, now=self._clock()))

    async def rerun(self, run: int, part: Again | None = None) -> int:
        """Write the next attempt of a run, with its jobs as they were planned; returns the new id.

        With `part` only some jobs run again. All others are carried over with all that is known of them, as
        they ended, and are not reported anew; so are the calls that are not made again.
        Raises `IllegalTransition` when the run has not ended or never had a job, while a newer attempt runs,
        and with `part` when there is a newer attempt, when a job of it is not the run's, or none is named.
        """
        return await self._write(partial(runs.rerun, id=run, now=self._clock(), part=part))

    async def newest_attempt(self, run: int) -> RunRecord:
        """The last attempt of what this run is an attempt of; it may be this run."""
        return await self._read(partial(runs.newest, id=run))

    async def rerun_for(self, delivery: str, ids: Sequence[int], part: Again | None = None) -> list[int]:
        """Settle a delivery that asks for runs to be run again, and write their next attempts, in one piece.

        Returns the new ids. Of each run the newest attempt counts: one that has not ended, and one without
        jobs, is passed over. A repeated call writes nothing (I2).
        With `part` some jobs of one run alone run again, as `rerun` has it, which also says what that raises.
        """
        call = partial(runs.rerun_for, delivery=delivery, ids=ids, now=self._clock(), part=part)
        return await self._write(call)

    async def recover(self, now: float) -> Recovery:
        """Settle the jobs recorded as running while none is: at start, before the first claim.

        A job is queued again if no step of it had started and it had less than three attempts, and ends
        as LOST otherwise. Calling it again changes nothing.
        """
        return await self._write(partial(recovery.recover, now=now))

    # --- jobs ---

    async def job(self, id: int) -> JobRecord | None:
        """One job."""
        return await self._read(partial(jobs.find, id=id))

    async def jobs(self, run: int) -> list[JobRecord]:
        """A run's jobs in the order of the file, legs in the order of the matrix."""
        return await self._read(partial(jobs.of_run, run=run))

    def awaited_machines(self) -> frozenset[str]:
        """The kept machines that jobs which have not ended go on from, as `JobRecord.resumes` has it.

        Blocks: call it in a thread. Raises OSError where the ledger cannot be read.
        """
        try:
            return self._query(jobs.awaited)
        except LedgerUnavailable as error:
            raise OSError(str(error)) from error

    async def claim_job(
        self, job: int, machine: str, who: tuple[str, str] = ("", ""), *, though_cancelled: bool = False
    ) -> int | None:
        """Begin an attempt on a machine: its epoch. None when the job is not queued or the run cancelled.

        `who` are the boot id and the machine id that the machine says it has, empty where it says nothing.
        `though_cancelled` says that the job is known to run in a cancelled run too, as one with `always()`.
        """
        work = partial(jobs.claim, id=job, machine=machine, who=who, though_cancelled=though_cancelled)
        return await self._write(partial(work, now=self._clock()))

    async def retry_job(self, job: int, epoch: int, reason: str) -> None:
        """End an attempt without a result and queue its job again; raises `StaleEpoch`."""
        await self._write(partial(jobs.retry, id=job, epoch=epoch, reason=reason, now=self._clock()))

    async def step_started(self, job: int, epoch: int, number: int) -> None:
        """Record, before it starts, that a step of this attempt will run; raises `StaleEpoch`.

        Only whether one has is kept: the attempt is not repeated by itself any more.
        """
        await self._write(partial(jobs.begin_step, id=job, epoch=epoch))

    async def step_ended(self, job: int, epoch: int, result: StepResult) -> None:
        """Record a step's end; raises `StaleEpoch`."""
        await self._write(partial(jobs.end_step, id=job, epoch=epoch, result=result))

    async def move_job(self, job: int, epoch: int, machine: str, boot_id: str, machine_id: str) -> None:
        """Record that this attempt goes on in another machine, with its identity; raises `StaleEpoch`."""
        await self._write(
            partial(jobs.move, id=job, epoch=epoch, machine=machine, boot_id=boot_id, machine_id=machine_id)
        )

    # --- machines ---

    async def note_machine(self, news: MachineNews) -> None:
        """Write into the journal what is about to become of a machine, before it does (I5)."""
        await self._write(partial(machines.note, news=news, now=self._clock()))

    def tell_machine(self, news: MachineNews) -> None:
        """The same without waiting: durable before, or with, whatever is written after this."""
        self._writer.post(partial(machines.note, news=news, now=self._clock()))

    def tell_machine_leaves(self, id: str, why: str) -> None:
        """Say in the same way why a machine is about to end; nothing where the journal knows it already."""
        self._writer.post(partial(machines.leave, id=id, why=why))

    async def machines(self) -> list[MachineRow]:
        """The machines that may exist, oldest first."""
        return await self._read(machines.alive)

    async def machine_history(self, limit: int) -> list[MachineRow]:
        """The machines that exist or are gone and still in the journal, the newest first."""
        return await self._read(partial(machines.history, limit=limit))

    async def leases(self, seconds: float) -> list[tuple[str, float]]:
        """(image, seconds since it was asked for) of each lease of the last `seconds`, oldest first."""
        now = self._clock()
        found = await self._read(partial(machines.leases, since=now - seconds))
        return [(image, now - asked) for image, asked in found]

    # --- outbox ---

    async def outbox_due(self, now: float, limit: int) -> list[OutboxRow]:
        """Reports to send now, oldest first. Send those of one subject one after the other.

        A subject is a (run, job, kind). It has at most one report that is not terminal: a newer one
        takes the place of an older one that was not sent. A terminal report stays until it is done.
        """
        return await self._read(partial(outbox.due, now=now, limit=limit))

    async def outbox_done(self, id: int, note: str = "") -> None:
        """The report was sent, or `note` says what was done instead."""
        await self._write(partial(outbox.done, id=id, now=self._clock(), note=note))

    async def outbox_retry(self, id: int, at: float, error: str) -> None:
        """Sending failed: the report is due again at `at`."""
        await self._write(partial(outbox.retry, id=id, at=at, error=error))

    async def outbox_put_off(self, repository: str, at: float, error: str) -> None:
        """No report about this repository is due before `at`; it does not count as an attempt."""
        await self._write(partial(outbox.put_off, repository=repository, at=at, error=error))

    async def outbox_backlog(self) -> Backlog:
        """How many reports are owed, since when, and why the last one was put off."""
        return await self._read(outbox.backlog)

    async def outbox_depth(self) -> int:
        """How many reports are owed."""
        return await self._read(outbox.depth)

    # --- the pool ---

    async def pause(self) -> Pause | None:
        """The pause of the pool that the operator asked for, or None."""
        return await self._read(pause.read)

    async def set_pause(self, wanted: Pause | None) -> None:
        """Remember that the pool is paused, or with None that it is not."""
        await self._write(partial(pause.write, wanted=wanted))

    # --- threads ---

    async def _write(self, work: Work[T]) -> T:
        return await self._writer.submit(work)

    async def _read(self, query: Work[T]) -> T:
        return await trio.to_thread.run_sync(self._query, query, limiter=self._readers)

    def _query(self, query: Work[T]) -> T:
        try:
            with self._reading.begin() as connection:
                return query(connection)
        except sa.exc.SQLAlchemyError as error:
            raise unavailable(error, "read") from error


@asynccontextmanager
async def open_ledger(place: Path | str, *, clock: Callable[[], float] = time.time) -> AsyncIterator[Ledger]:
    """Open the ledger at `place` as the only daemon that uses it, making and migrating it as needed.

    `place` is a file whose name ends in `.db`, or else the folder in which it is called `ledger.db`, or a
    `sqlite:///` URL of one of these; the lock is the file `lock` in the same folder. `clock` gives seconds
    since the epoch. Raises `CannotOpen` with a sentence for people. On leaving, writes that nobody
    committed are refused.
    """
    path = _path(place)
    lock = StateLock(path.parent)
    try:
        ledger = await trio.to_thread.run_sync(partial(Ledger, path, clock=clock))
        try:
            yield ledger
        finally:
            ledger.dispose()
    finally:
        lock.release()


def _path(place: Path | str) -> Path:
    if isinstance(place, str) and "://" in place:
        url = sa.make_url(place)
        if url.get_backend_name() != "sqlite" or not url.database:
            raise CannotOpen(
                f"the ledger {url.render_as_string()} cannot be used: this version keeps its ledger in "
                "a SQLite file (sqlite:///PATH)"
            )
        place = url.database
    path = Path(place)
    return path if path.suffix == ".db" else path / "ledger.db"


def _whole(connection: sa.Connection, id: int) -> tuple[RunRecord, list[JobRecord]] | None:
    run = runs.find(connection, id)
    return None if run is None else (run, jobs.of_run(connection, id))


def _beat(connection: sa.Connection, now: float) -> None:
    if not connection.execute(sa.update(pulse).values(at=now)).rowcount:
        connection.execute(sa.insert(pulse), {"id": 1, "at": now})
