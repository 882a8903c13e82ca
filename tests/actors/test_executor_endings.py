"""How the executor ends things: cancellation, drain, recovery, and faults of ours."""

import trio

from runnerd.actors import executor
from runnerd.machines.driver import NoMachine
from runnerd.machines.fake import DiesAtLayOut, Hangs, Succeeds
from runnerd.messages import CancelRun, RunCreated
from runnerd.model import Outcome, Phase
from runnerd.supervise.mailbox import Mailbox

from .conftest import AT_ONCE, ONE_JOB, flow, trio_value


async def test_a_job_that_waits_is_cancelled_at_once(world):
    """Cancelling reaches a job that waits for a machine; its run ends, and no machine is wasted."""
    await world.machines(Hangs(), max_total=1)
    await world.executor()
    first = await world.begin(ONE_JOB)
    await world.in_step()
    second = await world.begin(ONE_JOB)
    await world.job(second, Phase.QUEUED)
    await world.cancel(second)
    run, jobs = await world.finished(second)
    assert (run.outcome, run.reason) == (Outcome.CANCELLED, "the run was cancelled")
    assert (jobs["build"].outcome, jobs["build"].epoch) == (Outcome.CANCELLED, 0)
    assert (await world.ledger.run(first)).phase is Phase.RUNNING
    assert await world.reports(second) == [("job", jobs["build"].id), ("run", None)]


async def test_a_running_job_is_cancelled_through_its_steps(world):
    """The step is stopped, steps for a cancelled job still run, and the machine is destroyed."""
    await world.machines(Hangs())
    await world.executor()
    run = await world.begin(flow(build="steps: [{run: wait}, {run: next}, {if: cancelled(), run: tidy up}]"))
    (machine,) = await world.in_step()
    await world.cancel(run)
    await world.until(trio_value(lambda: len(machine.commands)), lambda number: number == 2)
    await machine.signal(15)
    record, jobs = await world.finished(run)
    assert record.outcome is Outcome.CANCELLED
    assert [step.outcome.value for step in jobs["build"].steps][:2] == ["cancelled", "skipped"]
    assert jobs["build"].reason == "the run was cancelled"
    await world.no_machine_left()


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
    await world.machines(Hangs(), Succeeds())
    await world.executor()
    run = await world.begin(flow(build="", report="needs: build, if: always()"))
    await world.in_step()
    await world.cancel(run)
    record, jobs = await world.finished(run)
    assert record.outcome is Outcome.CANCELLED
    assert jobs["build"].outcome is Outcome.CANCELLED
    assert jobs["report"].outcome is Outcome.SUCCESS
    assert world.driver.made == 2


async def test_a_queued_job_for_every_case_survives_the_cancellation(world):
    """One that waited for its machine when the run was cancelled is not lost, and not leased twice."""
    await world.machines(Hangs(), Succeeds(), max_total=1)
    await world.executor()
    first = await world.begin(ONE_JOB)
    await world.in_step()
    run = await world.begin(flow(build="if: always(), runs-on: fast"))
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
    real = world.ledger.whole_run

    async def late(id):
        run, rows = await real(id)
        if any(row.phase is Phase.QUEUED for row in rows) and run.cancel_requested:
            looked.set()
            await answer.wait()
        return run, rows

    _, ended = await world.executor()
    run = await world.begin(ONE_JOB)
    lease = await world.pool.receive()
    await world.job(run, Phase.QUEUED)
    monkeypatch.setattr(world.ledger, "whole_run", late)
    await world.cancel(run)
    await world.wait(looked)
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
    await world.machines(Hangs(), max_total=1)
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
    await world.wait(ended)
    assert (await world.ledger.run(running)).phase is Phase.DONE
    assert (await world.jobs(waiting))["build"].phase is Phase.QUEUED
    assert (await world.ledger.run(waiting)).phase is Phase.QUEUED


async def test_what_is_cancelled_while_draining_ends(world, monkeypatch):
    """Nobody can tell an executor whose mailbox is closed: it looks into the ledger."""
    monkeypatch.setattr("runnerd.actors.executor.SWEEP_EVERY", 0.02)
    await world.machines(Hangs())
    _, ended = await world.executor()
    run = await world.begin(ONE_JOB)
    await world.in_step()
    world.mailbox.close()
    assert await world.ledger.request_cancel(run)
    await world.wait(ended)
    assert (await world.ledger.run(run)).outcome is Outcome.CANCELLED


