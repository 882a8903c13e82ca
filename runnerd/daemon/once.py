"""`runnerd run`: a checkout's workflows with the daemon's own executor and pool, and nothing kept."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import trio

from runnerd.actors.executor import ExecutorActor
from runnerd.actors.pool import PoolActor
from runnerd.actors.writer import WriterActor
from runnerd.config import Config
from runnerd.config.sections import Snapshots
from runnerd.daemon import drivers
from runnerd.daemon.site import Site
from runnerd.git.checkout import WorkingTreeCheckout
from runnerd.git.working_tree import describe, workflow_files
from runnerd.jobs.contexts import github_context
from runnerd.jobs.ports import LogSink
from runnerd.machines.driver import NoMachine, OpenDriver
from runnerd.machines.journal import unwritten
from runnerd.machines.kinds import Rules
from runnerd.messages import CancelRun, OutboxChanged, RunCreated
from runnerd.model import Event, JobRecord, Outcome, RunRecord
from runnerd.planning.judge import run_name
from runnerd.store.changes import UNEXPANDED, NewCalled, NewJob, NewRun, WorkflowNote
from runnerd.store.ledger import Delivery, Ledger, open_ledger
from runnerd.supervise.mailbox import Mailbox
from runnerd.supervise.supervisor import Child, GaveUp, RestartPolicy, StartFailed, sole, supervise
from runnerd.workflow import ExpressionError, load, matches
from runnerd.workflow.legs import labels_of
from runnerd.workflow.model import Workflow, WorkflowErrors
from runnerd.workflow.triggers import dispatch_inputs

DELIVERY = "runnerd-run"
NO_COMMIT = "0" * 40

PATIENCE = 3.0
"""Seconds without a line of log after which a person is told what they wait for."""

Show = Callable[[str, str], None]
"""Is given each line of log as it comes: the job's name and the line."""


class Nothing(Exception):
    """No workflow or job is there to run; the sentence says why."""


class Unusable(Exception):
    """What was asked for cannot be run; the sentence says why."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    runs: tuple[tuple[RunRecord, tuple[JobRecord, ...]], ...] = ()
    notes: tuple[WorkflowNote, ...] = ()
    """Why each workflow file was or was not run."""
    interrupted: bool = False

    @property
    def green(self) -> bool:
        """Nothing went wrong, and at least one run was not skipped whole."""
        outcomes = [run.outcome for run, _ in self.runs]
        return Outcome.SUCCESS in outcomes and all(each is not None and each.green for each in outcomes)


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to run of a checkout."""

    path: Path
    event: Event
    body: bytes
    """The event's payload, as a forge would send it."""
    changed: tuple[str, ...] | None = None
    """The files it changed, for path filters; None lets every file through."""
    workflow_files: Sequence[str] = ()
    """Only these, by path or file name."""
    job: str | None = None
    """Only this job and what it needs."""
    secrets: Mapping[str, str] = msgspec.field(default_factory=dict)
    variables: Mapping[str, str] = msgspec.field(default_factory=dict)
    env: Mapping[str, str] = msgspec.field(default_factory=dict)


def run_once(
    request: Request,
    *,
    config: Config,
    show: Show,
    note: Callable[[str], object] = str,
    open_driver: drivers.Open = drivers.open_driver,
) -> Report:
    """Run it here and now, and say what came of it. `note` is given a sentence when that takes its time.

    The first SIGINT or SIGTERM cancels the jobs, the second stops at once. Raises `Nothing` where nothing
    matches, `Unusable` and `GitError` for what cannot be run as asked, and `NoMachine`.
    """
    return trio.run(partial(_run_once, request, config, show, note, open_driver))


