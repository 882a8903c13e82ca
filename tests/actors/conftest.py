"""Around the executor and the parser: real ledgers and repositories, machines in memory, open mailboxes."""

import json
import os
import subprocess
import time
from contextlib import asynccontextmanager
from functools import partial

import msgspec
import pytest
import trio

from runnerd.actors.executor import ExecutorActor
from runnerd.actors.parser import ParserActor
from runnerd.actors.pool import PoolActor
from runnerd.git.mirror import Mirrors
from runnerd.machines import rewind
from runnerd.machines.driver import NoMachine, Size
from runnerd.machines.fake import open_fake_driver
from runnerd.machines.kept import KeptMachines
from runnerd.machines.kinds import Kind, Rules
from runnerd.machines.quota import Limits
from runnerd.messages import CancelRun, DeliveryAccepted, RunCreated
from runnerd.model import Actor, Event, Phase, Repository
from runnerd.planning.again import part_of
from runnerd.planning.planner import Planner
from runnerd.reading.process import Reader
from runnerd.store.changes import UNEXPANDED, NewJob, NewRun
from runnerd.store.ledger import Delivery, open_ledger
from runnerd.supervise.mailbox import Mailbox
from runnerd.workflow import load

PATIENCE = 60.0
"""Seconds after which a test gives up waiting."""
FULL_NAME = "octo/hello"
CI = "name: CI\non: push\njobs: {build: {runs-on: ubuntu-latest, steps: [{run: make}]}}\n"
CI_OF_PULLS = CI.replace("on: push", "on: pull_request")


def flow(**jobs):
    """A workflow of these jobs, each in one line; on ubuntu-latest and with one step unless it says else."""
    lines = ["on: push", "jobs:"]
    for key, rest in jobs.items():
        known = {"runs-on:": "runs-on: ubuntu-latest", "steps:": "steps: [{run: make}]"}
        parts = [text for word, text in known.items() if word not in rest] + ([rest] if rest else [])
        lines.append(f"  {key}: {{{', '.join(parts)}}}")
    return "\n".join(lines)


ONE_JOB = flow(build="")
AT_ONCE = flow(build="runs-on: fast")
"""One whose job has its labels without a look at anything."""


class Lines:
    """A log that is only remembered."""

    def __init__(self):
        self.lines = []

    async def begin_step(self, number, *, background=False):
        pass

    async def end_step(self, number):
        pass

    async def line(self, text, step=None):
        self.lines.append(text)

    note = line


class ExecutingHost:
    """What jobs get of their host: one image for ubuntu-latest, and logs in memory."""

    checkout = None
    network = None
    server_url = "https://forge.example"
    api_url = "https://api.forge.example"
    job_minutes = 5.0
    cancel_minutes = 1.0

    def __init__(self, kept, awaited):
        self.secrets = {}
        self.token = ""
        self.tokens = []
        self.asked = []
        """What was asked about secrets: event, what the job can name, environment."""
        self.variables = {}
        self.environment = {}
        self.foreign_is_failure = False
        self.allow_emulated_forks = False
        self.rewinds = rewind.Rules()
        self.kept = KeptMachines(kept, Limits(), clock=time.time, awaited=awaited)
        self.logs = {}

    @asynccontextmanager
    async def job_token(self, run, permissions):
        self.tokens.append(("made", permissions))
        try:
            yield self.token
        finally:
            self.tokens.append(("revoked", permissions))

    async def secrets_for(self, run, named, environment):
        await trio.lowlevel.checkpoint()
        self.asked.append((run.event.name, named, environment))
        return self.secrets

    def image_for(self, labels):
        return "default" if set(labels) <= {"ubuntu-latest", "fast"} else None

    @asynccontextmanager
    async def open_log(self, run, job):
        yield self.logs.setdefault(job.name, Lines())