async def test_the_next_executor_runs_what_was_left_queued(world):
    """A job that was queued when an executor drained is taken up without anybody saying so."""
    run = await world.plan(AT_ONCE)
    _, ended = await world.executor()
    await world.job(run, Phase.QUEUED)
    await world.drained(ended)
    await world.machines()
    world.mailbox = Mailbox(8)
    await world.executor()
    record, _ = await world.finished(run)
    assert record.outcome is Outcome.SUCCESS


async def test_being_told_to_stop_cancels_what_runs_and_starts_nothing(world):
    """The second signal: the running job is recorded as cancelled, the queued one waits, no leg follows."""
    await world.machines(Hangs(), max_total=1)
    _, ended = await world.executor()
    running = await world.begin(
        flow(build="strategy: {max-parallel: 1, fail-fast: false, matrix: {v: [1, 2]}}")
    )
    await world.in_step()
    waiting = await world.begin(ONE_JOB)
    await world.job(waiting, Phase.QUEUED)
    world.cancel_all.set()
    job = await world.job(running, Phase.DONE, "build (1)")
    assert (job.outcome, job.reason) == (Outcome.CANCELLED, "the daemon was told to stop at once")
    await world.drained(ended)
    assert world.driver.made == 1
    assert (await world.jobs(running))["build (2)"].epoch == 0
    assert (await world.jobs(waiting))["build"].phase is Phase.QUEUED
    assert await world.ledger.open_runs() == [running, waiting]


async def claimed_by_another(world, *, step):
    """A run whose job an earlier daemon was running."""
    run = await world.plan(AT_ONCE)
    _, ended = await world.executor()
    job = await world.job(run, Phase.QUEUED)
    await world.drained(ended)
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
    await world.machines(Hangs(), DiesAtLayOut(), Succeeds())
    scope, _ = await world.executor()
    in_step = await world.begin(ONE_JOB)
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


async def test_runs_do_not_wait_for_each_other(world):
    """A second run starts and ends while the first one hangs."""
    await world.machines(Hangs(), Succeeds())
    await world.executor()
    first = await world.begin(ONE_JOB)
    await world.in_step()
    second, _ = await world.go(ONE_JOB)
    assert second.outcome is Outcome.SUCCESS
    assert (await world.ledger.run(first)).phase is Phase.RUNNING


async def test_a_run_whose_hint_was_lost_runs_all_the_same(world, monkeypatch):
    """The ledger is looked at again and again: what nobody told of starts, what was cancelled stops."""
    monkeypatch.setattr(executor, "SWEEP_EVERY", 0.05)
    await world.machines(Succeeds(), Hangs())
    await world.executor()
    run, _ = await world.finished(await world.plan(ONE_JOB))
    assert run.outcome is Outcome.SUCCESS
    hanging = await world.plan(ONE_JOB)
    await world.in_step()
    assert await world.ledger.request_cancel(hanging)
    run, _ = await world.finished(hanging)
    assert run.outcome is Outcome.CANCELLED


async def test_a_fault_of_ours_costs_one_run_alone(world, monkeypatch):
    """A run that cannot be walked ends with a reason; the others go on, and the actor too."""
    await world.machines(Hangs(), Succeeds())
    _, ended = await world.executor()
    bad = await world.begin(ONE_JOB.replace("build", "bad"))
    await world.in_step()
    real = executor.graph.decide

    def decide(workflow, nodes, contexts, **others):
        if "bad" in nodes:
            raise OverflowError("cannot convert float infinity to integer")
        return real(workflow, nodes, contexts, **others)

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


async def test_an_ended_run_is_left_alone(world):
    """A hint about a run that has ended, or that nobody knows, does nothing."""
    await world.machines()
    _, ended = await world.executor()
    run, _ = await world.go(ONE_JOB)
    for hint in (RunCreated(run.id), CancelRun(run.id), RunCreated(999)):
        await world.mailbox.send(hint)
    await world.drained(ended)
    assert await world.ledger.run(run.id) == run
