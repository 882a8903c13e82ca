"""The executor: real ledger, real workflow texts, machines in memory behind a real pool."""

import json
import time
from contextlib import asynccontextmanager
from functools import partial

import msgspec
import pytest
import trio

from runnerd.actors import executor
from runnerd.actors.executor import ExecutorActor
from runnerd.actors.pool import PoolActor, Rules
from runnerd.machines.driver import Capabilities, NoMachine, Size
from runnerd.machines.fake import DiesAtExec, Hangs, Replies, Reply, Succeeds, open_fake_driver
from runnerd.messages import CancelRun, LeaseMachine, PoolRestarted, RunCreated
from runnerd.model import Actor, Event, Outcome, Phase, Repository
from runnerd.store.changes import UNEXPANDED, NewJob, NewRun
from runnerd.store.ledger import Delivery, open_ledger
from runnerd.supervise.mailbox import Mailbox
from runnerd.workflow import load

ONE_JOB = """
on: push
jobs:
  build:
    runs-on: ubuntu-latest
    steps: [{run: make}]
"""
PATIENCE = 20.0


class HangsInSteps(Hangs):
    """Prepares a job as it should, and then runs its first step until it gets a signal."""

    async def exec(self, machine, command, output):
        if len(machine.commands) == 1:
            return await Succeeds().exec(machine, command, output)
        return await super().exec(machine, command, output)


class Lines:
    """A log that is only remembered."""

    def __init__(self):
        self.lines = []

    async def begin_step(self, number):
        pass

    async def line(self, text):
        self.lines.append(text)

    note = line


class Host:
    """What jobs get of their host: one image for ubuntu-latest, and logs in memory."""

    checkout = None
    server_url = "https://forge.example"
    api_url = "https://api.forge.example"
    job_minutes = 5.0
    cancel_minutes = 1.0

    def __init__(self):
        self.secrets = {}
        self.variables = {}
        self.environment = {}
        self.foreign_is_failure = False
        self.allow_emulated_forks = False
        self.logs = {}

    def image_for(self, labels):
        return "default" if set(labels) <= {"ubuntu-latest", "fast"} else None

    @asynccontextmanager
    async def open_log(self, run, job):
        yield self.logs.setdefault(job.name, Lines())


class World:
    """A ledger that is written, mailboxes that outlive their actors, and whoever is started."""

    def __init__(self, ledger, nursery):
        self.ledger = ledger
        self.nursery = nursery
        self.host = Host()
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
        actor = PoolActor(self.pool, open_driver, {"default": Size(memory=128)}, rules)
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

    async def plan(self, text, *, event=None, keys=None):
        """Write a run down as the parser does; returns its id."""
        self.deliveries += 1
        id = f"d{self.deliveries}"
        event = event or push()
        body = json.dumps({"ref": event.ref}).encode()
        await self.ledger.accept_delivery(Delivery(id=id, event=event.name, body=body, received=1.0))
        new = NewRun(
            workflow_path=".github/workflows/ci.yml",
            workflow_name="CI",
            title="a change",
            source_text=text,
            event=msgspec.structs.replace(event, delivery=id),
            jobs=tuple(
                NewJob(key=key, leg=UNEXPANDED, name=key) for key in keys or load(text, path="ci.yml").jobs
            ),
        )
        (run,) = await self.ledger.plan_delivery(id, [new], [])
        return run

    async def go(self, text, **options):
        """Plan a run, have it run to its end, and return it with its jobs by name."""
        run = await self.plan(text, **options)
        await self.mailbox.send(RunCreated(run))
        return await self.finished(run)

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

    async def in_step(self, number=1):
        """Wait until so many machines are within a step."""

        async def look():
            return [m for m in self.driver.machines.values() if len(m.commands) > 1]

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


def push(**fields):
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


@pytest.fixture
async def world(tmp_path, nursery):
    async with open_ledger(tmp_path) as ledger:
        await nursery.start(partial(ledger.serve_writes))
        yield World(ledger, nursery)
        nursery.cancel_scope.cancel()


