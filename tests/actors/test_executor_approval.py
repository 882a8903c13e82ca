"""A run that waits for approval does not start by any way but one."""

import trio

from runnerd.messages import RunCreated
from runnerd.model import Approval, Outcome, Phase

from .conftest import flow, push_event

SHA = "c" * 40
ALWAYS = flow(build="if: always()")


def fork():
    return push_event(name="pull_request", number=3, fork=True, report_sha=SHA, ref="refs/pull/3/merge")


async def started(world, run):
    return any(job.phase is not Phase.WAITING for job in await world.ledger.jobs(run))


async def test_it_waits_also_over_a_restart_until_it_is_approved(world):
    """Neither the hint, nor the next executor, nor its sweep starts it; the approval does."""
    await world.machines()
    run = await world.plan(ALWAYS, event=fork(), gate="a fork")
    for _ in range(2):
        scope, ended = await world.executor()
        await world.mailbox.send(RunCreated(run))
        marker, _ = await world.go(flow(other=""))
        assert marker.outcome is Outcome.SUCCESS
        assert not await started(world, run)
        scope.cancel()
        await world.wait(ended)
    await world.executor()
    await world.ledger.approve(run, Approval(sha=SHA, login="grace", id=3, permission="write"))
    await world.mailbox.send(RunCreated(run))
    record, jobs = await world.finished(run)
    assert (record.outcome, record.approval.login) == (Outcome.SUCCESS, "grace")
    assert jobs["build"].outcome is Outcome.SUCCESS


async def test_cancelling_it_runs_nothing_not_even_always(world):
    """Who opens and closes a pull request has nothing of it run."""
    await world.machines()
    await world.executor()
    run = await world.plan(ALWAYS, event=fork(), gate="a fork")
    await world.cancel(run)
    record, jobs = await world.finished(run)
    assert record.outcome is Outcome.CANCELLED
    assert [(job.outcome, job.steps, job.machine) for job in jobs.values()] == [(Outcome.CANCELLED, (), "")]
    await trio.lowlevel.checkpoint()
    assert world.driver.machines == {}
