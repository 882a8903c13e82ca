"""Behaviour of runnerd.actors.control, over a real ledger."""

from __future__ import annotations

import pytest
import trio

from runnerd.actors.control import Api, ControlActor
from runnerd.machines.kept import KeptMachines
from runnerd.machines.quota import Limits
from runnerd.messages import CancelRun, ImagesChanged, PausePool, PoolDescription, RunCreated
from runnerd.model import Actor, Event, JobResult, Outcome, Repository
from runnerd.planning.again import CannotRerun, Part
from runnerd.store.changes import Again, EndJob, EndRun, NewJob, NewRun, QueueJob, SkipJob
from runnerd.store.ledger import Delivery, LedgerUnavailable, open_ledger
from runnerd.store.logs import log_path
from runnerd.store.records import MachineNews, Stage
from runnerd.supervise.mailbox import Mailbox
from runnerd.web import listeners
from runnerd.web.client import Client, Refusal
from runnerd.web.control import Refused, Unavailable
from runnerd.web.terminal import Screen

EVENT = Event(
    delivery="d-1", name="push", repository=Repository(id=1, full_name="o/r"), sender=Actor(id=1, login="o"),
    sha="b" * 40, ref="refs/heads/main", report_sha="b" * 40,
)  # fmt: skip


class Site:
    """An API over a ledger with one run of one job."""

    def __init__(self, ledger, folder):
        self.ledger, self.folder = ledger, folder
        self.executor, self.pool = Mailbox(10), Mailbox(1)
        self.drained = []
        self.void = ""
        self.api = Api(
            ledger=ledger, executor=self.executor, pool=self.pool, drain=lambda: self.drained.append(True),
            draining=lambda: bool(self.drained),
            explain=self.explain, part=self.part, shell=self.shell, state_directory=folder,
            clock=lambda: 1000.0, why_void=self.why_void,
            kept=KeptMachines(
                folder / "kept", Limits(), clock=lambda: 1000.0, awaited=ledger.awaited_machines
            ),
        )  # fmt: skip
        self.resumes = {}

    async def why_void(self, run):
        await trio.lowlevel.checkpoint()
        return self.void

    async def part(self, run, wish):
        await trio.lowlevel.checkpoint()
        if wish.job != "build":
            raise CannotRerun(f"no job is called {wish.job!r}")
        newest = await self.ledger.newest_attempt(run.id)
        [job] = await self.ledger.jobs(newest.id)
        again = Again(jobs=frozenset({job.id}), resumes=self.resumes)
        return Part(run=newest.id, again=again, said=f"build from {wish.step!r}")

    async def explain(self, run):
        await trio.lowlevel.checkpoint()
        return {"explained": run.id}

    async def shell(self, run, job, at, screen):
        await trio.lowlevel.checkpoint()
        return run.id, job.id, at, screen

    async def plan(self, delivery="d-1", *keys):
        await self.ledger.accept_delivery(Delivery(id=delivery, event="push", body=b"{}", received=1.0))
        run = NewRun(
            workflow_path="ci.yml", workflow_name="CI", title="t", source_text="x", event=EVENT,
            jobs=tuple(NewJob(key=key, name=key) for key in keys or ("build",)),
        )  # fmt: skip
        [self.run] = await self.ledger.plan_delivery(delivery, [run], [])
        self.job = (await self.ledger.jobs(self.run))[0].id

    async def end(self, **said):
        await self.ledger.apply(self.run, [QueueJob(job=self.job, now=1.0)])
        epoch = await self.ledger.claim_job(self.job, "m-1")
        result = JobResult(outcome=Outcome.SUCCESS, **said)
        await self.ledger.apply(
            self.run, [EndJob(job=self.job, epoch=epoch, result=result), EndRun(outcome=Outcome.SUCCESS)]
        )

    async def status(self, **pool):
        """Ask for the status, where the pool describes itself so."""
        description = {"driver": "fake", "isolated": True, "emulated": False, "capacity": 2, **pool}

        async def answer():
            (await self.pool.receive()).reply.give(PoolDescription(**description))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            return await self.api.status()

    def write(self, text):
        path = log_path(self.folder, self.run, self.job)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(text)

    async def told(self):
        return await self.executor.receive()