async def test_a_run_goes_from_its_first_job_to_its_terminal_report(world):
    """One job in one machine: steps, identity, outcome and the reports of both job and run."""
    await world.machines()
    await world.executor()
    run, jobs = await world.go(ONE_JOB)
    job = jobs["build"]
    assert (run.outcome, job.outcome, job.epoch) == (Outcome.SUCCESS, Outcome.SUCCESS, 1)
    assert [(step.name, step.exit_code) for step in job.steps] == [("Run make", 0)]
    assert (job.machine, job.labels) == ("fake-1", ("ubuntu-latest",))
    assert job.boot_id
    assert job.machine_id
    assert await world.reports(run.id) == [("job", job.id), ("run", None)]
    await world.no_machine_left()


async def test_outputs_reach_the_jobs_that_need_them(world):
    """A job starts after what it needs, and its matrix, name and condition see the outputs of it."""
    await world.machines(
        Replies([("make list", Reply(writes={"GITHUB_OUTPUT": b'legs=["x","y"]\nword=hello\n'}))])
    )
    await world.executor()
    run, jobs = await world.go("""
on: push
jobs:
  first:
    runs-on: ubuntu-latest
    outputs: {legs: "${{ steps.l.outputs.legs }}", word: "${{ steps.l.outputs.word }}"}
    steps: [{id: l, run: make list}]
  then:
    needs: first
    if: needs.first.outputs.word == 'hello'
    strategy: {matrix: {leg: "${{ fromJSON(needs.first.outputs.legs) }}"}}
    runs-on: ubuntu-latest
    steps: [{run: "echo ${{ needs.first.outputs.word }} ${{ matrix.leg }} ${{ strategy.job-index }}"}]
  never:
    needs: first
    if: needs.first.outputs.word == 'other'
    runs-on: ubuntu-latest
    steps: [{run: echo}]
""")
    assert run.outcome is Outcome.SUCCESS
    assert {name: job.outcome.value for name, job in jobs.items()} == {
        "first": "success",
        "then (x)": "success",
        "then (y)": "success",
        "never": "skipped",
    }
    assert jobs["first"].outputs == {"legs": '["x","y"]', "word": "hello"}
    assert jobs["then (y)"].steps[0].name == "Run echo hello y 1"
    assert "`if` is false" in jobs["never"].reason


async def test_a_failed_leg_stops_the_others_and_those_who_need_it(world):
    """Fail-fast: legs that run or wait are cancelled, the job that needs them is skipped, the run failed."""
    await world.machines(Replies([("exit 1", Reply(code=1)), ("sleep", Reply(seconds=60))]))
    await world.executor()
    run, jobs = await world.go("""
on: push
jobs:
  legs:
    strategy: {max-parallel: 2, matrix: {do: [sleep 1, exit 1, sleep 2, sleep 3]}}
    runs-on: ubuntu-latest
    steps: [{run: "${{ matrix.do }}"}]
  after:
    needs: legs
    runs-on: ubuntu-latest
    steps: [{run: echo}]
""")
    assert run.outcome is Outcome.FAILURE
    outcomes = {name: job.outcome.value for name, job in jobs.items()}
    assert outcomes == {
        "legs (sleep 1)": "cancelled",
        "legs (exit 1)": "failure",
        "legs (sleep 2)": "cancelled",
        "legs (sleep 3)": "cancelled",
        "after": "skipped",
    }
    assert "fail-fast" in jobs["legs (sleep 3)"].reason
    assert jobs["legs (sleep 3)"].machine == ""
    await world.no_machine_left()


