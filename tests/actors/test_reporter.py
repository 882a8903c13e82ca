"""Behaviour of runnerd.actors.reporter, over a real ledger, with recording forges and a fake GitHub."""

from __future__ import annotations

import importlib.util
import json
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from runnerd.actors import reporter
from runnerd.actors.reporter import ReporterActor
from runnerd.forge.client import open_github
from runnerd.forge.protocol import ForgeDenied, ForgeUnavailable
from runnerd.messages import OutboxChanged
from runnerd.model import Actor, Event, JobResult, Outcome, Repository, StepResult
from runnerd.store.changes import EndJob, EndRun, NewJob, NewRun, QueueJob
from runnerd.store.ledger import Delivery, open_ledger
from runnerd.store.logs import log_path
from runnerd.supervise.mailbox import Mailbox

FAKE = Path(__file__).parents[1] / "forge" / "fake_github.py"
SHA = "c" * 40


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Recorder:
    """A forge that keeps what it is told, and fails with what stands in `errors`, one for each call."""

    def __init__(self, *, checks=False):
        self.statuses, self.comments, self.errors = [], [], []
        self.checks = [] if checks else None

    def _fail(self):
        if self.errors:
            raise self.errors.pop(0)

    async def set_status(self, repository, sha, context, state, description, target_url):
        await trio.lowlevel.checkpoint()
        self._fail()
        self.statuses.append((sha, context, state, description))

    async def upsert_comment(self, repository, number, marker, body):
        await trio.lowlevel.checkpoint()
        self._fail()
        self.comments.append((number, body))

    async def has_checks(self, repository):
        await trio.lowlevel.checkpoint()
        return self.checks is not None

    async def set_check(self, repository, sha, report):
        await trio.lowlevel.checkpoint()
        self._fail()
        self.checks.append(report)

    async def credential(self, repository):
        return None


class Site:
    """A ledger and a reporter over it."""

    def __init__(self, ledger, folder):
        self.ledger, self.folder, self.clock = ledger, folder, ledger._clock
        self.mailbox = Mailbox(10)

    def reporter(self, forge, **options):
        return ReporterActor(
            self.mailbox, ledger=self.ledger, forge=forge, directory=self.folder / "reports",
            state_directory=self.folder, clock=self.clock, **options,
        )  # fmt: skip

    async def once(self, forge, **options):
        """Let a fresh reporter send what is due now."""
        actor = self.reporter(forge, **options)
        self.mailbox = Mailbox(10)
        actor._mailbox.close()
        with trio.fail_after(10):
            await actor.run()
        return actor

    async def plan(
        self,
        delivery="d-1",
        *,
        name="push",
        number=None,
        sha=SHA,
        jobs=("build",),
        path="ci.yml",
        repository="o/r",
        **extra,
    ):
        event = Event(
            delivery=delivery, name=name, number=number,
            repository=Repository(id=len(repository), full_name=repository),
            sender=Actor(id=1, login="o"), sha=sha, ref="refs/heads/main", report_sha=sha,
        )  # fmt: skip
        await self.ledger.accept_delivery(Delivery(id=delivery, event=name, body=b"{}", received=1.0))
        run = NewRun(
            workflow_path=path, workflow_name="CI", title="t", source_text="x", event=event,
            jobs=tuple(NewJob(key=key, name=key) for key in jobs), **extra,
        )  # fmt: skip
        [id] = await self.ledger.plan_delivery(delivery, [run], [])
        return id

    async def finish(self, run, outcome=Outcome.SUCCESS):
        for job in await self.ledger.jobs(run):
            await self.ledger.apply(run, [QueueJob(job=job.id, now=self.clock())])
            epoch = await self.ledger.claim_job(job.id, "m-1")
            step = StepResult(number=1, id="", name="make", outcome=outcome, conclusion=outcome, exit_code=0)
            result = JobResult(outcome=outcome, steps=(step,))
            await self.ledger.apply(run, [EndJob(job=job.id, epoch=epoch, result=result)])
        await self.ledger.apply(run, [EndRun(outcome=outcome)])


@pytest.fixture
async def site(tmp_path, nursery):
    async with open_ledger(tmp_path / "ledger.db", clock=Clock()) as ledger:
        await nursery.start(ledger.serve_writes)
        yield Site(ledger, tmp_path)