async def _run_once(
    request: Request,
    config: Config,
    show: Show,
    note: Callable[[str], object],
    open_driver: drivers.Open,
) -> Report:
    heard = trio.Event()

    def show_(job: str, line: str) -> None:
        heard.set()
        show(job, line)

    tree = await describe(request.path, environ=os.environ)
    event = msgspec.structs.replace(
        request.event, delivery=DELIVERY, sha=tree.sha or NO_COMMIT, ref=tree.ref or request.event.ref
    )
    runs, notes, places = _plan(request, event, workflow_files(tree.root))
    with tempfile.TemporaryDirectory(prefix="runnerd-") as folder:
        own = Path(folder)
        async with open_ledger(own / "ledger.db") as ledger:
            checkout = WorkingTreeCheckout(tree, own, environ=os.environ)
            site = _LoudSite(
                # Nobody comes back to a machine of this: its folder goes with it.
                msgspec.structs.replace(config, snapshots=Snapshots(mode="off")),
                checkout,
                show_,
                own,
                secrets=request.secrets,
                variables=request.variables,
                environment=request.env,
            )
            once = _Once(config, ledger, site, partial(open_driver, config, unwritten, own), places)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_tell_of_the_wait, heard, note)
                    interrupted = await once.run(event, request.body, runs, notes)
                    nursery.cancel_scope.cancel()
            except Exception as error:
                problem = sole(error)
                if isinstance(problem, StartFailed | GaveUp) and isinstance(problem.__cause__, NoMachine):
                    raise problem.__cause__ from problem
                raise
            records = reversed(await ledger.runs(limit=len(runs)))
            done = [(run, tuple(await ledger.jobs(run.id))) for run in records]
    return Report(runs=tuple(done), notes=tuple(notes), interrupted=interrupted)


async def _tell_of_the_wait(heard: trio.Event, note: Callable[[str], object]) -> None:
    with trio.move_on_after(PATIENCE):
        await heard.wait()
        return
    note("waiting for the first machine: where its image has no template yet, that takes up to a minute")


def _plan(
    request: Request, event: Event, files: Mapping[str, bytes]
) -> tuple[list[NewRun], list[WorkflowNote], list[Any]]:
    """The runs of the files that match, and each `runs-on` in them; raises `Nothing` where none does."""
    tree = files
    places: list[Any] = []
    if request.workflow_files:
        wanted = set(request.workflow_files)
        files = {path: text for path, text in files.items() if wanted & {path, Path(path).name}}
        known = {name for path in files for name in (path, Path(path).name)}
        if unknown := wanted - known:
            raise Nothing(f"there is no workflow file {', '.join(sorted(unknown))} in .github/workflows")
    if not files:
        raise Nothing(f"{request.path} has no workflow files in .github/workflows")
    runs, notes = [], []
    for path, text in files.items():
        run, note = _plan_file(request, event, path, text.decode("utf-8", "replace"), tree, places)
        notes.append(note)
        runs += [run] if run is not None else []
    if not runs:
        raise Nothing("\n".join(["nothing matches", *(f"{note.path}: {note.reason}" for note in notes)]))
    return runs, notes, places