async def test_a_job_that_may_fail_does_not_spoil_the_run(world):
    """With `continue-on-error` the job says failure, and the run and who needs it go on."""
    await world.machines(Replies([("exit 1", Reply(code=1))]))
    await world.executor()
    run, jobs = await world.go("""
on: push
jobs:
  shaky: {runs-on: ubuntu-latest, continue-on-error: true, steps: [{run: exit 1}]}
  after: {needs: shaky, runs-on: ubuntu-latest, steps: [{run: echo}]}
""")
    assert run.outcome is Outcome.SUCCESS
    assert jobs["shaky"].outcome is Outcome.FAILURE
    assert jobs["after"].outcome is Outcome.SUCCESS


async def test_unclaimed_labels_are_a_startup_failure(world):
    """Where every job is ours, one whose labels no image claims says so, and needs no machine."""
    await world.machines()
    world.host.foreign_is_failure = True
    await world.executor()
    run, jobs = await world.go("on: push\njobs: {a: {runs-on: [windows, big], steps: [{run: x}]}}")
    assert run.outcome is Outcome.STARTUP_FAILURE
    assert jobs["a"].reason == "no image claims the labels windows, big: see [images] in config.toml"
    assert world.driver.made == 0


async def test_legs_that_are_not_ours_are_left_out(world):
    """Of a matrix that is partly ours only our legs are written down and run."""
    await world.machines()
    await world.executor()
    run, jobs = await world.go("""
on: push
jobs:
  all:
    strategy: {matrix: {os: [ubuntu-latest, windows-latest]}}
    runs-on: "${{ matrix.os }}"
    steps: [{run: x}]
""")
    assert run.outcome is Outcome.SUCCESS
    assert list(jobs) == ["all (ubuntu-latest)"]


async def test_labels_that_turn_out_to_be_nobodys_are_told(world):
    """A job whose labels come from another job's output is ours to fail when nobody claims them."""
    await world.machines(Replies([("pick", Reply(writes={"GITHUB_OUTPUT": b"os=plan9\n"}))]))
    await world.executor()
    run, jobs = await world.go("""
on: push
jobs:
  pick:
    runs-on: ubuntu-latest
    outputs: {os: "${{ steps.p.outputs.os }}"}
    steps: [{id: p, run: pick}]
  on:
    needs: pick
    runs-on: "${{ needs.pick.outputs.os }}"
    steps: [{run: x}]
""")
    assert run.outcome is Outcome.STARTUP_FAILURE
    assert jobs["on"].reason.startswith("no image claims the labels plan9")


async def test_no_machine_is_an_infrastructure_error(world):
    """What keeps machines from being made is the job's reason; it is not tried again."""
    scope, _ = await world.background(partial(refuse_machines, world.pool))
    await world.executor()
    run, jobs = await world.go(ONE_JOB)
    assert run.outcome is Outcome.INFRA_ERROR
    assert (jobs["build"].outcome, jobs["build"].reason) == (Outcome.INFRA_ERROR, "the image is gone")
    assert jobs["build"].epoch == 0
    scope.cancel()


async def refuse_machines(mailbox, *, task_status):
    """A pool that has no machine for anybody."""
    task_status.started()
    async for message in mailbox:
        message.reply.refuse(NoMachine("the image is gone"))


async def test_a_machine_that_dies_before_a_step_is_replaced_twice(world):
    """Three attempts in three machines; then the job is lost and says what happened to the last."""
    await world.machines(DiesAtExec("its kernel panicked"))
    await world.executor()
    run, jobs = await world.go(ONE_JOB)
    assert run.outcome is Outcome.LOST
    assert (jobs["build"].epoch, world.driver.made) == (3, 3)
    assert "its kernel panicked" in jobs["build"].reason
    await world.no_machine_left()


async def test_a_replaced_machine_may_do(world):
    """The attempt after a lost one runs as if nothing had been."""
    await world.machines(DiesAtExec(), Succeeds())
    await world.executor()
    run, jobs = await world.go(ONE_JOB)
    assert run.outcome is Outcome.SUCCESS
    assert (jobs["build"].epoch, jobs["build"].machine, jobs["build"].reason) == (2, "fake-2", "")