async def test_a_job_is_told_from_queued_to_its_end(site):
    """Each state the outbox holds becomes a status on the event's commit, and nothing stays owed."""
    forge = Recorder()
    run = await site.plan()
    await site.once(forge)
    await site.finish(run)
    await site.once(forge)
    assert [status[:3] for status in forge.statuses] == [
        (SHA, "runnerd / CI / build", "pending"),
        (SHA, "runnerd / CI / build", "success"),
    ]
    assert await site.ledger.outbox_depth() == 0
    assert forge.comments == []


async def test_hints_and_the_tick_both_wake_it(site, nursery, monkeypatch):
    """A hint is followed at once; without one the outbox is looked at within the tick."""
    monkeypatch.setattr(reporter, "TICK", 0.1)
    forge = Recorder()
    actor = site.reporter(forge)
    await nursery.start(lambda *, task_status: actor.run(task_status=task_status))
    for delivery, hint in (("d-1", True), ("d-2", False)):
        await site.plan(delivery, path=f"{delivery}.yml")
        if hint:
            site.mailbox.offer(OutboxChanged())
        with trio.fail_after(5):
            while await site.ledger.outbox_depth():  # noqa: ASYNC110 - the ledger tells nobody
                await trio.sleep(0.01)
    assert len(forge.statuses) == 2
    site.mailbox.close()


async def test_a_run_without_jobs_reports_itself(site):
    """An unreadable workflow file is a failure on the commit under the workflow's name."""
    forge = Recorder()
    await site.plan(jobs=(), outcome=Outcome.STARTUP_FAILURE, reason="Invalid workflow file")
    await site.once(forge)
    assert forge.statuses == [(SHA, "runnerd / CI", "failure", "Could not start: Invalid workflow file")]


async def test_an_unavailable_forge_is_asked_again_later(site):
    """The report stays owed until the time the forge named, and is then sent."""
    forge = Recorder()
    await site.plan()
    forge.errors.append(ForgeUnavailable("rate limit", site.clock() + 100))
    await site.once(forge)
    assert forge.statuses == []
    site.clock.now += 99
    await site.once(forge)
    assert (forge.statuses, await site.ledger.outbox_depth()) == ([], 1)
    site.clock.now += 2
    await site.once(forge)
    assert (len(forge.statuses), await site.ledger.outbox_depth()) == (1, 0)


async def test_an_unavailable_forge_is_not_asked_for_the_others(site):
    """One answer is enough: nothing else is tried before the time the forge named."""
    forge = Recorder()
    for n in range(3):
        await site.plan(f"d-{n}", path=f"{n}.yml")
    forge.errors.append(ForgeUnavailable("it does not answer", site.clock() + 10))
    actor = await site.once(forge)
    assert forge.statuses == []
    site.clock.now += 11
    await actor._send_due()
    assert (len(forge.statuses), await site.ledger.outbox_depth()) == (3, 0)


async def test_a_refused_report_is_kept_on_disk_and_offered_again(site):
    """A missing right may be given later: the report waits an hour, and lies in a file meanwhile."""
    forge = Recorder()
    run = await site.plan()
    forge.errors.append(ForgeDenied("the token lacks the permission 'Commit statuses: write'"))
    await site.once(forge)
    assert (site.folder / "reports" / f"{run}.json").exists()
    assert await site.ledger.outbox_depth() == 1
    site.clock.now += reporter.DENIED_RETRY
    await site.once(forge)
    assert (len(forge.statuses), await site.ledger.outbox_depth()) == (1, 0)


async def test_a_report_that_is_always_refused_is_given_up(site, monkeypatch):
    """After many tries nothing is owed any more; the file on disk stays."""
    monkeypatch.setattr(reporter, "DENIED_TRIES", 2)
    forge = Recorder()
    await site.plan()
    for _ in range(3):
        forge.errors.append(ForgeDenied("no commit found"))
        await site.once(forge)
        site.clock.now += reporter.DENIED_RETRY
    assert await site.ledger.outbox_depth() == 0


async def test_a_pull_request_has_one_comment_about_all_its_runs(site):
    """The newest state of every workflow of the newest commit is in it."""
    forge = Recorder()
    one = await site.plan("d-1", name="pull_request", number=7)
    two = await site.plan("d-2", name="pull_request", number=7, path="lint.yml", jobs=("lint",))
    await site.finish(one)
    await site.finish(two, Outcome.FAILURE)
    path = log_path(site.folder, two, (await site.ledger.jobs(two))[0].id)
    path.parent.mkdir(parents=True)
    path.write_text("2026-11-23T18:22:09.123456Z the last words\n")
    for _ in range(3):
        await site.once(forge)
        site.clock.now += reporter.COMMENT_PAUSE
    number, body = forge.comments[-1]
    assert number == 7
    assert "### runnerd: failed" in body
    assert "| build |" in body
    assert "| lint |" in body
    assert "\nthe last words\n" in body
    assert await site.ledger.outbox_depth() == 0