class Executing:
    """A ledger that is written, mailboxes that outlive their actors, and whoever is started."""

    def __init__(self, ledger, nursery, kept):
        self.ledger = ledger
        self.nursery = nursery
        self.host = ExecutingHost(kept, ledger.awaited_machines)
        self.pool = Mailbox(64)
        self.hints = Mailbox(64)
        self.mailbox = Mailbox(64)
        self.cancel_all = trio.Event()
        self.driver = None
        self.deliveries = 0

    async def machines(self, *behaviours, max_total=4, **options):
        """Start a pool of such machines; returns how to end it."""

        @asynccontextmanager
        async def open_driver():
            async with open_fake_driver(*behaviours, **options) as self.driver:
                yield self.driver

        rules = Rules(min_idle=0, max_total=max_total, memory=1 << 20, builders=4)
        kinds = {"default": Kind(size=Size(memory=128))}
        actor = PoolActor(self.pool, open_driver, kinds, rules, journal=self.ledger.tell_machine)
        return await self.background(actor.run)

    async def executor(self):
        """Start an executor; returns a scope that kills it, and an event that says it ended."""
        actor = ExecutorActor(
            self.mailbox,
            ledger=self.ledger,
            pool=self.pool,
            reporter=self.hints,
            site=self.host,
            clock=time.time,
            cancel_all=self.cancel_all,
        )
        return await self.background(actor.run)

    async def background(self, run):
        scope, ended = trio.CancelScope(), trio.Event()

        async def within(*, task_status):
            with scope:
                await run(task_status=task_status)
            ended.set()

        await self.nursery.start(within)
        return scope, ended

    async def plan(self, text, *, event=None, keys=None, gate="", called=()):
        """Write a run down as the parser does; returns its id."""
        self.deliveries += 1
        id = f"d{self.deliveries}"
        event = event or push_event()
        body = json.dumps({"ref": event.ref}).encode()
        await self.ledger.accept_delivery(Delivery(id=id, event=event.name, body=body, received=1.0))
        new = NewRun(
            workflow_path=".github/workflows/ci.yml",
            workflow_name="CI",
            title="a change",
            source_text=text,
            gate=gate,
            event=msgspec.structs.replace(event, delivery=id),
            jobs=tuple(
                NewJob(key=key, leg=UNEXPANDED, name=key) for key in keys or load(text, path="ci.yml").jobs
            ),
            called=called,
        )
        (run,) = await self.ledger.plan_delivery(id, [new], [])
        return run

    async def begin(self, text, **options):
        """Plan a run and tell the executor; returns its id."""
        run = await self.plan(text, **options)
        await self.mailbox.send(RunCreated(run))
        return run

    async def go(self, text, **options):
        """Plan a run, have it run to its end, and return it with its jobs by name."""
        return await self.finished(await self.begin(text, **options))

    async def finished(self, run):
        record = await self.until(lambda: self.ledger.run(run), lambda run: run.phase is Phase.DONE)
        return record, await self.jobs(run)

    async def jobs(self, run):
        return {job.name: job for job in await self.ledger.jobs(run)}

    async def job(self, run, phase, name="build"):
        """Wait until a job is in a phase."""
        found = await self.until(
            lambda: self.jobs(run), lambda jobs: name in jobs and jobs[name].phase is phase
        )
        return found[name]

    async def cancel(self, run):
        assert await self.ledger.request_cancel(run)
        await self.mailbox.send(CancelRun(run))

    async def until(self, look, holds):
        """Look again and again until it holds; returns what was seen."""
        with trio.fail_after(PATIENCE):
            while True:
                seen = await look()
                if holds(seen):
                    return seen
                await trio.sleep(0.005)

    async def wait(self, event):
        """Wait for an event, but not for ever."""
        with trio.fail_after(PATIENCE):
            await event.wait()

    async def drained(self, ended):
        """Close the mailbox and wait for the executor's end."""
        self.mailbox.close()
        await self.wait(ended)

    async def in_step(self, number=1):
        """Wait until so many machines are within a step."""

        async def look():
            return [m for m in self.driver.machines.values() if m.commands]

        return await self.until(look, lambda machines: len(machines) >= number)

    async def no_machine_left(self):
        """Every machine that was made is destroyed again."""

        async def look():
            return self.driver.machines

        await self.until(look, lambda machines: not machines)

    async def reports(self, run):
        """What the forge is owed: (kind, state) of each terminal report."""
        due = await self.ledger.outbox_due(time.time() + 1, 1000)
        return [(row.kind.value, row.job) for row in due if row.run == run and row.state == "completed"]


def push_event(**fields):
    """A push, or what the fields make of it."""
    known = {
        "delivery": "",
        "name": "push",
        "repository": Repository(id=5, full_name="octo/hello"),
        "sender": Actor(id=1, login="ada"),
        "sha": "a" * 40,
        "ref": "refs/heads/main",
    }
    return Event(**{**known, **fields})


def trio_value(read):
    """A plain value as something to await."""

    async def look():
        await trio.lowlevel.checkpoint()
        return read()

    return look


async def refuse_machines(mailbox, *, task_status):
    """A pool that has no machine for anybody."""
    task_status.started()
    async for message in mailbox:
        message.reply.refuse(NoMachine("the image is gone"))


@pytest.fixture
async def world(tmp_path, nursery):
    """An executor's surroundings, its ledger's writer running."""
    async with open_ledger(tmp_path) as ledger:
        await nursery.start(ledger.serve_writes)
        yield Executing(ledger, nursery, tmp_path / "kept")
        nursery.cancel_scope.cancel()