async def test_a_machine_that_dies_in_a_step_is_not_replaced(world):
    """A step had started and may have had effects: the job is lost at once."""
    await world.machines(DiesAtExec(at=2))
    await world.executor()
    run, jobs = await world.go(ONE_JOB)
    assert run.outcome is Outcome.LOST
    assert (jobs["build"].epoch, world.driver.made) == (1, 1)
    assert jobs["build"].steps[0].outcome is Outcome.LOST


async def test_a_job_that_waits_is_cancelled_at_once(world):
    """Cancelling reaches a job that waits for a machine; its run ends, and no machine is wasted."""
    await world.machines(HangsInSteps(), max_total=1)
    await world.executor()
    first = await world.plan(ONE_JOB)
    await world.mailbox.send(RunCreated(first))
    await world.in_step()
    second = await world.plan(ONE_JOB)
    await world.mailbox.send(RunCreated(second))
    await world.job(second, Phase.QUEUED)
    await world.cancel(second)
    run, jobs = await world.finished(second)
    assert (run.outcome, run.reason) == (Outcome.CANCELLED, "the run was cancelled")
    assert (jobs["build"].outcome, jobs["build"].epoch) == (Outcome.CANCELLED, 0)
    assert (await world.ledger.run(first)).phase is Phase.RUNNING
    assert await world.reports(second) == [("job", jobs["build"].id), ("run", None)]


async def test_a_running_job_is_cancelled_through_its_steps(world):
    """The step is stopped, steps for a cancelled job still run, and the machine is destroyed."""
    await world.machines(HangsInSteps())
    await world.executor()
    run = await world.plan("""
on: push
jobs:
  build:
    runs-on: ubuntu-latest
    steps: [{run: wait}, {run: next}, {if: cancelled(), run: tidy up}]
""")
    await world.mailbox.send(RunCreated(run))
    (machine,) = await world.in_step()
    await world.cancel(run)
    await world.until(trio_value(lambda: len(machine.commands)), lambda number: number == 3)
    await machine.signal(15)
    record, jobs = await world.finished(run)
    assert record.outcome is Outcome.CANCELLED
    assert [step.outcome.value for step in jobs["build"].steps][:2] == ["cancelled", "skipped"]
    assert jobs["build"].reason == "the run was cancelled"
    await world.no_machine_left()


def trio_value(read):
    """A plain value as something to await."""

    async def look():
        await trio.lowlevel.checkpoint()
        return read()

    return look


async def test_a_run_that_is_cancelled_before_it_starts_starts_nothing(world):
    """No job of it ever has a machine."""
    await world.machines()
    run = await world.plan(ONE_JOB)
    assert await world.ledger.request_cancel(run)
    await world.executor()
    record, jobs = await world.finished(run)
    assert (record.outcome, jobs["build"].outcome) == (Outcome.CANCELLED, Outcome.CANCELLED)
    assert world.driver.made == 0


async def test_a_job_for_every_case_runs_in_a_cancelled_run(world):
    """`if: always()` holds for a cancelled run too: the job gets one machine and runs to its end."""
    await world.machines(HangsInSteps(), Succeeds())
    await world.executor()
    run = await world.plan("""
on: push
jobs:
  build: {runs-on: ubuntu-latest, steps: [{run: wait}]}
  report: {needs: build, if: always(), runs-on: ubuntu-latest, steps: [{run: tell}]}
""")
    await world.mailbox.send(RunCreated(run))
    await world.in_step()
    await world.cancel(run)
    record, jobs = await world.finished(run)
    assert record.outcome is Outcome.CANCELLED
    assert jobs["build"].outcome is Outcome.CANCELLED
    assert jobs["report"].outcome is Outcome.SUCCESS
    assert world.driver.made == 2


