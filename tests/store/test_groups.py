"""Concurrency groups in the ledger."""

from runnerd.model import JobResult, Outcome
from runnerd.store.changes import EndJob, EndRun, JoinGroup, LeaveGroup
from runnerd.workflow.concurrency import Standing

from .test_ledger import delivery, new_run

JOIN = JoinGroup(key="", leg=0, group="Deploy", cancels=False, queue="single")


async def planned(ledger, id):
    """A delivery with one run; returns the run."""
    await ledger.accept_delivery(delivery(id))
    (run,) = await ledger.plan_delivery(id, [new_run("a.yml")], [])
    return run


async def test_groups_are_kept_across_runs(ledger):
    """Who leaves lets the next one on, and the caller is told which run that is."""
    first, second = await planned(ledger, "d1"), await planned(ledger, "d2")
    assert await ledger.apply(first, [JOIN]) == frozenset()
    await ledger.apply(second, [JOIN])
    (member,) = await ledger.members(second)
    assert (member.standing, member.shown) == (Standing.WAITING, "Deploy")
    assert await ledger.apply(first, [LeaveGroup(key="", leg=0)]) == {second}
    assert [each.standing for each in await ledger.members(second)] == [Standing.HOLDING]


async def test_coming_twice_is_coming_once(ledger):
    """A decision that is made again after a crash changes nothing."""
    run = await planned(ledger, "d1")
    await ledger.apply(run, [JOIN])
    await ledger.apply(run, [JOIN])
    assert len(await ledger.members(run)) == 1


async def test_the_end_of_a_run_leaves_its_groups(ledger):
    """In the same transaction, whatever the run came to them for."""
    first, second = await planned(ledger, "d1"), await planned(ledger, "d2")
    await ledger.apply(first, [JOIN])
    await ledger.apply(second, [JOIN])
    ended = JobResult(outcome=Outcome.CANCELLED)
    ends = [EndJob(job=job.id, epoch=job.epoch, result=ended) for job in await ledger.jobs(first)]
    assert await ledger.apply(first, [*ends, EndRun(outcome=Outcome.CANCELLED)]) == {second}
