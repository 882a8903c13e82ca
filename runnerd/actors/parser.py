"""Turns stored deliveries into runs: event, commit, workflow files, triggers, one transaction."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
import trio

from runnerd import log
from runnerd.forge import events
from runnerd.git.mirror import Mirrors, Refused
from runnerd.git.process import GitError
from runnerd.jobs.contexts import github_context
from runnerd.messages import DeliveryAccepted, OutboxChanged, RunCreated
from runnerd.model import Event, Outcome
from runnerd.store.changes import UNEXPANDED, NewJob, NewRun, WorkflowNote
from runnerd.store.ledger import DeliveryState, Ledger, LedgerUnavailable
from runnerd.supervise.mailbox import Mailbox
from runnerd.workflow import load_cached, matches
from runnerd.workflow.legs import plan_legs
from runnerd.workflow.model import Problem, Workflow, WorkflowErrors
from runnerd.workflow.triggers import dispatch_inputs

_log = log.get("parser")

SWEEP_EVERY = 2.0
"""Seconds between looks at the ledger for deliveries whose hint was lost or whose pause is over."""
LOOK = 1000
"""Pending deliveries that one look takes in."""
TURN = 25
"""Deliveries of one repository that are planned in one turn, before others are looked at again."""
RUSH = 16
"""Deliveries within `BREATH` seconds that are a rush: answering their senders then comes before planning."""
BREATH = 0.1
PATIENCE = 1.0
"""Seconds that a rush may put a turn off."""
TRIES = 5
"""How often planning is tried before a delivery is rejected with the reason."""
PAUSE = 2.0
"""Seconds before the second try; they double with each."""
LIVES = 10
"""Daemons that may end while they plan one delivery: after so many it is taken for the cause."""
PROBLEMS_SHOWN = 10
FOLDER = ".github/workflows"
"""What the run is called that stands for the workflow files which are not read."""

_UNPROMPTED = ("push", "pull_request")
"""Events that ask every workflow file of the commit, so that one which cannot be read is their failure."""


class Site(Protocol):
    """What planning depends on beside the delivery; the daemon fills it in."""

    server_url: str
    api_url: str
    variables: Mapping[str, str]
    foreign_is_failure: bool
    """Whether a job that no image claims is ours to fail, or not ours."""

    def image_for(self, labels: tuple[str, ...]) -> str | None:
        """The image that claims these labels, or None."""
        ...


class ParserActor:
    """Plans deliveries, each at most once, several at a time but one of each repository, oldest first.

    A delivery ends ignored with a reason, rejected with a reason, or planned with its runs (I3). One that
    cannot be planned now (the forge's git does not answer) is tried again, also after a restart, while
    others go on; one repository's slow remote holds up no other repository.
    """

    name = "parser"

    def __init__(
        self,
        mailbox: Mailbox[DeliveryAccepted],
        *,
        ledger: Ledger,
        mirrors: Mirrors,
        executor: Mailbox[Any],
        reporter: Mailbox[OutboxChanged],
        site: Site,
        workers: int,
    ) -> None:
        self._mailbox = mailbox
        self._ledger = ledger
        self._mirrors = mirrors
        self._executor = executor
        self._reporter = reporter
        self._site = site
        self._workers = workers
        self._bell = trio.Event()
        self._hints = 0
        """Deliveries since the last look."""
        self._draining = trio.Event()
        self._busy: set[str] = set()
        """Repositories of which a delivery is being planned."""
        self._tries: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
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
                with trio.move_on_after(SWEEP_EVERY):
                    await self._bell.wait()

    async def _let_a_rush_pass(self) -> None:
        """Wait while deliveries pour in, for their senders wait for an answer and nobody for a plan yet."""
        with trio.move_on_after(PATIENCE):
            while self._hints > RUSH and not self._draining.is_set():
                self._hints = 0
                await trio.sleep(BREATH)
        self._hints = 0

    async def _read_mailbox(self) -> None:
        """A hint says that it is worth looking; what there is to do says the ledger."""
        async for _ in self._mailbox:
            self._hints += 1
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
        try:
            event = await trio.to_thread.run_sync(events.decode, record.event, delivery, record.body)
            if isinstance(event, events.Ignored):
                await self._ledger.ignore_delivery(delivery, event.reason)
                return
            runs, notes = await self._runs(event)
            planned = await self._ledger.plan_delivery(delivery, runs, notes)
        except LedgerUnavailable:
            raise
        except events.Malformed as problem:
            await self._reject(delivery, str(problem))
        except GitError as problem:
            await self._try_later(delivery, f"the repository could not be read: {problem}")
        except Exception as fault:
            # What a delivery makes us do wrong costs that delivery, not the parser.
            _log.error("a fault of ours", exc_info=fault)
            name = type(fault).__name__
            await self._try_later(delivery, f"a fault of runnerd itself ({name}): its log says where")
        else:
            self._forget(delivery)
            for run in planned:
                await self._executor.send(RunCreated(run))
            self._reporter.offer(OutboxChanged())

    async def _try_later(self, delivery: str, problem: str) -> None:
        tries = self._tries[delivery] = self._tries.get(delivery, 0) + 1
        if tries < TRIES:
            self._not_before[delivery] = trio.current_time() + PAUSE * 2.0 ** (tries - 1)
            _log.warning("a delivery cannot be planned now", problem=problem, tries=tries)
        else:
            await self._reject(delivery, f"{problem} (tried {TRIES} times)")

    async def _reject(self, delivery: str, reason: str) -> None:
        self._forget(delivery)
        await self._ledger.reject_delivery(delivery, reason)
        _log.error("delivery rejected", reason=reason)

    def _forget(self, delivery: str) -> None:
        self._tries.pop(delivery, None)
        self._not_before.pop(delivery, None)

    async def _runs(self, event: Event) -> tuple[list[NewRun], list[WorkflowNote]]:
        """The runs an event starts, and for each workflow file why or why not."""
        event = await self._resolved(event)
        files = await self._mirrors.workflow_files(event.repository, event.sha)
        runs: list[NewRun] = []
        notes: list[WorkflowNote] = []
        refused: list[str] = []
        for path, text in files.items():
            if isinstance(text, Refused):
                refused.append(f"{path}: {text.reason}")
                notes.append(WorkflowNote(path=path, matched=False, reason=text.reason))
                continue
            run, note = await self._one(event, path, text)
            notes.append(note)
            if run is not None:
                runs.append(run)
        if refused and event.name in _UNPROMPTED:
            # One run for all of them: there may be thousands.
            reason = "Workflow files that are not read\n" + _list(refused)
            runs.append(_failed(event, FOLDER, FOLDER, "", reason))
        return runs, notes

    async def _resolved(self, event: Event) -> Event:
        """The event with the commit it builds: for a pull request its merge commit, else its head."""
        repository = event.repository
        sha: str | None = event.sha
        head = event.report_sha
        if event.sha or event.name != "pull_request":
            await self._mirrors.fetch(repository, event.sha or event.ref)
            sha = event.sha or await self._mirrors.resolve(repository, event.ref)
        else:
            head_ref = f"refs/pull/{event.number}/head"
            await self._mirrors.fetch(repository, event.ref, head_ref)
            head = head or await self._mirrors.resolve(repository, head_ref) or ""
            sha = await self._mirrors.resolve(repository, event.ref) or head
            if sha and sha == head:
                await self._mirrors.fetch(repository, sha)
        if not sha:
            raise GitError(f"{repository.full_name} has no {event.ref}")
        return msgspec.structs.replace(event, sha=sha, report_sha=head or sha)

    async def _one(self, event: Event, path: str, text: bytes) -> tuple[NewRun | None, WorkflowNote]:
        source = text.decode("utf-8", "replace")
        try:
            workflow = await trio.to_thread.run_sync(load_cached, source, path)
        except WorkflowErrors as errors:
            if event.name not in _UNPROMPTED:
                return None, WorkflowNote(path=path, matched=False, reason="the file is not valid")
            # GitHub shows an unreadable file as a failed run, because it cannot tell its triggers.
            reason = "Invalid workflow file\n" + _list(errors.problems)
            note = WorkflowNote(path=path, matched=True, reason="the file is not valid")
            return _failed(event, path, path, source, reason), note
        changed = await self._changed(event, workflow)
        return await trio.to_thread.run_sync(self._judge, event, workflow, source, changed)

    async def _changed(self, event: Event, workflow: Workflow) -> tuple[str, ...] | None:
        """The files the event changed, where a path filter asks; None where it is not known."""
        if event.name not in _UNPROMPTED or not _wants_paths(workflow, event.name):
            return None
        base = event.before if event.name == "push" else event.base_sha
        return await self._mirrors.changed_files(
            event.repository, base, event.sha, merge_base=event.name == "pull_request"
        )

    def _judge(
        self, event: Event, workflow: Workflow, source: str, changed: tuple[str, ...] | None
    ) -> tuple[NewRun | None, WorkflowNote]:
        """Whether the event starts this workflow, and with which jobs. Slow where patterns are many."""
        path = workflow.path
        match = matches(event, event.payload, workflow, changed)
        note = WorkflowNote(path=path, matched=match.matched, reason=match.reason)
        if not match.matched:
            return None, note
        if workflow.blocking:
            reason = "This version of runnerd cannot run this workflow yet\n" + _list(workflow.blocking)
            return _failed(event, path, workflow.name, source, reason), note
        if event.name == "workflow_dispatch" and match.trigger is not None:
            try:
                inputs = dispatch_inputs(match.trigger.inputs, event.inputs)
            except ValueError as wrong:
                return _failed(event, path, workflow.name, source, str(wrong)), note
            event = msgspec.structs.replace(event, inputs=inputs)
        ours, foreign = self._sort_out(event, workflow)
        reason = "; ".join([match.reason, *(f"job {key} is not ours: {why}" for key, why in foreign.items())])
        note = WorkflowNote(path=path, matched=True, reason=reason)
        if not ours:
            return None, note
        return NewRun(
            workflow_path=path,
            workflow_name=workflow.name,
            title=_title(event),
            source_text=source,
            event=event,
            jobs=tuple(NewJob(key=key, leg=UNEXPANDED, name=key) for key in ours),
        ), note

    def _sort_out(self, event: Event, workflow: Workflow) -> tuple[list[str], dict[str, str]]:
        """Which jobs are ours, and why the others are not: a foreign job, and what needs one."""
        if self._site.foreign_is_failure:
            return list(workflow.jobs), {}
        contexts = {
            "github": github_context(
                event, workflow=workflow, server_url=self._site.server_url, api_url=self._site.api_url
            ),
            "inputs": event.inputs,
            "vars": self._site.variables,
        }
        foreign: dict[str, str] = {}
        partly: set[str] = set()
        for key, legs in plan_legs(workflow, contexts).items():
            if legs is None:
                continue  # its labels depend on other jobs' outputs: the executor will see
            unclaimed = [leg.labels for leg in legs if self._site.image_for(leg.labels) is None]
            if len(unclaimed) == len(legs):
                foreign[key] = f"no image claims {', '.join(unclaimed[0]) or 'an empty runs-on'}"
            elif unclaimed:
                partly.add(key)
        grew = True
        while grew:
            grew = False
            for key, job in workflow.jobs.items():
                needed = next((need for need in job.needs if need in foreign or need in partly), None)
                if key not in foreign and needed is not None:
                    foreign[key] = f"it needs {needed}, which is not ours"
                    grew = True
        return [key for key in workflow.jobs if key not in foreign], foreign


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


def _wants_paths(workflow: Workflow, event: str) -> bool:
    return any(
        trigger.event == event and (trigger.paths is not None or trigger.paths_ignore is not None)
        for trigger in workflow.triggers
    )


def _title(event: Event) -> str:
    """What people recognise the run by: the pull request's title or the commit's first line."""
    pull = event.payload.get("pull_request")
    title = pull.get("title") if isinstance(pull, dict) else None
    text = title if isinstance(title, str) else event.message
    return text.partition("\n")[0][:200] or event.ref


def _failed(event: Event, path: str, name: str, source: str, reason: str) -> NewRun:
    return NewRun(
        workflow_path=path,
        workflow_name=name,
        title=_title(event),
        source_text=source,
        event=event,
        jobs=(),
        outcome=Outcome.STARTUP_FAILURE,
        reason=reason,
    )


def _list(problems: Sequence[Problem | str]) -> str:
    shown = [str(problem) for problem in problems[:PROBLEMS_SHOWN]]
    more = len(problems) - len(shown)
    return "\n".join([*shown, *([f"and {more} more"] if more else [])])