async def test_a_queued_job_for_every_case_survives_the_cancellation(world):
    """One that waited for its machine when the run was cancelled is not lost, and not leased twice."""
    await world.machines(HangsInSteps(), Succeeds(), max_total=1)
    await world.executor()
    first = await world.plan(ONE_JOB)
    await world.mailbox.send(RunCreated(first))
    await world.in_step()
    run = await world.plan("on: push\njobs: {build: {if: always(), runs-on: fast, steps: [{run: x}]}}")
    await world.mailbox.send(RunCreated(run))
    await world.job(run, Phase.QUEUED)
    await world.cancel(run)
    await world.cancel(first)
    record, _ = await world.finished(run)
    assert record.outcome is Outcome.SUCCESS
    assert world.driver.made <= 3


async def test_a_job_that_ends_while_its_cancellation_is_decided_harms_nothing(world, monkeypatch):
    """The look at the ledger is old when a task ends meanwhile: the job keeps its one end, nobody crashes."""
    looked = trio.Event()
    answer = trio.Event()
    real = world.ledger.jobs

    async def late_jobs(run):
        rows = await real(run)
        if any(row.phase is Phase.QUEUED for row in rows) and (await world.ledger.run(run)).cancel_requested:
            looked.set()
            await answer.wait()
        return rows

    _, ended = await world.executor()
    run = await world.plan(ONE_JOB)
    await world.mailbox.send(RunCreated(run))
    lease = await world.pool.receive()
    await world.job(run, Phase.QUEUED)
    monkeypatch.setattr(world.ledger, "jobs", late_jobs)
    await world.cancel(run)
    with trio.fail_after(PATIENCE):
        await looked.wait()
    lease.reply.refuse(NoMachine("it never came up"))
    await world.until(
        lambda: world.ledger.job(lease.job), lambda job: job is not None and job.phase is Phase.DONE
    )
    answer.set()
    record, jobs = await world.finished(run)
    assert jobs["build"].outcome is Outcome.INFRA_ERROR
    assert record.outcome is Outcome.INFRA_ERROR
    assert not ended.is_set()


async def test_draining_ends_what_runs_and_leaves_what_waits(world):
    """Closing the mailbox: the running job ends, the queued one stays queued, and the actor ends."""
    await world.machines(HangsInSteps(), max_total=1)
    _, ended = await world.executor()
    running, waiting = await world.plan(ONE_JOB), await world.plan(ONE_JOB)
    await world.mailbox.send(RunCreated(running))
    (machine,) = await world.in_step()
    await world.mailbox.send(RunCreated(waiting))
    await world.job(waiting, Phase.QUEUED)
    world.mailbox.close()
    with trio.move_on_after(0.05):
        await ended.wait()
    assert not ended.is_set()
    await machine.signal(15)
    with trio.fail_after(PATIENCE):
        await ended.wait()
    assert (await world.ledger.run(running)).phase is Phase.DONE
    assert (await world.jobs(waiting))["build"].phase is Phase.QUEUED
    assert (await world.ledger.run(waiting)).phase is Phase.QUEUED


async def test_the_next_executor_runs_what_was_left_queued(world):
    """A job that was queued when an executor drained is taken up without anybody saying so."""
    run = await world.plan("on: push\njobs: {build: {runs-on: fast, steps: [{run: x}]}}")
    _, ended = await world.executor()
    await world.job(run, Phase.QUEUED)
    world.mailbox.close()
    with trio.fail_after(PATIENCE):
        await ended.wait()
    await world.machines()
    world.mailbox = Mailbox(8)
    await world.executor()
    record, _ = await world.finished(run)
    assert record.outcome is Outcome.SUCCESS