async def test_edits_of_one_comment_keep_their_distance(site):
    """A change within the pause waits for its end; other pull requests do not."""
    forge = Recorder()
    run = await site.plan("d-1", name="pull_request", number=7)
    actor = await site.once(forge)
    await site.finish(run)
    await actor._send_due()
    assert len(forge.comments) == 1
    await site.plan("d-2", name="pull_request", number=8, path="x.yml")
    await actor._send_due()
    assert [number for number, _ in forge.comments] == [7, 8]
    site.clock.now += reporter.COMMENT_PAUSE
    await actor._send_due()
    assert "successful" in forge.comments[-1][1]
    assert await site.ledger.outbox_depth() == 0


async def test_a_comment_is_about_the_newest_commit(site):
    """What an older commit's run still owes does not overwrite it; comments can be off."""
    forge = Recorder()
    old = await site.plan("d-1", name="pull_request", number=7, sha="a" * 40)
    await site.plan("d-2", name="pull_request", number=7, sha="b" * 40)
    await site.finish(old)
    for _ in range(2):
        await site.once(forge)
        site.clock.now += reporter.COMMENT_PAUSE
    assert all(f"Commit {'b' * 12}" in body for _, body in forge.comments)
    await site.plan("d-3", name="pull_request", number=9)
    told = len(forge.comments)
    await site.once(forge, comments="off")
    assert (len(forge.comments), await site.ledger.outbox_depth()) == (told, 0)


async def test_where_there_are_check_runs_they_say_it_all(site):
    """One for each state of a job, with its steps and the end of the failing one; no status, no comment."""
    forge = Recorder(checks=True)
    run = await site.plan("d-1", name="pull_request", number=7)
    await site.once(forge)
    await site.finish(run, Outcome.FAILURE)
    path = log_path(site.folder, run, (await site.ledger.jobs(run))[0].id)
    path.parent.mkdir(parents=True)
    path.write_text("2026-11-23T18:22:09.123456Z the last words\n")
    await site.once(forge)
    assert [(check.status, check.conclusion) for check in forge.checks] == [
        ("queued", ""), ("completed", "failure"),
    ]  # fmt: skip
    assert len({check.external_id for check in forge.checks}) == 1
    assert "the last words" in forge.checks[-1].summary
    assert (forge.statuses, forge.comments) == ([], [])
    assert await site.ledger.outbox_depth() == 0


async def test_a_comment_beside_check_runs_is_asked_for(site):
    """`comment = "on"` writes it there as well."""
    forge = Recorder(checks=True)
    await site.plan("d-1", name="pull_request", number=7)
    await site.once(forge, comments="on")
    assert [number for number, _ in forge.comments] == [7]


async def test_a_run_without_jobs_has_a_check_run(site):
    """An unreadable workflow file is a failed check run under the workflow's name."""
    forge = Recorder(checks=True)
    await site.plan(jobs=(), outcome=Outcome.STARTUP_FAILURE, reason="Invalid workflow file")
    await site.once(forge)
    [check] = forge.checks
    assert (check.name, check.conclusion) == ("runnerd / CI", "failure")


async def test_one_limited_repository_does_not_hold_up_the_others(site):
    """Its reports are put off without asking again, and the others' are sent."""
    forge = Recorder()
    for n in range(3):
        await site.plan(f"d-{n}", path=f"{n}.yml")
    await site.plan("d-9", repository="other/one")
    forge.errors.append(ForgeUnavailable("rate limit", site.clock() + 100, "repository"))
    await site.once(forge)
    assert len(forge.statuses) == 1
    backlog = await site.ledger.outbox_backlog()
    assert (backlog.owed, backlog.due, backlog.problem) == (3, site.clock() + 100, "rate limit")
    site.clock.now += 100
    await site.once(forge)
    assert (len(forge.statuses), await site.ledger.outbox_depth()) == (4, 0)