@pytest.fixture
async def site(tmp_path, nursery):
    async with open_ledger(tmp_path / "ledger.db") as ledger:
        await nursery.start(ledger.serve_writes)
        site = Site(ledger, tmp_path)
        await site.plan()
        yield site


async def test_status_counts_what_is_owed(site):
    """Open runs, unplanned deliveries and unsent reports are in it."""
    status = await site.status()
    assert (status["open_runs"], status["pending_deliveries"], status["draining"]) == ([site.run], 0, False)
    assert status["reports_owed"] == status["reports"].owed >= 1
    assert status["reports"].oldest is not None
    assert status["uptime"] == 0.0


@pytest.mark.parametrize(
    ("pool", "ready", "trouble"),
    [
        ({}, True, []),
        ({"trouble": ("image b: broken",)}, True, ["image b: broken"]),
        ({"ready": False, "trouble": ("a: absent", "b: broken")}, False, ["a: absent", "b: broken"]),
        ({"ready": False}, False, ["no image has its template yet"]),
    ],
)
async def test_status_says_when_no_machine_can_be_had(site, pool, ready, trouble):
    """And what is wrong with an image although others work."""
    assert (await site.status(**pool))["machines"] == {"ready": ready, "trouble": trouble}


async def test_status_says_that_no_machine_fits(site):
    """Memory too small for any machine is told beside what is wrong with an image."""
    machines = (await site.status(capacity=0, trouble=("image b: broken",)))["machines"]
    assert not machines["ready"]
    assert "memory_reserve smaller" in machines["trouble"][0]
    assert machines["trouble"][1:] == ["image b: broken"]


async def test_status_says_that_nothing_can_be_written(site, monkeypatch):
    """As of a full disk; all that can be read is told."""
    assert (await site.status())["ledger"] == ""

    async def refuse():
        raise LedgerUnavailable("the disk is full")

    monkeypatch.setattr(site.ledger, "check_writable", refuse)
    assert (await site.status())["ledger"] == "the disk is full"
    monkeypatch.setattr(site.ledger, "check_writable", trio.sleep_forever)
    monkeypatch.setattr("runnerd.actors.control.GLANCE_TIMEOUT", 0.01)
    assert "did not answer" in (await site.api.status())["ledger"]


async def test_status_does_not_wait_long_for_the_pool(site, monkeypatch):
    """All else is told, and that the pool does not answer."""
    monkeypatch.setattr("runnerd.actors.control.GLANCE_TIMEOUT", 0.01)
    status = await site.api.status()
    assert status["open_runs"] == [site.run]
    assert not status["machines"]["ready"]
    assert "does not answer" in status["machines"]["trouble"][0]


async def test_a_run_is_shown_with_its_jobs(site):
    """Records come from the ledger; an unknown run is said to be unknown."""
    view = await site.api.run(site.run)
    assert (view.run.workflow_name, [job.key for job in view.jobs]) == ("CI", ["build"])
    assert [run.id for run in await site.api.runs(10, None, "o/r")] == [site.run]
    with pytest.raises(LookupError, match="no run 99"):
        await site.api.run(99)


async def test_a_run_tells_what_is_kept_of_its_jobs(site):
    """By job and step; nothing of other jobs."""
    kept = KeptMachines(site.folder / "kept", Limits(), clock=lambda: 7.0)
    for job, step in ((site.job, 3), (site.job, 2), (99, 2)):
        (new := kept.place(job, step)).mkdir()
        kept.put(new, b"", run=site.run, job=job, step=step, name=f"s{step}", encrypted=False)
    seen = (await site.api.run(site.run)).snapshots
    assert [(each.job, each.step, each.name, each.at) for each in seen] == [
        (site.job, 2, "s2", 7.0),
        (site.job, 3, "s3", 7.0),
    ]
    assert (await site.api.run(site.run)).not_kept == {}
    await site.end(not_kept="it took too long")
    assert (await site.api.run(site.run)).not_kept == {site.job: "it took too long"}
    again = await site.ledger.rerun(
        site.run, Again(jobs=frozenset({site.job}), resumes={site.job: f"{site.job}/2"})
    )
    [job] = await site.ledger.jobs(again)
    view = await site.api.run(again)
    assert [(each.job, each.step) for each in view.snapshots] == [(job.id, 2)]
    assert view.not_kept == {}


