"""Turns stored deliveries into runs: event, commit, workflow files, triggers, one transaction."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import trio

from runnerd import log
from runnerd.forge import buttons, events
from runnerd.forge.people import People
from runnerd.forge.protocol import ForgeUnavailable
from runnerd.git.process import GitError
from runnerd.messages import BranchMoved, CancelRun, DeliveryAccepted, OutboxChanged, RunCreated
from runnerd.model import Event, Outcome, RunRecord
from runnerd.planning.again import CannotRerun, NotYet, Part, Wish
from runnerd.planning.endings import Closings, ended, ends_something
from runnerd.planning.gate import Gate, expired, renews
from runnerd.planning.judge import failed
from runnerd.planning.place import Absent, NotMerged, Passed
from runnerd.planning.planner import UNPROMPTED, Planner
from runnerd.store.changes import WorkflowNote
from runnerd.store.ledger import (
    Delivery,
    DeliveryRecord,
    DeliveryState,
    IllegalTransition,
    Ledger,
    LedgerUnavailable,
)
from runnerd.supervise.mailbox import Mailbox
from runnerd.trust.approval import wish

_log = log.get("parser")

SWEEP_EVERY = 2.0
"""Seconds between looks at the ledger for deliveries whose hint was lost or whose pause is over."""
LOOK = 1000
"""Pending deliveries that one look takes in."""
TURN = 25
"""Deliveries of one repository that are planned in one turn, before others are looked at again."""
RUSH = 8
"""Deliveries within `BREATH` seconds that are a rush: answering their senders then comes before planning."""
BREATH = 0.1
PATIENCE = 1.0
"""Seconds that a rush may put a turn off."""
TRIES = 5
"""How often planning is tried before a delivery is rejected with the reason."""
PAUSE = 2.0
"""Seconds before the second try; they double with each."""
UNREAD = ".github/workflows"
"""What the run is called that stands for workflows which could not be read at all."""
TOGETHER = 1.0
"""Seconds for more buttons to be pressed at jobs of the same run, such as by "Re-run failed checks"."""
TURN_UP = 5.0
"""Seconds between looks whether a run has ended that a button waits for."""
LIVES = 10
"""Daemons that may end while they plan one delivery: after so many it is taken for the cause."""


class ParserActor:
    """Plans deliveries, each at most once, several at a time but one of each repository, oldest first.

    A delivery ends ignored with a reason, rejected with a reason, or planned with its runs (I3). One that
    cannot be planned now (the forge's git does not answer) is tried again, also after a restart, while
    others go on; one repository's slow remote holds up no other repository.

    `targets` says of a repository whether its pull requests are also events `pull_request_target`, which
    run the default branch's workflows with its rights. `part` says what running a job of a run again comes
    to, or raises `CannotRerun`.
    """

    name = "parser"

    def __init__(
        self,
        mailbox: Mailbox[DeliveryAccepted],
        *,
        ledger: Ledger,
        planner: Planner,
        executor: Mailbox[Any],
        reporter: Mailbox[OutboxChanged],
        workers: int,
        part: Callable[[RunRecord, Wish], Awaitable[Part]],
        targets: Callable[[str], bool] = lambda repository: False,
        timekeeper: Mailbox[BranchMoved] | None = None,
        gate: Gate | None = None,
    ) -> None:
        self._mailbox = mailbox
        self._ledger = ledger
        self._planner = planner
        self._executor = executor
        self._reporter = reporter
        self._workers = workers
        self._part = part
        self._targets = targets
        self._timekeeper = timekeeper
        self._gate = gate or Gate(People(None))
        self._bell = trio.Event()
        self._hints: deque[float] = deque(maxlen=RUSH)
        """When the last deliveries came."""
        self._draining = trio.Event()
        self._busy: set[str] = set()
        """Repositories of which a delivery is being planned."""
        self._tries: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
        self._pressed: dict[str, int] = {}
        """Deliveries that ask for a job to run again, with its number, and what they are put off for."""
        self._closings = Closings()
        self._inherited: set[str] = set()
        """Deliveries that an earlier parser left, and may have ended by."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Plan what arrives and what an earlier daemon left, until the mailbox is closed.

        Closing lets the deliveries in hand be finished; the rest stays in the ledger.
        """
        self._inherited = {delivery for delivery, _ in await self._ledger.backlog(LOOK)}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_mailbox)
            task_status.started()
            while not self._draining.is_set():
                self._bell = trio.Event()
                await self._let_a_rush_pass()
                if room := self._workers - len(self._busy):
                    backlog = await self._ledger.backlog(LOOK)
                    if self._draining.is_set():
                        break
                    chosen = choose(backlog, self._busy, self._not_before, trio.current_time(), room)
                    for repository, deliveries in chosen.items():
                        self._busy.add(repository)
                        nursery.start_soon(self._take_turn, repository, deliveries)
                now = trio.current_time()
                due = (at - now for at in self._not_before.values() if at > now)
                with trio.move_on_after(min((SWEEP_EVERY, *due))):
                    await self._bell.wait()

    async def _let_a_rush_pass(self) -> None:
        """Wait while deliveries pour in, for their senders wait for an answer and nobody for a plan yet."""
        with trio.move_on_after(PATIENCE):
            while self._is_rush():
                with trio.move_on_after(BREATH):
                    await self._draining.wait()
                    return

    def _is_rush(self) -> bool:
        return len(self._hints) == RUSH and trio.current_time() - self._hints[0] < BREATH

    async def _read_mailbox(self) -> None:
        """A hint says that it is worth looking; what there is to do says the ledger."""
        async for _ in self._mailbox:
            self._hints.append(trio.current_time())
            self._bell.set()
        self._draining.set()
        self._bell.set()

    async def _take_turn(self, repository: str, deliveries: Sequence[str]) -> None:
        """Plan some deliveries of a repository, one after the other."""
        try:
            for delivery in deliveries:
                if not self._draining.is_set():
                    with log.context(delivery=delivery):
                        await self._plan(delivery)
        finally:
            self._busy.discard(repository)
            self._bell.set()

    async def _plan(self, delivery: str) -> None:
        if await self._is_deadly(delivery):
            reason = f"{LIVES} daemons ended while they planned it: look for crashes in their logs"
            await self._reject(delivery, reason)
        else:
            await self._settle(delivery)

    async def _is_deadly(self, delivery: str) -> bool:
        """Whether planning this delivery ended more daemons than can be chance."""
        if delivery not in self._inherited:
            return False
        self._inherited.discard(delivery)
        return await self._ledger.try_delivery(delivery) > LIVES

    async def _settle(self, delivery: str) -> None:
        record = await self._ledger.delivery(delivery)
        if record is None or record.state != DeliveryState.PENDING:
            return
        known: Event | None = None
        try:
            event = await trio.to_thread.run_sync(events.decode, record.event, delivery, record.body)
            if isinstance(event, events.Ignored):
                await self._ledger.ignore_delivery(delivery, event.reason)
                return
            event = msgspec.structs.replace(event, remark=record.remark)
            press = buttons.pressed(event)
            if reason := self._gate.why_nothing(event, pressed=press is not None):
                await self._ledger.ignore_delivery(delivery, reason)
                return
            if reason := await self._gate.why_no_answer(event):
                await self._ledger.ignore_delivery(delivery, reason)
                return
            if press is not None:
                await self._obey(delivery, event, press)
                return
            known = event
            await self._derive(event, record)
            if await self._is_over(delivery, event):
                return
            last = self._tries.get(delivery, 0) + 1 >= TRIES
            plan = await self._planner.plan(event, last=last)
            notes = [*plan.notes, *_remarks(record)]
            guarded = await self._gate.guarded(plan.runs)
            await self._approve(event)
            planned = await self._ledger.plan_delivery(delivery, guarded, notes)
        except LedgerUnavailable:
            raise
        except events.Malformed as problem:
            await self._reject(delivery, str(problem))
        except Passed as over:
            await self._ledger.ignore_delivery(delivery, str(over))
            self._forget(delivery)
        except (Absent, NotMerged) as problem:
            await self._try_later(delivery, str(problem))
        except ForgeUnavailable as problem:
            await self._try_later(delivery, f"the forge could not be asked who may approve: {problem}")
        except GitError as problem:
            await self._try_later(delivery, f"the repository could not be read: {problem}", known)
        except Exception as fault:
            # What a delivery makes us do wrong costs that delivery, not the parser.
            _log.error("a fault of ours", exc_info=fault)
            name = type(fault).__name__
            await self._try_later(delivery, f"a fault of runnerd itself ({name}): its log says where", known)
        else:
            self._forget(delivery)
            for run in planned:
                await self._executor.send(RunCreated(run))
            self._reporter.offer(OutboxChanged())
            self._tell_the_time(event)
            for run in expired(event, await self._open_runs()) if renews(event) else ():
                await self._cancel(run, "it waited for approval, and its pull request has newer commits")

    async def _open_runs(self) -> list[RunRecord]:
        records = [await self._ledger.run(run) for run in await self._ledger.open_runs()]
        return [record for record in records if record is not None]

    async def _cancel(self, run: int, why: str) -> None:
        if await self._ledger.request_cancel(run):
            _log.info("a run is cancelled", run=run, why=why)
            await self._executor.send(CancelRun(run))

    async def _approve(self, event: Event) -> None:
        """Let the runs start that a comment approves."""
        if wish(event) is None:
            return
        held = [run for run in await self._open_runs() if run.held]
        for run, approval in (await self._gate.approved(event, held)).items():
            try:
                await self._ledger.approve(run, approval)
            except IllegalTransition as late:
                _log.info("an approval came too late", run=run, problem=str(late))
                continue
            _log.info("a run is approved", run=run, by=approval.login, permission=approval.permission)
            await self._executor.send(RunCreated(run))
            self._reporter.offer(OutboxChanged())

    def _tell_the_time(self, event: Event) -> None:
        """The schedules that count are those at the tip of the default branch."""
        branch = f"refs/heads/{event.repository.default_branch}"
        if self._timekeeper is not None and event.name == "push" and event.ref == branch:
            self._timekeeper.offer(BranchMoved(event.repository))

    async def _derive(self, event: Event, record: DeliveryRecord) -> None:
        """Store the second event of a pull request's delivery: GitHub makes two of one, each with its runs.

        A delivery of its own, so that one file may be started by both. Done again it is a duplicate.
        """
        made_by_hand = event.delivery.startswith(events.BY_HAND)
        if event.name != "pull_request" or made_by_hand or not self._targets(event.repository.full_name):
            return
        second = Delivery(
            id=f"{record.id}.pull_request_target",
            event="pull_request_target",
            headers=record.headers,
            body=record.body,
            received=record.received,
            repository=record.repository,
            hook_id=record.hook_id,
            repeated="fine",
        )
        if await self._ledger.accept_delivery(second) == "accepted":
            self._bell.set()

    async def _is_over(self, delivery: str, event: Event) -> bool:
        """End the runs an event puts an end to; True where it can start nothing itself."""
        if reason := self._closings.over(event):
            await self._ledger.ignore_delivery(delivery, reason)
            self._forget(delivery)
            return True
        if not ends_something(event):
            return False
        self._closings.note(event)
        for run in ended(event, await self._open_runs()):
            await self._cancel(run, "what it is about has ended")
        if event.name != "merge_group":
            return False
        await self._ledger.ignore_delivery(delivery, "the merge group was destroyed: its runs are cancelled")
        self._forget(delivery)
        return True

    async def _obey(self, delivery: str, event: Event, press: buttons.Press) -> None:
        """Do what somebody pressed a button for; one that means no run of ours is ignored."""
        meant = [
            run for run in await self._meant(event, press) if run.event.repository.id == event.repository.id
        ]
        runs = [run.id for run in meant]
        if not runs:
            await self._ledger.ignore_delivery(delivery, "the check it is about is none of ours")
        elif press.wish == "cancel":
            for run in runs:
                if await self._ledger.request_cancel(run):
                    await self._executor.send(CancelRun(run))
            await self._ledger.ignore_delivery(delivery, f"asked for the end of run {runs[0]}")
        elif press.subject is not None and press.subject.job is not None:
            await self._rerun_job(delivery, meant[0], press.subject.job)
            return
        else:
            await self._tell_of(await self._ledger.rerun_for(delivery, runs))
        self._forget(delivery)

    async def _rerun_job(self, delivery: str, run: RunRecord, job: int) -> None:
        """Run a job again with those that need it, in one attempt with all that is pressed with it.

        While the newest attempt runs, a job that has ended waits for its end. What cannot run again is
        ignored, with the reason.
        """
        if delivery not in self._pressed:
            self._pressed[delivery] = job
            self._not_before[delivery] = trio.current_time() + TOGETHER
            return
        others = {each: beside for each, beside in self._pressed.items() if each != delivery}
        try:
            part = await self._part(run, Wish(job=str(job), also=tuple(others.values())))
            runs = await self._ledger.rerun_for(delivery, [part.run], part.again)
        except NotYet as problem:
            _log.info("a job runs again later", run=run.id, job=job, problem=str(problem))
            self._not_before[delivery] = trio.current_time() + TURN_UP
            return
        except (CannotRerun, IllegalTransition) as problem:
            _log.warning("a job is not run again", run=run.id, job=job, problem=str(problem))
            await self._ledger.ignore_delivery(delivery, str(problem))
        else:
            await self._tell_of(runs)
            for each, beside in others.items():
                if beside in part.also and runs:
                    reason = f"its job runs again in run {runs[0]}, with others that were asked for"
                    await self._ledger.ignore_delivery(each, reason)
                    self._forget(each)
        self._forget(delivery)

    async def _tell_of(self, runs: Iterable[int]) -> None:
        for run in runs:
            await self._executor.send(RunCreated(run))
        self._reporter.offer(OutboxChanged())

    async def _meant(self, event: Event, press: buttons.Press) -> list[RunRecord]:
        if press.subject is not None:
            run = await self._ledger.run(press.subject.run)
            return [run] if run is not None and press.subject.fits(run) else []
        latest = await self._ledger.runs(LOOK, repository=event.repository.full_name)
        return [run for run in latest if run.event.report_sha == press.sha]

    async def _try_later(self, delivery: str, problem: str, event: Event | None = None) -> None:
        tries = self._tries[delivery] = self._tries.get(delivery, 0) + 1
        if tries < TRIES:
            self._not_before[delivery] = trio.current_time() + PAUSE * 2.0 ** (tries - 1)
            _log.warning("a delivery cannot be planned now", problem=problem, tries=tries)
        else:
            await self._give_up(delivery, f"{problem} (tried {TRIES} times)", event)

    async def _give_up(self, delivery: str, reason: str, event: Event | None) -> None:
        """Reject a delivery; where its commit waits for results, as a failed run that is seen there."""
        if event is None or event.name not in UNPROMPTED or not event.report_sha:
            await self._reject(delivery, reason)
            return
        self._forget(delivery)
        run = failed(event, UNREAD, UNREAD, "", reason, Outcome.INFRA_ERROR)
        await self._ledger.plan_delivery(delivery, [run], [])
        self._reporter.offer(OutboxChanged())
        _log.error("delivery given up", reason=reason)

    async def _reject(self, delivery: str, reason: str) -> None:
        self._forget(delivery)
        await self._ledger.reject_delivery(delivery, reason)
        _log.error("delivery rejected", reason=reason)

    def _forget(self, delivery: str) -> None:
        self._tries.pop(delivery, None)
        self._not_before.pop(delivery, None)
        self._pressed.pop(delivery, None)


def choose(
    backlog: Iterable[tuple[str, str]],
    busy: Collection[str],
    not_before: Mapping[str, float],
    now: float,
    room: int,
) -> dict[str, list[str]]:
    """What to plan now: for each of `room` repositories that are not busy a turn of its oldest deliveries.

    `backlog` has (delivery, repository), oldest first; one whose time in `not_before` is to come is passed.
    """
    chosen: dict[str, list[str]] = {}
    for delivery, repository in backlog:
        if repository in busy or not_before.get(delivery, now) > now:
            continue
        if repository in chosen or len(chosen) < room:
            turn = chosen.setdefault(repository, [])
            if len(turn) < TURN:
                turn.append(delivery)
    return chosen


def _remarks(record: DeliveryRecord) -> list[WorkflowNote]:
    """What people should know about how the delivery came, beside the notes on its workflow files."""
    return [WorkflowNote(path="(the delivery)", matched=True, reason=record.remark)] if record.remark else []