def _plan_file(
    request: Request, event: Event, path: str, source: str, tree: Mapping[str, bytes], places: list[Any]
) -> tuple[NewRun | None, WorkflowNote]:
    called: dict[str, NewCalled] = {}

    def find(name: str) -> str:
        """A reusable workflow of the working tree; others need a daemon and its mirrors."""
        if not name.startswith("./"):
            raise LookupError("`runnerd run` looks up workflows of the working tree only: copy it there")
        if name[2:] not in tree:
            raise LookupError(f"the working tree has no {name[2:]}")
        text = tree[name[2:]].decode("utf-8", "replace")
        called[name] = NewCalled(
            name=name,
            text=text,
            repository=event.repository.full_name,
            path=name[2:],
            ref=event.ref,
            sha=event.sha,
        )
        return text

    try:
        workflow = load(source, path=path, resolve=find)
    except WorkflowErrors as errors:
        return _failed(event, path, path, source, str(errors)), WorkflowNote(
            path=path, matched=True, reason="the file is not valid"
        )
    match = matches(event, event.payload, workflow, request.changed)
    if not match.matched:
        return None, WorkflowNote(path=path, matched=False, reason=match.reason)
    note = WorkflowNote(path=path, matched=True, reason=match.reason)
    keys = _keys(workflow, request.job)
    if not keys:
        return None, WorkflowNote(path=path, matched=False, reason=f"it has no job {request.job!r}")
    if workflow.blocking:
        return _failed(event, path, workflow.name, source, "\n".join(map(str, workflow.blocking))), note
    inputs = {}
    if event.name == "workflow_dispatch" and match.trigger is not None:
        try:
            inputs = dispatch_inputs(match.trigger.inputs, event.inputs)
        except ValueError as wrong:
            raise Unusable(f"{path}: {wrong}") from wrong
    github = github_context(event, workflow=workflow, server_url="", api_url="")
    contexts = {"github": github, "inputs": inputs, "vars": request.variables}
    try:
        named = run_name(workflow, contexts)
    except ExpressionError as wrong:
        return _failed(event, path, workflow.name, source, f"`run-name` of {path}: {wrong}"), note
    places += _places(workflow, keys)
    return NewRun(
        workflow_path=path,
        workflow_name=workflow.name,
        title=named or event.message.partition("\n")[0],
        source_text=source,
        event=msgspec.structs.replace(event, payload={}, inputs=inputs),
        jobs=tuple(NewJob(key=key, leg=UNEXPANDED, name=key) for key in keys),
        called=tuple(called.values()),
    ), note


def _places(workflow: Workflow, keys: Iterable[str]) -> Iterator[Any]:
    """Each `runs-on` of these jobs, and of those they call."""
    for key in keys:
        job = workflow.jobs[key]
        if job.called is not None:
            yield from _places(job.called, job.called.jobs)
        else:
            yield job.runs_on


def _failed(event: Event, path: str, name: str, source: str, reason: str) -> NewRun:
    return NewRun(
        workflow_path=path,
        workflow_name=name,
        title="",
        source_text=source,
        event=msgspec.structs.replace(event, payload={}),
        outcome=Outcome.STARTUP_FAILURE,
        reason=reason,
    )


def _keys(workflow: Workflow, job: str | None) -> list[str]:
    """The jobs to run: all, or one with everything it needs."""
    if job is None:
        return list(workflow.jobs)
    wanted: set[str] = set()
    waiting = [job] if job in workflow.jobs else []
    while waiting:
        key = waiting.pop()
        if key not in wanted:
            wanted.add(key)
            waiting.extend(workflow.jobs[key].needs)
    return [key for key in workflow.jobs if key in wanted]


class _LoudSite(Site):
    """A site whose jobs' logs are also shown, line by line."""

    def __init__(
        self,
        config: Config,
        checkout: WorkingTreeCheckout,
        show: Show,
        state: Path,
        *,
        secrets: Mapping[str, str],
        variables: Mapping[str, str],
        environment: Mapping[str, str],
    ) -> None:
        super().__init__(
            config,
            checkout,
            state=state,
            clock=time.time,
            foreign_is_failure=True,
            secrets=secrets,
            variables=variables,
            environment=environment,
        )
        self._show = show

    @asynccontextmanager
    async def open_log(self, run: RunRecord, job: JobRecord) -> AsyncIterator[LogSink]:
        """The job's log, shown as it is written."""
        async with super().open_log(run, job) as sink:
            yield _LoudLog(sink, partial(self._show, job.name))


class _LoudLog:
    """Passes every line on, and shows it."""

    def __init__(self, sink: LogSink, show: Callable[[str], None]) -> None:
        self._sink = sink
        self._show = show
        self._background: set[int] = set()

    async def begin_step(self, number: int, *, background: bool = False) -> None:
        """See `LogSink`."""
        if background:
            self._background.add(number)
        await self._sink.begin_step(number, background=background)

    async def end_step(self, number: int) -> None:
        """See `LogSink`."""
        await self._sink.end_step(number)

    async def line(self, text: str, step: int | None = None) -> None:
        """See `LogSink`."""
        self._show(f"[step {step}] {text}" if step in self._background else text)
        await self._sink.line(text, step)

    async def note(self, text: str) -> None:
        """See `LogSink`."""
        self._show(text)
        await self._sink.note(text)