async def test_a_run_is_explained(site):
    """The run that is meant is found first; an unknown one is said to be unknown."""
    assert await site.api.explain(site.run) == {"explained": site.run}
    with pytest.raises(LookupError, match="no run 99"):
        await site.api.explain(99)


async def test_cancel_is_recorded_and_passed_on(site):
    """The ledger knows before the executor is told; what has ended is refused."""
    await site.api.cancel(site.run)
    assert (await site.ledger.run(site.run)).cancel_requested
    assert await site.told() == CancelRun(site.run)
    with pytest.raises(LookupError):
        await site.api.cancel(99)


async def test_rerun_makes_a_new_run_of_an_ended_one(site):
    """A run that has not ended is refused; the executor learns of the new one."""
    with pytest.raises(Refused):
        await site.api.rerun(site.run, "", "", failed=False)
    await site.end()
    answer = await site.api.rerun(site.run, "", "", failed=False)
    assert await site.told() == RunCreated(answer["run"])
    assert (await site.ledger.run(answer["run"])).attempt == 2
    with pytest.raises(Refused, match="ended"):
        await site.api.cancel(site.run)


async def test_rerun_of_a_part_says_which(site):
    """What is meant, in which attempt, and why not is passed on."""
    with pytest.raises(Refused, match="is queued and cannot be run again"):
        await site.api.rerun(site.run, "build", "", failed=False)
    await site.end()
    with pytest.raises(Refused, match="no job is called 'lint'"):
        await site.api.rerun(site.run, "lint", "", failed=False)
    with pytest.raises(Refused, match="no job is called ''"):
        await site.api.rerun(site.run, "", "", failed=True)
    answer = await site.api.rerun(site.run, "build", "3", failed=False)
    assert answer["message"] == f"run {site.run} runs again as run {answer['run']}: build from '3'"
    assert await site.told() == RunCreated(answer["run"])
    newer = answer["run"]
    [job] = await site.ledger.jobs(newer)
    await site.ledger.apply(newer, [SkipJob(job=job.id, reason="x"), EndRun(outcome=Outcome.FAILURE)])
    answer = await site.api.rerun(site.run, "build", "3", failed=False)
    assert answer["message"] == (
        f"run {site.run} has a newer attempt: run {newer} runs again as run {answer['run']}: build from '3'"
    )


@pytest.mark.parametrize("read", ["before", "after"])
async def test_what_a_rerun_goes_on_from_stays_from_that_moment_on(site, monkeypatch, read):
    """No executor has seen the run: a sweep that began before it was written down removes nothing either."""
    await site.end()
    kept = site.api._kept
    kept.limits = Limits(age=-1.0)
    (new := kept.place(site.job, 2)).mkdir()
    with kept.held(kept.named(f"{site.job}/2")):
        kept.put(new, b"", run=site.run, job=site.job, step=2, name="s2", encrypted=False)
    site.resumes = {site.job: f"{site.job}/2"}
    reading, written = trio.Event(), trio.Event()

    def late():
        """What the ledger said, while a rerun is written."""
        found = site.ledger.awaited_machines() if read == "before" else None
        trio.from_thread.run_sync(reading.set)
        trio.from_thread.run(written.wait)
        return site.ledger.awaited_machines() if found is None else found

    monkeypatch.setattr(kept, "_awaited", late)
    rerun = site.ledger.rerun

    async def slowly(*arguments):
        nursery.start_soon(trio.to_thread.run_sync, kept.sweep)
        await reading.wait()
        return await rerun(*arguments)

    monkeypatch.setattr(site.ledger, "rerun", slowly)
    async with trio.open_nursery() as nursery:
        again = (await site.api.rerun(site.run, "build", "2", failed=False))["run"]
        written.set()
    monkeypatch.setattr(kept, "_awaited", site.ledger.awaited_machines)
    assert kept.sweep() == ()
    assert kept.find(site.job, 2) is not None
    [job] = await site.ledger.jobs(again)
    await site.ledger.apply(again, [SkipJob(job=job.id, reason="x"), EndRun(outcome=Outcome.FAILURE)])
    assert [each.step for each in kept.sweep()] == [2]


