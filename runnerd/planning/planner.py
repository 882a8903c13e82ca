"""Plans a delivery: the commit, its workflow files, and for each of them the run it becomes or why not."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import trio

from runnerd.forge.events import files_apart
from runnerd.git.mirror import Mirrors, Refused
from runnerd.git.process import GitError
from runnerd.model import Event, Outcome
from runnerd.planning.called import Finder, Gathered, gather
from runnerd.planning.judge import Site, failed, judge, listed, wants_paths
from runnerd.planning.place import Absent, Conflict, NotMerged, Nudge, Passed, locate
from runnerd.reading.process import Reader
from runnerd.store.changes import NewRun, WorkflowNote
from runnerd.workflow.model import Workflow, WorkflowErrors

UNPROMPTED = ("push", "pull_request")
"""Events that ask every workflow file of the commit, so that one which cannot be read is their failure."""
_DIFFER = {"push": "before", "pull_request": "base_sha", "pull_request_target": "base_sha"}
"""Events that change files -> the field of `Event` with the commit to compare with."""


class Plan(msgspec.Struct, frozen=True):
    """What an event comes to."""

    runs: list[NewRun]
    notes: list[WorkflowNote]


class Planner:
    """Plans events from the mirrors.

    `merges` says of a repository whether its remote makes merge commits of pull requests, `nudge` asks the
    forge about one of them, `reader` reads the files. Workflow files are those of
    the first of the site's folders that has any.
    """

    def __init__(
        self,
        mirrors: Mirrors,
        site: Site,
        *,
        merges: Callable[[str], bool] = lambda repository: False,
        nudge: Nudge | None = None,
        reader: Reader | None = None,
    ) -> None:
        self._mirrors = mirrors
        self._site = site
        self._merges = merges
        self._nudge = nudge
        self._reader = reader or Reader()

    async def plan(self, event: Event, *, last: bool = False) -> Plan:
        """Return the runs an event starts, and for each workflow file why or why not.

        A conflict is a failed run of each workflow that would have run. Raises `Passed` when the event is
        over, `GitError` when the remote cannot be asked, and, unless this is the `last` try, `Absent` and
        `NotMerged` for what may come yet.
        """
        try:
            located = await locate(
                event,
                self._mirrors,
                merges=self._merges(event.repository.full_name),
                nudge=self._nudge,
            )
        except Conflict as conflict:
            return await self._refused(conflict.event, str(conflict), Outcome.STARTUP_FAILURE)
        except NotMerged as problem:
            if not last:
                raise
            return await self._refused(problem.event, f"{problem}; gave up waiting", Outcome.INFRA_ERROR)
        except Absent as problem:
            if not last:
                raise
            raise Passed(f"{problem}: it is not there any more") from None
        return await self._plan(located, last=last)

    async def _refused(self, event: Event, reason: str, outcome: Outcome) -> Plan:
        """The runs the event would start at its head, ended for this reason before they began."""
        plan = await self._plan(event)
        runs = [
            failed(event, run.workflow_path, run.workflow_name, run.source_text, reason, outcome)
            for run in plan.runs
        ]
        return msgspec.structs.replace(plan, runs=runs)

    async def _plan(self, event: Event, *, last: bool = True) -> Plan:
        folder, sha, files = await self._files(event)
        finder = Finder(self._mirrors, event, sha, shared=self._site.shared_workflows, last=last)
        runs: list[NewRun] = []
        notes: list[WorkflowNote] = []
        refused: list[str] = []
        for path, text in files.items():
            if isinstance(text, Refused):
                refused.append(f"{path}: {text.reason}")
                notes.append(WorkflowNote(path=path, matched=False, reason=text.reason))
                continue
            run, note = await self._one(event, path, text, finder)
            notes.append(note)
            if run is not None:
                runs.append(run)
        if refused and event.name in UNPROMPTED:
            # One run for all of them: there may be thousands.
            reason = "Workflow files that are not read\n" + listed(refused)
            runs.append(failed(event, folder, folder, "", reason))
        return Plan(runs, notes)

    async def _files(self, event: Event) -> tuple[str, str, dict[str, bytes | Refused]]:
        """The folder of the workflow files an event asks, the commit they are from, and they."""
        sha = event.sha
        if apart := files_apart(event):
            await self._mirrors.fetch(event.repository, apart)
            tip = await self._mirrors.resolve(event.repository, apart)
            if tip is None:
                raise Passed(f"{event.repository.full_name} has no {apart} to read workflows from")
            sha = tip
        for folder in self._site.workflow_folders:
            if files := await self._mirrors.workflow_files(event.repository, sha, folder):
                return folder, sha, files
        return self._site.workflow_folders[0], sha, {}

    async def _one(
        self, event: Event, path: str, text: bytes, finder: Finder
    ) -> tuple[NewRun | None, WorkflowNote]:
        source = text.decode("utf-8", "replace")
        try:
            workflow = await self._reader.load(source, path)
            called = Gathered({}, {})
            if any(job.uses is not None for job in workflow.jobs.values()) and _heeds(workflow, event):
                called = await gather(workflow, finder.find, self._reader)
                texts = {name: file.text for name, file in called.files.items()}
                workflow = await self._reader.load_whole(source, path, texts, called.missing)
        except WorkflowErrors as errors:
            if event.name not in UNPROMPTED:
                return None, WorkflowNote(path=path, matched=False, reason="the file is not valid")
            # GitHub shows an unreadable file as a failed run, because it cannot tell its triggers.
            reason = "Invalid workflow file\n" + listed(errors.problems)
            note = WorkflowNote(path=path, matched=True, reason="the file is not valid")
            return failed(event, path, path, source, reason), note
        changed = await self._changed(event, workflow)
        run, note = await trio.to_thread.run_sync(judge, event, workflow, source, changed, self._site)
        if run is not None and called.files:
            run = msgspec.structs.replace(run, called=tuple(called.files.values()))
        return run, note

    async def _changed(self, event: Event, workflow: Workflow) -> tuple[str, ...] | None:
        """The files the event changed, where a path filter asks; None where it is not known."""
        if event.name not in _DIFFER or not wants_paths(workflow, event.name):
            return None
        base, head = getattr(event, _DIFFER[event.name]), event.sha
        if event.name == "pull_request_target":
            head = event.report_sha  # what it runs on is the default branch, what it is about is this
            try:
                await self._mirrors.fetch(event.repository, f"refs/pull/{event.number}/head", head)
            except GitError:
                return None
        return await self._mirrors.changed_files(
            event.repository, base, head, merge_base=event.name != "push"
        )


def _heeds(workflow: Workflow, event: Event) -> bool:
    """Whether an event of this name can start the file at all: only then is looked up what it calls."""
    return any(trigger.event == event.name for trigger in workflow.triggers)