class Origin:
    """A repository on disk that plays a remote."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self.git("init", "--quiet", "--initial-branch=main", ".")

    def git(self, *arguments):
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "GIT_CONFIG_NOSYSTEM": "1",
            **{f"GIT_{who}_{what}": "octo" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        }
        done = subprocess.run(["git", *arguments], cwd=self.folder, env=env, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode().strip()

    def commit(self, files=(), *, message="a change"):
        """Write files (a workflow where the name has no slash), commit, and return the commit."""
        for name, text in dict(files).items():
            path = self.folder / (name if "/" in name else f".github/workflows/{name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        return self.git("rev-parse", "HEAD")


class PlanningSite:
    """A host with one image, for ubuntu-latest."""

    server_url = "https://forge.example"
    api_url = "https://api.forge.example"
    foreign_is_failure = False
    shared_workflows = ()
    workflow_folders = (".github/workflows",)

    def __init__(self):
        self.variables = {}

    def image_for(self, labels):
        return "default" if labels == ("ubuntu-latest",) else None


class Planning:
    """A ledger, mirrors, the parser's mailboxes, and one repository."""

    def __init__(self, ledger, mirrors, nursery, folder):
        self.ledger, self.mirrors, self.nursery = ledger, mirrors, nursery
        self.site = PlanningSite()
        self.merges = False
        self.targets = False
        self.gate = None
        self.mailbox, self.executor, self.reporter = Mailbox(64), Mailbox(64), Mailbox(64)
        self.folder = folder
        self.origin = Origin(folder / "hello")
        self.count = 0

    async def start(self, workers=2, reader=None):
        """Start a parser; returns the scope that kills it and the event that says it ended."""
        actor = ParserActor(
            self.mailbox,
            ledger=self.ledger,
            planner=Planner(self.mirrors, self.site, merges=lambda name: self.merges, reader=reader),
            executor=self.executor,
            reporter=self.reporter,
            workers=workers,
            part=partial(part_of, ledger=self.ledger, reader=Reader(), kept=lambda job: ()),
            targets=lambda name: self.targets,
            gate=self.gate,
        )
        scope, ended = trio.CancelScope(), trio.Event()

        async def within(*, task_status):
            with scope:
                await actor.run(task_status=task_status)
            ended.set()

        await self.nursery.start(within)
        return scope, ended

    async def accept(self, event, payload, *, hint=True, repository=FULL_NAME):
        """Store a delivery as the receiver does; returns its id."""
        self.count += 1
        id = f"d{self.count}"
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        delivery = Delivery(id=id, event=event, body=body, received=float(self.count), repository=repository)
        assert await self.ledger.accept_delivery(delivery) == "accepted"
        if hint:
            self.mailbox.offer(DeliveryAccepted(id))
        return id

    async def settled(self, id):
        """Wait until a delivery is no longer pending."""
        with trio.fail_after(PATIENCE):
            while True:
                record = await self.ledger.delivery(id)
                if record.state != "pending":
                    return record
                await trio.sleep(0.005)

    async def plan(self, event, payload):
        """Deliver, wait, and return the record with its runs, newest last, and its notes by file."""
        record = await self.settled(await self.accept(event, payload))
        runs = [run for run in reversed(await self.ledger.runs(100)) if run.delivery == record.id]
        notes = {note.path.rpartition("/")[2]: note for note in await self.ledger.notes(record.id)}
        return record, runs, notes

    async def push(self, sha, ref="refs/heads/main", **fields):
        return await self.plan("push", push(sha, ref, **fields))

    async def told(self, number):
        """So many messages to the executor, and no more are there."""
        with trio.fail_after(PATIENCE):
            found = [await self.executor.receive() for _ in range(number)]
        assert self.executor.depth == 0
        return found


def repository(full_name=FULL_NAME, number=5):
    return {"id": number, "full_name": full_name}


def push(sha, ref="refs/heads/main", *, before="0" * 40, full_name=FULL_NAME, **fields):
    return {
        "ref": ref,
        "before": before,
        "after": sha,
        "repository": repository(full_name),
        "sender": {"id": 1, "login": "ada"},
        "head_commit": {"id": sha, "message": "a change\n\nwith a body"},
        **fields,
    }


def pull(head, base, *, action="opened", **fields):
    side = {"repo": {"id": 5}}
    return {
        "action": action,
        "number": 7,
        "pull_request": {
            "number": 7,
            "title": "Improve it",
            "head": {"ref": "topic", "sha": head, **side},
            "base": {"ref": "main", "sha": base, **side},
            **fields,
        },
        "repository": repository(),
        "sender": {"id": 1, "login": "ada"},
    }


@pytest.fixture
async def planning(tmp_path, nursery):
    """A parser's surroundings: its ledger's writer runs, its mirrors find remotes beside it."""

    def remote_of(full_name):
        return str(tmp_path / full_name.partition("/")[2])

    async with (
        open_ledger(tmp_path) as ledger,
        Mirrors(tmp_path / "mirrors", remote_of=remote_of, timeout=120.0) as mirrors,
    ):
        await nursery.start(ledger.serve_writes)
        yield Planning(ledger, mirrors, nursery, tmp_path)
        nursery.cancel_scope.cancel()