class _Once:
    """The writer, the pool and the executor, for as long as there is something to run."""

    def __init__(
        self, config: Config, ledger: Ledger, site: Site, open_driver: OpenDriver, places: Sequence[Any]
    ) -> None:
        self._places = places
        self._config = config
        self._ledger = ledger
        self._site = site
        self._open_driver = open_driver
        self._executor: Mailbox[RunCreated | CancelRun] = Mailbox(64)
        self._pool: Mailbox[drivers.PoolMessage] = Mailbox(64)
        self._changes: Mailbox[OutboxChanged] = Mailbox(1)
        self._stop = trio.Event()
        self._interrupted = False

    async def run(
        self, event: Event, body: bytes, runs: Sequence[NewRun], notes: Sequence[WorkflowNote]
    ) -> bool:
        """Run to the end; True when a signal cut it short."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._signals, nursery.cancel_scope)
            async with trio.open_nursery() as actors:
                await actors.start(partial(supervise, self._children(), stop=self._stop))
                await self._ledger.accept_delivery(
                    Delivery(
                        id=DELIVERY,
                        event=event.name,
                        headers={},
                        body=body,
                        received=time.time(),
                        repository=event.repository.full_name,
                        hook_id="",
                    )
                )
                for run in await self._ledger.plan_delivery(DELIVERY, runs, notes):
                    await self._executor.send(RunCreated(run))
                if self._interrupted:  # a signal during the boot found nothing to cancel yet
                    await self._cancel_runs()
                while await self._ledger.open_runs():
                    await self._changes.receive()
                self._stop.set()
            nursery.cancel_scope.cancel()
        return self._interrupted

    def _children(self) -> list[Child]:
        # Of the images that the jobs need, a machine for each that asks, and none for one that may ask.
        needed = self._needed()
        rules = Rules(
            min_idle=0,
            max_idle=0,
            max_total=self._config.pool.max_total,
            memory=drivers.pool_memory(self._config),
            vcpus=drivers.pool_vcpus(self._config),
            builders=drivers.builders(),
        )
        kinds = {
            name: msgspec.structs.replace(kind, min_idle=None)
            for name, kind in drivers.machine_kinds(self._config).items()
            if needed is None or name in needed
        }
        return [
            Child(name="writer", make=lambda: WriterActor(self._ledger), close=self._ledger.close),
            Child(
                name="pool",
                make=lambda: PoolActor(self._pool, self._open_driver, kinds, rules, patient=False),
                close=self._pool.close,
                policy=RestartPolicy(start_timeout=drivers.BOOT_TIMEOUT),
            ),
            Child(name="executor", make=self._make_executor, close=self._executor.close),
        ]

    def _needed(self) -> set[str] | None:
        """The images that the jobs claim; None where a `runs-on` is known only once its job is reached."""
        if any("${{" in str(place) for place in self._places):
            return None
        found = set()
        for place in self._places:
            with suppress(ExpressionError):  # its job will say so
                found.add(self._site.image_for(labels_of(place, {})))
        return {image for image in found if image is not None}

    def _make_executor(self) -> ExecutorActor:
        return ExecutorActor(
            self._executor,
            ledger=self._ledger,
            pool=self._pool,
            reporter=self._changes,
            site=self._site,
            clock=time.time,
            cancel_all=trio.Event(),
        )

    async def _signals(self, everything: trio.CancelScope) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                if self._interrupted:
                    everything.cancel()
                    self._ledger.close()  # its writer ends as well: nobody is to wait for a last write
                self._interrupted = True
                await self._cancel_runs()

    async def _cancel_runs(self) -> None:
        for run in await self._ledger.open_runs():
            await self._ledger.request_cancel(run)
            self._executor.offer(CancelRun(run))