async def test_a_rerun_from_what_was_just_removed_is_refused(site):
    """It was there when the step was looked for, and nothing is written down."""
    await site.end()
    site.resumes = {site.job: f"{site.job}/2"}
    with pytest.raises(Refused, match="was removed just now"):
        await site.api.rerun(site.run, "build", "2", failed=False)
    assert (await site.ledger.newest_attempt(site.run)).id == site.run


async def test_the_log_of_a_carried_job_is_where_it_ran(site):
    """The new attempt has none of its own, and shows that one under the job's new number."""
    await site.plan("d-2", "build", "test")
    build, test = await site.ledger.jobs(site.run)
    site.job = build.id
    site.write("2026Z once\n")
    skipped = [SkipJob(job=job.id, reason="x") for job in (build, test)]
    await site.ledger.apply(site.run, [*skipped, EndRun(outcome=Outcome.FAILURE)])
    again = await site.ledger.rerun(site.run, Again(jobs=frozenset({test.id})))
    carried, fresh = await site.ledger.jobs(again)
    assert (await site.api.log(again, carried.id, 0, 0.0)).text == "2026Z once\n"
    assert (await site.api.log(again, fresh.id, 0, 0.0)).text == ""


async def test_the_operator_approves_what_waits(site):
    """Only what waits, and not what cannot be approved any more; the status counts it until then."""
    with pytest.raises(Refused, match="does not wait"):
        await site.api.approve(site.run)
    await site.ledger.accept_delivery(Delivery(id="d-2", event="push", body=b"{}", received=1.0))
    held = NewRun(
        workflow_path="ci.yml", workflow_name="CI", title="t", source_text="x", event=EVENT, gate="a fork"
    )
    [run] = await site.ledger.plan_delivery("d-2", [held], [])
    assert (await site.status())["waiting_for_approval"] == [run]
    site.void = "it is closed"
    with pytest.raises(Refused, match="it is closed"):
        await site.api.approve(run)
    site.void = ""
    await site.api.approve(run)
    assert await site.told() == RunCreated(run)
    approval = (await site.ledger.run(run)).approval
    assert (approval.sha, approval.permission) == ("b" * 40, "operator")
    assert (await site.status())["waiting_for_approval"] == []


async def test_an_executor_that_is_gone_learns_from_the_ledger(site):
    """The message is lost while the daemon ends; what was asked is not."""
    site.executor.close()
    await site.api.cancel(site.run)
    assert (await site.ledger.run(site.run)).cancel_requested


async def test_a_log_is_read_in_pieces(site):
    """Each piece says where the next begins; the end is told once the job has ended."""
    site.write("one\ntwo\n")
    first = await site.api.log(site.run, site.job, 0, 0)
    assert (first.text, first.next, first.end) == ("one\ntwo\n", 8, False)
    assert not (await site.api.log(site.run, site.job, 8, 0)).end
    await site.end()
    last = await site.api.log(site.run, site.job, 8, 30)
    assert (last.text, last.next, last.end) == ("", 8, True)


async def test_a_log_is_waited_for(site, nursery):
    """A reader who waits gets a line soon after it was written, and nothing when its time is over."""
    started = trio.current_time()
    assert (await site.api.log(site.run, site.job, 0, 0.3)).text == ""
    assert trio.current_time() - started >= 0.3

    async def later():
        await trio.sleep(0.2)
        site.write("at last\n")

    nursery.start_soon(later)
    with trio.fail_after(5):
        assert (await site.api.log(site.run, site.job, 0, 30)).text == "at last\n"


async def test_a_log_belongs_to_its_run(site):
    """A job is not found under another run, nor one that does not exist."""
    for run, job in ((site.run + 1, site.job), (site.run, 99)):
        with pytest.raises(LookupError, match="no job"):
            await site.api.log(run, job, 0, 0)