async def test_the_report_that_met_a_limit_is_due_with_those_behind_it(site):
    """The time that the forge named is enough; only where it was named in vain does a report wait longer."""
    forge = Recorder()
    for n in range(2):
        await site.plan(f"d-{n}", path=f"{n}.yml")
    first, second = [row.id for row in await site.ledger.outbox_due(site.clock(), 9)]
    for due in ([first, second], [second]):
        forge.errors.append(ForgeUnavailable("rate limit", site.clock() + 1, "repository"))
        await site.once(forge)
        assert await site.ledger.outbox_due(site.clock(), 9) == []
        site.clock.now += 1
        assert [row.id for row in await site.ledger.outbox_due(site.clock(), 9)] == due
    site.clock.now += 1
    await site.once(forge)
    assert (len(forge.statuses), await site.ledger.outbox_depth()) == (2, 0)


async def test_a_report_that_has_to_wait_alone_does(site):
    """What concerns one report only does not keep the next from being sent."""
    forge = Recorder()
    for n in range(2):
        await site.plan(f"d-{n}", path=f"{n}.yml")
    forge.errors.append(ForgeUnavailable("many comments", site.clock() + 100, "report"))
    await site.once(forge)
    assert (len(forge.statuses), await site.ledger.outbox_depth()) == (1, 1)


async def test_without_a_forge_the_same_reports_are_files(site):
    """JSON and Markdown of each run, replaced whole; nothing else lies in the folder."""
    run = await site.plan()
    await site.once(None)
    assert json.loads((site.folder / "reports" / f"{run}.json").read_text())["conclusion"] is None
    await site.finish(run)
    await site.once(None)
    report = json.loads((site.folder / "reports" / f"{run}.json").read_text())
    assert (report["conclusion"], report["statuses"][0]["state"]) == ("success", "success")
    assert "successful" in (site.folder / "reports" / f"{run}.md").read_text()
    assert sorted(path.name for path in (site.folder / "reports").iterdir()) == [f"{run}.json", f"{run}.md"]
    assert await site.ledger.outbox_depth() == 0


async def test_many_runs_are_drained_when_the_mailbox_is_closed(site, monkeypatch):
    """More than one batch is sent before the actor ends."""
    monkeypatch.setattr(reporter, "BATCH", 2)
    forge = Recorder()
    for n in range(5):
        await site.plan(f"d-{n}", path=f"{n}.yml")
    await site.once(forge)
    assert (len(forge.statuses), await site.ledger.outbox_depth()) == (5, 0)


@pytest.fixture
def fake_github():
    spec = importlib.util.spec_from_file_location("fake_github", FAKE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@asynccontextmanager
async def speaking_to(server, clock):
    async def sleep(seconds):
        clock.now += seconds

    async with (
        server.served() as address,
        open_github(address, server.token, clock=clock, sleep=sleep, jitter=lambda: 0.5) as forge,
    ):
        yield forge


@pytest.mark.parametrize("kind", ["before", "after", "hangup", "garbage"])
async def test_a_failing_github_hears_every_end_exactly_once(site, fake_github, kind):
    """Whatever becomes of its answers, statuses and comment stand there once and no request was wrong."""
    server = fake_github.FakeGitHub()
    run = await site.plan("d-1", name="pull_request", number=7)
    async with speaking_to(server, site.clock) as forge:
        await site.once(forge)
    await site.finish(run)
    server.faults = [
        fake_github.Fault(kind, method="POST", times=4),
        fake_github.Fault(kind, method="PATCH", times=2),
    ]
    for _ in range(6):  # each time as after a crash: a new client, a new reporter
        async with speaking_to(server, site.clock) as forge:
            await site.once(forge)
        site.clock.now += 60
    assert server.problems == []
    assert await site.ledger.outbox_depth() == 0
    newest = server.newest("o/r", SHA)
    assert {context: state for context, (state, _) in newest.items()} == {"runnerd / CI / build": "success"}
    assert len(server.statuses["o/r", SHA]) == 2
    [comment] = server.comments["o/r", 7]
    assert "successful" in comment["body"]


async def test_a_crash_between_sending_and_recording_repeats_nothing(site, fake_github):
    """The report is owed again after the crash, found said, and not said again."""
    server = fake_github.FakeGitHub()
    await site.plan()
    rows = await site.ledger.outbox_due(site.clock(), 10)
    async with speaking_to(server, site.clock) as forge:
        await site.once(forge)
    # As if outbox_done had never been written.
    run = await site.ledger.run(rows[0].run)
    async with speaking_to(server, site.clock) as forge:
        actor = site.reporter(forge)
        await actor._tell(forge, run, await site.ledger.jobs(run.id), rows[0])
    assert len(server.writes()) == 1
    assert server.problems == []
