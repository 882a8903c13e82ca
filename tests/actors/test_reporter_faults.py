"""The reporter and a GitHub that fails in every way: in the end exactly the reports stand that should."""

from __future__ import annotations

import tempfile
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from runnerd.actors.reporter import ReporterActor
from runnerd.forge import checks, reports, rest
from runnerd.forge.client import open_github
from runnerd.model import Actor, Annotation, Event, JobResult, Outcome, Repository, StepResult
from runnerd.store.changes import EndJob, EndRun, NewJob, NewRun, QueueJob
from runnerd.store.ledger import Delivery, open_ledger
from runnerd.supervise.mailbox import Mailbox

from ..forge import app_key
from ..forge.fake_github import FakeGitHub, Fault

LIMITS = [
    {"status": 429, "headers": {"retry-after": "17"}, "message": "slow down"},
    {"status": 403, "headers": {"retry-after": "60"}, "message": "You have exceeded a secondary rate limit"},
    {
        "status": 403,
        "headers": {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1090"},
        "message": "limit",
    },
    {"status": 403, "headers": {}, "message": "You have triggered an abuse detection mechanism"},
    {"status": 429, "headers": {}, "message": "Too many requests"},
    {"status": 403, "headers": {}, "message": "Resource not accessible by integration"},
    {"status": 401, "headers": {}, "message": "Bad credentials"},
    {"status": 500, "headers": {}, "message": "Server Error"},
]
METHODS = st.sampled_from(["", "GET", "POST", "PATCH"])
FAULTS = st.one_of(
    st.builds(
        lambda kind, method, times: {"kind": kind, "method": method, "times": times},
        st.sampled_from(["before", "after", "hangup", "garbage"]),
        METHODS,
        st.integers(1, 4),
    ),
    st.builds(
        lambda limit, method, times: {"kind": "answer", "method": method, "times": times, **limit},
        st.sampled_from(LIMITS),
        METHODS,
        st.integers(1, 2),
    ),
    st.just({"kind": "slow", "seconds": 0.3, "times": 1}),
)
STEPS = st.one_of(
    st.tuples(st.just("fault"), FAULTS),
    st.tuples(st.just("plan"), st.sampled_from([None, 7, 8])),
    st.tuples(st.just("start"), st.none()),
    st.tuples(st.just("end"), st.sampled_from(list(Outcome))),
    st.tuples(st.just("send"), st.none()),
    st.tuples(st.just("crash"), st.integers(1, 12)),
    st.tuples(st.just("wait"), st.sampled_from([1, 30, 400, 4000])),
    st.tuples(st.just("revoke"), st.none()),
)


PRIVATE, PUBLIC = app_key.generate()


class World:
    """A ledger, a GitHub, time, and reporters that come and go."""

    def __init__(self, ledger, folder, address, server, *, app):
        self.ledger, self.folder, self.address, self.server, self.app = ledger, folder, address, server, app
        self.now = 1000.0
        self.open = []

    async def sleep(self, seconds):
        self.now += seconds
        await trio.lowlevel.checkpoint()

    @asynccontextmanager
    async def reporter(self):
        who = {"app": "7", "private_key": PRIVATE} if self.app else {"token": self.server.token}
        clock = partial(getattr, self, "now")
        async with open_github(
            self.address, **who, clock=clock, sleep=self.sleep, jitter=lambda: 0.5
        ) as forge:
            yield ReporterActor(
                Mailbox(1), ledger=self.ledger, forge=forge, directory=self.folder / "reports",
                state_directory=self.folder, clock=clock, comments="on",
            )  # fmt: skip

    async def send(self, actor):
        (self.folder / "reports").mkdir(exist_ok=True)
        while await actor._send_due():
            pass

    async def plan(self, number):
        run = len(await self.ledger.runs(1000)) + 1
        event = Event(
            delivery=f"d-{run}", name="push" if number is None else "pull_request", number=number,
            repository=Repository(id=1, full_name="o/r"), sender=Actor(id=1, login="o"), sha="c" * 40,
            ref="refs/heads/main", report_sha="c" * 40,
        )  # fmt: skip
        await self.ledger.accept_delivery(
            Delivery(id=event.delivery, event=event.name, body=b"{}", received=self.now)
        )
        new = NewRun(
            workflow_path=f"{run}.yml", workflow_name=f"W{run}", title="t", source_text="x", event=event,
            jobs=(NewJob(key="a", name="a"), NewJob(key="b", name="b (1)")),
        )  # fmt: skip
        [id] = await self.ledger.plan_delivery(event.delivery, [new], [])
        self.open.append(id)

    async def start(self):
        for run in self.open:
            for job in await self.ledger.jobs(run):
                if job.phase == "waiting":
                    await self.ledger.apply(run, [QueueJob(job=job.id, now=self.now)])
                    await self.ledger.claim_job(job.id, "m-1")
                    return

    async def end(self, outcome):
        """End the oldest run with this outcome in all its jobs, annotations included."""
        while self.open and any(job.phase == "waiting" for job in await self.ledger.jobs(self.open[0])):
            await self.start()
        if not self.open:
            return
        run = self.open.pop(0)
        step = StepResult(number=1, id="", name="make", outcome=outcome, conclusion=outcome, exit_code=1)
        notes = tuple(Annotation(level="error", message=f"m{n}", path="a.py", line=n + 1) for n in range(70))
        for job in await self.ledger.jobs(run):
            result = JobResult(outcome=outcome, steps=(step,), annotations=notes, summary="# S")
            await self.ledger.apply(run, [EndJob(job=job.id, epoch=job.epoch, result=result)])
        await self.ledger.apply(run, [EndRun(outcome=outcome)])

    async def check(self):
        """What stands at GitHub is what should, once each."""
        assert self.server.problems == []
        assert await self.ledger.outbox_depth() == 0
        found = self.server.checks.get(("o/r", "c" * 40), [])
        told = self.server.newest("o/r", "c" * 40)
        expected = 0
        for run in await self.ledger.runs(1000):
            for job in await self.ledger.jobs(run.id):
                expected += 1
                if not self.app:
                    status = reports.status_of(run, job)
                    assert told[status.context] == (status.state, status.description)
                    continue
                [check] = [each for each in found if each["external_id"] == checks.external_id(run, job)]
                wanted = checks.check_of(run, job)
                assert (check["status"], check["conclusion"] or "") == (wanted.status, wanted.conclusion)
                assert (check["name"], check["output"]["title"]) == (wanted.name, wanted.title)
                assert check["output"]["summary"] == wanted.summary
                assert [each["message"] for each in check["annotations"]] == [
                    each["message"] for each in wanted.annotations
                ]
        assert (len(found), len(told)) == ((expected, 0) if self.app else (0, expected))
        for number in (7, 8):
            runs = [
                (run, await self.ledger.jobs(run.id))
                for run in sorted(await self.ledger.runs(1000), key=lambda run: run.workflow_path)
                if run.event.number == number
            ]
            comments = self.server.comments.get(("o/r", number), [])
            if not runs:
                assert comments == []
                continue
            [comment] = comments
            assert comment["body"] == reports.comment_of(runs[0][0].event, runs)[1]


async def _play(steps, app):
    server = FakeGitHub()
    if app:
        server.app, server.installed = ("7", "our-runner", PUBLIC), {"o": 42}
        server.granted = {"checks": "write", "statuses": "write", "pull_requests": "write"}
    with tempfile.TemporaryDirectory() as folder:
        async with trio.open_nursery() as nursery, server.served() as address:
            clock = [lambda: 1000.0]
            async with open_ledger(Path(folder) / "ledger.db", clock=lambda: clock[0]()) as ledger:
                await nursery.start(ledger.serve_writes)
                world = World(ledger, Path(folder), address, server, app=app)
                clock[0] = partial(getattr, world, "now")
                server.clock = clock[0]
                await _steps(world, steps)
                server.faults.clear()
                while world.open:
                    await world.end(Outcome.FAILURE)
                for _ in range(60):  # a day and more without faults
                    async with world.reporter() as actor:
                        await world.send(actor)
                    if not await ledger.outbox_depth():
                        break
                    world.now += 1800
                await world.check()
            nursery.cancel_scope.cancel()


async def _steps(world, steps):
    for what, how in steps:
        match what:
            case "fault":
                world.server.faults.append(Fault(**how))
            case "plan":
                await world.plan(how)
            case "start":
                await world.start()
            case "end":
                await world.end(how)
            case "send":
                async with world.reporter() as actor:
                    await world.send(actor)
            case "crash":  # after so many requests, wherever the reporter is then
                with trio.CancelScope() as scope:
                    world.server.before_answer = partial(
                        _cancel_at, world.server, len(world.server.requests) + how, scope
                    )
                    async with world.reporter() as actor:
                        await world.send(actor)
                world.server.before_answer = lambda: None
            case "wait":
                world.now += how
            case "revoke":
                world.server.tokens.clear()


def _cancel_at(server, count, scope):
    if len(server.requests) >= count:
        scope.cancel()


@pytest.mark.parametrize("app", [True, False])
def test_in_the_end_exactly_the_reports_stand_that_should(app, monkeypatch):
    """Nothing is missing, nothing is there twice, and no request was one that GitHub would object to.

    Runs come and end meanwhile; GitHub fails before and after writing, limits, refuses, is slow, answers
    nonsense and forgets tokens; and the reporter dies in the middle of requests.
    """
    monkeypatch.setattr(rest, "TIMEOUT", 0.25)

    @settings(
        max_examples=10,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],  # an example takes a second: looking for a smaller one takes minutes
    )
    @given(st.lists(STEPS, min_size=6, max_size=25))
    def play(steps):
        trio.run(_play, [("plan", 7), *steps], app)

    play()