async def test_drain_is_passed_on_and_shown(site):
    """The daemon is asked once, and the status says so."""
    await site.api.drain()
    assert site.drained == [True]
    assert (await site.status())["draining"]


async def test_a_pause_is_recorded_and_passed_on(site):
    """The ledger has it before the pool does, status says why, and resume ends it once."""
    assert (await site.status())["paused"] == "no"
    await site.api.pause("a new disk")
    told = await site.pool.receive()
    assert told == PausePool(await site.ledger.pause())
    assert told.pause.reason == (await site.status())["paused"] == "a new disk"
    await site.api.resume()
    assert await site.pool.receive() == PausePool(None)
    assert await site.ledger.pause() is None
    with pytest.raises(Refused, match="not paused"):
        await site.api.resume()


async def test_the_pool_is_told_to_look_at_the_images(site):
    """What was built is taken up at once; a pool that is not there looks when it starts."""
    await site.api.look_at_images()
    assert await site.pool.receive() == ImagesChanged()
    site.pool.close()
    await site.api.look_at_images()


async def test_a_pause_holds_although_the_pool_is_not_there(site):
    """A pool that has ended need not be told: the next one reads the ledger."""
    site.pool.close()
    await site.api.pause("")
    assert (await site.api.status())["paused"] == "yes"


async def test_a_pool_too_busy_to_be_told_of_a_pause_is_said(site, monkeypatch):
    """Nobody believes a pause that is not in force yet."""
    monkeypatch.setattr("runnerd.actors.control.ANSWER_TIMEOUT", 0.01)
    site.pool.offer(object())
    with pytest.raises(Unavailable, match="say it again"):
        await site.api.pause("")


async def test_the_pool_speaks_for_itself(site, nursery):
    """Its own description is the answer."""
    description = PoolDescription(driver="fake", isolated=True, emulated=False, capacity=2)

    async def answer():
        (await site.pool.receive()).reply.give(description)

    nursery.start_soon(answer)
    assert await site.api.pool() == description


async def test_machines_come_from_the_journal(site):
    """So they are told although the pool is busy, and the newest first."""
    for id in ("m-1", "m-2"):
        news = MachineNews(id=id, driver="fake", image="default", stage=Stage.BUILDING)
        await site.ledger.note_machine(news)
    assert [row.id for row in await site.api.machines(1)] == ["m-2"]
    assert len(await site.api.machines(9)) == 2


async def test_a_pool_that_does_not_answer_is_unavailable(site, monkeypatch):
    """Nobody waits for ever for a pool that is starting or gone."""
    monkeypatch.setattr("runnerd.actors.control.ANSWER_TIMEOUT", 0.05)
    with pytest.raises(Unavailable):
        await site.api.pool()
    site.pool.close()
    with pytest.raises(Unavailable):
        await site.api.pool()


async def test_the_socket_serves_the_api(site, tmp_path):
    """A client on the Unix socket sees the run, a ledger that is closed is a 503, and stop ends it."""
    path = tmp_path / "control.sock"
    stop = trio.Event()

    async def listen():
        return [listeners.open_unix(path)]

    actor, client = ControlActor(listen, site.api, stop=stop), Client(path)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda *, task_status: actor.run(task_status=task_status))
            shown = await trio.to_thread.run_sync(client.run, site.run)
            assert shown["run"]["repository"] == "o/r"
            site.ledger.close()
            with pytest.raises(Refusal) as caught:
                await trio.to_thread.run_sync(client.cancel, site.run)
            assert caught.value.status == 503
            stop.set()
    assert not path.exists()


async def test_a_shell_is_in_a_job_of_the_run(site):
    """The run and its job are looked up; what is unknown, or another run's, is no place for a shell."""
    screen = Screen()
    assert await site.api.shell(site.run, site.job, "unit", screen) == (site.run, site.job, "unit", screen)
    with pytest.raises(LookupError, match="no run"):
        await site.api.shell(site.run + 1, site.job, None, screen)
    with pytest.raises(LookupError, match="no job"):
        await site.api.shell(site.run, site.job + 1, None, screen)
