"""Turns stored deliveries into runs: event, commit, workflow files, triggers, one transaction."""

from __future__ import annotations

from collections.abc import Mapping
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
from runnerd.store.ledger import Ledger
from runnerd.supervise.mailbox import Mailbox
from runnerd.workflow import ExpressionError, load_cached, matches
from runnerd.workflow.graph import expand_job
from runnerd.workflow.model import Problem, Workflow, WorkflowErrors
from runnerd.workflow.triggers import dispatch_inputs

_log = log.get("parser")

SWEEP_EVERY = 2.0
"""Seconds between looks at the ledger for deliveries whose hint was lost."""
TRIES = 5
"""How often reading the repository is tried before a delivery is rejected with the reason."""
PROBLEMS_SHOWN = 10


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
    """A pool of workers that plan deliveries, each at most once, oldest first.

    A delivery ends ignored with a reason, rejected with a reason, or planned with its runs (I3). One that
    cannot be read now (the forge's git does not answer) is tried again, also after a restart.
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
        self._busy: set[str] = set()
        self._tries: dict[str, int] = {}
        self._not_before: dict[str, float] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Plan what arrives and what an earlier daemon left, until the mailbox is closed.

        Closing lets each worker finish the delivery it has; the rest stays in the ledger.
        """
        work, take = trio.open_memory_channel[str](self._workers)
        async with trio.open_nursery() as workers, trio.open_nursery() as sources, work:
            sources.start_soon(self._sweep, work.clone())
            for _ in range(self._workers):
                workers.start_soon(self._serve, take.clone())
            take.close()
            task_status.started()
            async for message in self._mailbox:
                await self._hand_out(message.delivery, work)
            sources.cancel_scope.cancel()

    async def _sweep(self, work: trio.MemorySendChannel[str]) -> None:
        """The ledger is the truth: whatever it says is pending is planned, hint or no hint."""
        async with work:
            while True:
                now = trio.current_time()
                for delivery in await self._ledger.pending_deliveries(64):
                    if self._not_before.get(delivery, now) <= now:
                        await self._hand_out(delivery, work)
                await trio.sleep(SWEEP_EVERY)

    async def _hand_out(self, delivery: str, work: trio.MemorySendChannel[str]) -> None:
        if delivery not in self._busy:
            self._busy.add(delivery)
            await work.send(delivery)

    async def _serve(self, take: trio.MemoryReceiveChannel[str]) -> None:
        async with take:
            async for delivery in take:
                try:
                    with log.context(delivery=delivery):
                        await self._plan(delivery)
                finally:
                    self._busy.discard(delivery)

    async def _plan(self, delivery: str) -> None:
        record = await self._ledger.delivery(delivery)
        if record is None or record.state != "pending":
            return
        try:
            event = events.decode(record.event, delivery, record.body)
        except events.Malformed as problem:
            await self._ledger.reject_delivery(delivery, str(problem))
            return
        if isinstance(event, events.Ignored):
            await self._ledger.ignore_delivery(delivery, event.reason)
            return
        try:
            runs, notes = await self._runs(event)
        except GitError as problem:
            await self._try_later(delivery, str(problem))
            return
        self._tries.pop(delivery, None)
        self._not_before.pop(delivery, None)
        for run in await self._ledger.plan_delivery(delivery, runs, notes):
            await self._executor.send(RunCreated(run))
        self._reporter.offer(OutboxChanged())

    async def _try_later(self, delivery: str, problem: str) -> None:
        tries = self._tries[delivery] = self._tries.get(delivery, 0) + 1
        if tries < TRIES:
            self._not_before[delivery] = trio.current_time() + 2.0**tries
            _log.warning("the repository cannot be read now", problem=problem, tries=tries)
        else:
            del self._tries[delivery]
            self._not_before.pop(delivery, None)
            reason = f"the repository could not be read after {TRIES} tries: {problem}"
            await self._ledger.reject_delivery(delivery, reason)
            _log.error("delivery rejected", reason=reason)

    async def _runs(self, event: Event) -> tuple[list[NewRun], list[WorkflowNote]]:
        """The runs an event starts, and for each workflow file why or why not."""
        event = await self._resolved(event)
        files = await self._mirrors.workflow_files(event.repository, event.sha)
        runs: list[NewRun] = []
        notes: list[WorkflowNote] = []
        for path, text in files.items():
            run, note = await self._one(event, path, text)
            notes.append(note)
            if run is not None:
                runs.append(run)
        return runs, notes

    async def _resolved(self, event: Event) -> Event:
        """The event with the commit it builds: for a pull request its merge commit, else its head."""
        repository = event.repository
        if event.name != "pull_request":
            await self._mirrors.fetch(repository, event.sha or event.ref)
            sha = event.sha or await self._mirrors.resolve(repository, event.ref)
        else:
            await self._mirrors.fetch(repository, event.ref, f"refs/pull/{event.number}/head")
            sha = await self._mirrors.resolve(repository, event.ref)
            if sha is None:
                await self._mirrors.fetch(repository, event.report_sha)
                sha = event.report_sha
        if sha is None:
            raise GitError(f"{repository.full_name} has no {event.ref}")
        return msgspec.structs.replace(event, sha=sha, report_sha=event.report_sha or sha)

    async def _one(
        self, event: Event, path: str, text: bytes | Refused
    ) -> tuple[NewRun | None, WorkflowNote]:
        if isinstance(text, Refused):
            return None, WorkflowNote(path=path, matched=False, reason=text.reason)
        source = text.decode("utf-8", "replace")
        slim = msgspec.structs.replace(event, payload={})
        try:
            workflow = load_cached(source, path)
        except WorkflowErrors as errors:
            if event.name not in ("push", "pull_request"):
                return None, WorkflowNote(path=path, matched=False, reason="the file is not valid")
            # GitHub shows an unreadable file as a failed run, because it cannot tell its triggers.
            reason = "Invalid workflow file\n" + _list(errors.problems)
            return _failed(slim, path, path, source, reason), WorkflowNote(
                path=path, matched=True, reason="the file is not valid"
            )
        changed = None
        if _wants_paths(workflow, event.name) and event.name in ("push", "pull_request"):
            base = event.before if event.name == "push" else event.base_sha
            changed = await self._mirrors.changed_files(
                event.repository, base, event.sha, merge_base=event.name == "pull_request"
            )
        match = matches(event, event.payload, workflow, changed)
        if not match.matched:
            return None, WorkflowNote(path=path, matched=False, reason=match.reason)
        blocking = tuple(p for p in workflow.unsupported if p.severity == "error")
        if blocking:
            reason = "This version of runnerd cannot run this workflow yet\n" + _list(blocking)
            return _failed(slim, path, workflow.name, source, reason), WorkflowNote(
                path=path, matched=True, reason=match.reason
            )
        if event.name == "workflow_dispatch" and match.trigger is not None:
            try:
                inputs = dispatch_inputs(match.trigger.inputs, event.inputs)
            except ValueError as wrong:
                return _failed(slim, path, workflow.name, source, str(wrong)), WorkflowNote(
                    path=path, matched=True, reason=match.reason
                )
            event, slim = (msgspec.structs.replace(each, inputs=inputs) for each in (event, slim))
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
            event=slim,
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
        for key, job in workflow.jobs.items():
            try:
                legs = expand_job(workflow, job, contexts)
            except ExpressionError:
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


def _list(problems: tuple[Problem, ...]) -> str:
    shown = [str(problem) for problem in problems[:PROBLEMS_SHOWN]]
    more = len(problems) - len(shown)
    return "\n".join([*shown, *([f"and {more} more"] if more else [])])