async def test_being_told_to_stop_cancels_what_runs_and_starts_nothing(world):
    """The second signal: the running job is recorded as cancelled, the queued one waits, no leg follows."""
    await world.machines(HangsInSteps(), max_total=1)
    _, ended = await world.executor()
    running = await world.plan("""
on: push
jobs:
  build:
    strategy: {max-parallel: 1, fail-fast: false, matrix: {v: [1, 2]}}
    runs-on: ubuntu-latest
    steps: [{run: wait}]
""")
    waiting = await world.plan(ONE_JOB)
    await world.mailbox.send(RunCreated(running))
    await world.in_step()
    await world.mailbox.send(RunCreated(waiting))
    await world.job(waiting, Phase.QUEUED)
    world.cancel_all.set()
    job = await world.job(running, Phase.DONE, "build (1)")
    assert (job.outcome, job.reason) == (Outcome.CANCELLED, "the daemon was told to stop at once")
    world.mailbox.close()
    with trio.fail_after(PATIENCE):
        await ended.wait()
    assert world.driver.made == 1
    assert (await world.jobs(running))["build (2)"].epoch == 0
    assert (await world.jobs(waiting))["build"].phase is Phase.QUEUED
    assert await world.ledger.open_runs() == [running, waiting]


async def claimed_by_another(world, *, step):
    """A run whose job an earlier daemon was running."""
    run = await world.plan("on: push\njobs: {build: {runs-on: fast, steps: [{run: x}]}}")
    _, ended = await world.executor()
    job = await world.job(run, Phase.QUEUED)
    world.mailbox.close()
    await ended.wait()
    world.mailbox = Mailbox(8)
    epoch = await world.ledger.claim_job(job.id, "gone-1")
    if step:
        await world.ledger.step_started(job.id, epoch, 1)
    return run


async def test_a_job_of_an_earlier_daemon_is_repeated_if_nothing_of_it_had_started(world):
    """The start settles what ran: without a started step the job runs again, under the next epoch."""
    run = await claimed_by_another(world, step=False)
    await world.machines()
    await world.executor()
    record, jobs = await world.finished(run)
    assert (record.outcome, jobs["build"].epoch) == (Outcome.SUCCESS, 2)


async def test_a_job_of_an_earlier_daemon_is_lost_once_a_step_had_started(world):
    """Nobody knows how it would have ended; it is reported as lost, once."""
    run = await claimed_by_another(world, step=True)
    await world.machines()
    await world.executor()
    record, jobs = await world.finished(run)
    assert record.outcome is Outcome.LOST
    assert "a step had started" in jobs["build"].reason
    assert await world.reports(run) == [("job", jobs["build"].id), ("run", None)]
    assert world.driver.made == 0


async def test_a_second_executor_finishes_what_a_crashed_one_left(world):
    """Killed in the middle of two runs: each job has exactly one end, and no machine is left over."""
    await world.machines(HangsInSteps(), DiesAtExec(), Succeeds())
    scope, _ = await world.executor()
    in_step = await world.plan(ONE_JOB)
    await world.mailbox.send(RunCreated(in_step))
    await world.in_step()
    waiting = await world.plan(ONE_JOB)  # its hint is never sent
    scope.cancel()
    await world.no_machine_left()
    await world.executor()
    first, first_jobs = await world.finished(in_step)
    second, second_jobs = await world.finished(waiting)
    assert (first.outcome, first_jobs["build"].epoch) == (Outcome.LOST, 1)
    assert (second.outcome, second_jobs["build"].epoch) == (Outcome.SUCCESS, 2)
    for run, jobs in ((in_step, first_jobs), (waiting, second_jobs)):
        assert await world.reports(run) == [("job", jobs["build"].id), ("run", None)]
    await world.no_machine_left()


async def test_strangers_code_is_refused_by_machines_that_do_not_hold_it(world):
    """A fork's pull request on an emulated machine is not run, and says what would help."""
    await world.machines(capabilities=Capabilities(isolated=True, emulated=True))
    await world.executor()
    fork = push(name="pull_request", number=3, fork=True, ref="refs/pull/3/merge")
    run, jobs = await world.go(ONE_JOB, event=fork)
    assert run.outcome is Outcome.STARTUP_FAILURE
    assert jobs["build"].reason == executor.WEAK
    assert jobs["build"].steps == ()
    world.host.allow_emulated_forks = True
    run, _ = await world.go(ONE_JOB, event=fork)
    assert run.outcome is Outcome.SUCCESS


async def test_strangers_code_gets_no_secret(world):
    """The same workflow sees the secret in a push and nothing in a fork's pull request."""
    await world.machines()
    world.host.secrets = {"TOKEN": "open sesame"}
    await world.executor()
    text = """
on: push
jobs: {build: {runs-on: fast, steps: [{run: "x", env: {T: "<${{ secrets.TOKEN }}>"}}]}}
"""
    seen = []
    real = Succeeds.exec

    async def exec(self, machine, command, output):
        seen.append(command.env.get("T"))
        return await real(self, machine, command, output)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Succeeds, "exec", exec)
        await world.go(text)
        await world.go(text, event=push(name="pull_request", number=3, fork=True))
    assert [each for each in seen if each is not None] == ["<open sesame>", "<>"]


async def test_runs_do_not_wait_for_each_other(world):
    """A second run starts and ends while the first one hangs."""
    await world.machines(HangsInSteps(), Succeeds())
    await world.executor()
    first = await world.plan(ONE_JOB)
    await world.mailbox.send(RunCreated(first))
    await world.in_step()
    second, _ = await world.go(ONE_JOB)
    assert second.outcome is Outcome.SUCCESS
    assert (await world.ledger.run(first)).phase is Phase.RUNNING


async def test_a_pool_that_went_down_is_asked_again(world):
    """The wait for a machine survives the pool's restart."""
    run = await world.plan(ONE_JOB)
    await world.executor()
    lease = await world.pool.receive()
    assert isinstance(lease, LeaseMachine)
    assert lease.reply.refuse(PoolRestarted("the machine pool stopped"))
    await world.machines()
    record, _ = await world.finished(run)
    assert record.outcome is Outcome.SUCCESS


async def test_a_machine_that_comes_too_late_is_destroyed(world, monkeypatch):
    """Handed over in the moment the wait is called off, it serves nobody and is not leaked."""
    await world.executor()
    run = await world.plan(ONE_JOB)
    await world.mailbox.send(RunCreated(run))
    lease = await world.pool.receive()
    async with open_fake_driver() as world.driver:
        machine = await world.driver.clone(await world.driver.build_template("default", Size(memory=128)))
        stop_waiting, taken = executor._Attempt.stop_waiting, []

        def too_late(attempt):
            stop_waiting(attempt)
            taken.append(lease.reply.give(machine))

        monkeypatch.setattr(executor._Attempt, "stop_waiting", too_late)
        await world.cancel(run)
        record, _ = await world.finished(run)
        assert (record.outcome, taken) == (Outcome.CANCELLED, [True])
        await world.no_machine_left()


async def test_a_run_whose_hint_was_lost_runs_all_the_same(world, monkeypatch):
    """The ledger is looked at again and again: what nobody told of starts, what was cancelled stops."""
    monkeypatch.setattr(executor, "SWEEP_EVERY", 0.05)
    await world.machines(Succeeds(), HangsInSteps())
    await world.executor()
    run, _ = await world.finished(await world.plan(ONE_JOB))
    assert run.outcome is Outcome.SUCCESS
    hanging = await world.plan(ONE_JOB)
    await world.in_step()
    assert await world.ledger.request_cancel(hanging)
    run, _ = await world.finished(hanging)
    assert run.outcome is Outcome.CANCELLED


async def test_a_stale_attempt_ends_without_a_word(world):
    """When another attempt took the job over, the old one stops, writes nothing and crashes nobody."""
    await world.machines(HangsInSteps())
    _, ended = await world.executor()
    run = await world.plan(ONE_JOB)
    await world.mailbox.send(RunCreated(run))
    (machine,) = await world.in_step()
    job = await world.job(run, Phase.RUNNING)
    await world.ledger.retry_job(job.id, job.epoch, "taken over")
    assert await world.ledger.claim_job(job.id, "elsewhere") == 2
    await machine.signal(15)
    await world.no_machine_left()
    now = await world.ledger.job(job.id)
    assert (now.phase, now.epoch, now.machine, now.steps) == (Phase.RUNNING, 2, "elsewhere", ())
    assert not ended.is_set()


async def test_a_fault_of_ours_costs_one_run_alone(world, monkeypatch):
    """A run that cannot be walked ends with a reason; the others go on, and the actor too."""
    await world.machines(HangsInSteps(), Succeeds())
    _, ended = await world.executor()
    bad = await world.plan(ONE_JOB.replace("build", "bad"))
    await world.mailbox.send(RunCreated(bad))
    await world.in_step()
    real = executor.graph.decide

    def decide(workflow, nodes, contexts, *, cancelled):
        if "bad" in nodes:
            raise OverflowError("cannot convert float infinity to integer")
        return real(workflow, nodes, contexts, cancelled=cancelled)

    monkeypatch.setattr(executor.graph, "decide", decide)
    await world.mailbox.send(RunCreated(bad))
    run, jobs = await world.finished(bad)
    assert run.outcome is Outcome.STARTUP_FAILURE
    assert run.reason == "a fault of runnerd itself (OverflowError): its log says where"
    assert jobs["bad"].outcome is Outcome.CANCELLED
    good, _ = await world.go(ONE_JOB)
    assert good.outcome is Outcome.SUCCESS
    assert not ended.is_set()


async def test_a_workflow_that_cannot_be_read_any_more_ends_its_run(world):
    """What an earlier version planned and this one cannot read is told, not tried at each start."""
    run = await world.plan("on: push\njobs: {build: {nonsense", keys=["build"])
    await world.executor()
    record, jobs = await world.finished(run)
    assert record.outcome is Outcome.STARTUP_FAILURE
    assert record.reason.startswith("this version cannot read the workflow any more: ")
    assert jobs["build"].outcome is Outcome.STARTUP_FAILURE


async def test_a_fault_within_a_job_is_its_infrastructure_error(world, monkeypatch):
    """It is tried again only while no step had started, and never crashes the actor."""

    async def faulty(spec, machine, *, observer, **others):
        await observer.step_started(1, "a step")
        raise KeyError("nobody foresaw this")

    monkeypatch.setattr(executor, "run_job", faulty)
    await world.machines()
    _, ended = await world.executor()
    run, jobs = await world.go(ONE_JOB)
    assert run.outcome is Outcome.INFRA_ERROR
    assert (jobs["build"].epoch, jobs["build"].reason) == (
        1,
        "a fault of runnerd itself (KeyError): its log says where",
    )
    assert not ended.is_set()
    await world.no_machine_left()


async def test_a_strategy_that_fails_only_for_its_job_ends_that_job(world):
    """An expression that holds while planning and fails for the running job is a startup failure."""
    await world.machines()
    _, ended = await world.executor()
    run, jobs = await world.go("""
on: push
jobs:
  build:
    strategy: {fail-fast: "${{ github.job == '' || fromJSON(github.job) }}", matrix: {v: [1]}}
    runs-on: ubuntu-latest
    steps: [{run: x}]
""")
    assert run.outcome is Outcome.STARTUP_FAILURE
    assert jobs["build (1)"].reason.startswith("`strategy` of job 'build'")
    assert not ended.is_set()


async def test_an_ended_run_is_left_alone(world):
    """A hint about a run that has ended, or that nobody knows, does nothing."""
    await world.machines()
    _, ended = await world.executor()
    run, _ = await world.go(ONE_JOB)
    for hint in (RunCreated(run.id), CancelRun(run.id), RunCreated(999)):
        await world.mailbox.send(hint)
    world.mailbox.close()
    with trio.fail_after(PATIENCE):
        await ended.wait()
    assert await world.ledger.run(run.id) == run
