"""The parser and what people press at check runs: a run or a job again, or an end, once for each press."""

import pytest
import trio

from runnerd.actors import parser
from runnerd.forge import checks
from runnerd.forge.people import People
from runnerd.messages import CancelRun, RunCreated
from runnerd.model import JobResult, Outcome, Phase
from runnerd.planning.gate import Gate
from runnerd.store.changes import UNEXPANDED, EndJob, EndRun, ExpandJob, NewJob, QueueJob, SkipJob

from .conftest import CI, flow, repository


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """What is put off is not put off for long."""
    monkeypatch.setattr(parser, "TOGETHER", 0.1)
    monkeypatch.setattr(parser, "TURN_UP", 0.05)


async def ended(planning, run):
    """Bring a planned run to its end."""
    for job in await planning.ledger.jobs(run.id):
        if job.phase is not Phase.DONE:
            await planning.ledger.apply(run.id, [SkipJob(job=job.id, reason="for the test")])
    await planning.ledger.apply(run.id, [EndRun(outcome=Outcome.FAILURE)])


def press(run, job=None, *, action="rerequested", button=None, number=5, **changes):
    body = {
        "action": action,
        "check_run": {"external_id": checks.external_id(run, job), "head_sha": run.event.report_sha},
        "repository": repository(number=number),
        "sender": {"id": 2, "login": "bob"},
    }
    return body | ({"requested_action": {"identifier": button}} if button else {}) | changes


async def started(planning):
    sha = planning.origin.commit({"ci.yml": CI})
    await planning.start()
    _, [run], _ = await planning.push(sha)
    await planning.told(1)
    return run


async def test_run_again_is_the_next_attempt(planning):
    """GitHub's own button and ours: a new attempt for the executor; the same delivery twice makes one."""
    run = await started(planning)
    await ended(planning, run)
    record, _, _ = await planning.plan("check_run", press(run))
    [again, _] = await planning.ledger.runs(9)
    assert (record.state, again.attempt, again.phase) == ("planned", 2, Phase.QUEUED)
    assert await planning.told(1) == [RunCreated(again.id)]
    assert await planning.ledger.rerun_for(record.id, [run.id]) == []
    await ended(planning, again)
    await planning.plan("check_run", press(run, action="requested_action", button="rerun"))
    assert [run.attempt for run in await planning.ledger.runs(9)] == [3, 2, 1]


async def test_a_run_that_has_not_ended_is_not_run_twice(planning):
    """Neither it nor the attempt that follows it."""
    run = await started(planning)
    record, _, _ = await planning.plan("check_run", press(run))
    assert record.reason == "the run that it asks for again has not ended, or has no jobs"
    await ended(planning, run)
    for _ in range(2):
        await planning.plan("check_run", press(run))
    assert [run.attempt for run in await planning.ledger.runs(9)] == [2, 1]


async def test_cancel_ends_the_run(planning):
    """Recorded in the ledger, and told to the executor."""
    run = await started(planning)
    record, _, _ = await planning.plan("check_run", press(run, action="requested_action", button="cancel"))
    assert (record.state, record.reason) == ("ignored", f"asked for the end of run {run.id}")
    assert (await planning.ledger.run(run.id)).cancel_requested
    assert await planning.told(1) == [CancelRun(run.id)]


class KnowsItself(People):
    """Knows the account of this runner's App."""

    def __init__(self):
        super().__init__(None)

    async def is_our_bot(self, actor):
        return actor.login == "our-runner[bot]"


async def test_our_own_app_presses_nothing(planning):
    """A job with `checks: write` could otherwise run itself again without end."""
    planning.gate = Gate(KnowsItself())
    run = await started(planning)
    await ended(planning, run)
    ours = {"id": 8, "login": "our-runner[bot]"}
    record, _, _ = await planning.plan("check_run", press(run, sender=ours))
    assert (record.state, record.reason) == ("ignored", "our-runner[bot] is this runner's own account")
    assert len(await planning.ledger.runs(9)) == 1


async def test_another_repositorys_press_moves_nothing(planning):
    """The check run's id is a stranger's word: repository and delivery have to fit the run."""
    run = await started(planning)
    await ended(planning, run)
    forged = press(run)
    forged["check_run"]["external_id"] = f"{run.id}/0/000000000000"
    for body in (press(run, number=6), forged):
        record, _, _ = await planning.plan("check_run", body)
        assert (record.state, record.reason) == ("ignored", "the check it is about is none of ours")
    assert len(await planning.ledger.runs(9)) == 1


async def test_all_checks_of_a_commit_are_run_again(planning):
    """The suite's button means every run of that commit that has ended."""
    sha = planning.origin.commit({"ci.yml": CI, "two.yml": CI.replace("CI", "Two")})
    await planning.start()
    _, runs, _ = await planning.push(sha)
    for run in runs:
        await ended(planning, run)
    body = press(runs[0]) | {"check_suite": {"head_sha": sha}}
    await planning.plan("check_suite", body)
    assert sorted(run.attempt for run in await planning.ledger.runs(9)) == [1, 1, 2, 2]


THREE = flow(build="", test="needs: build", lint="")


async def jobs_of(planning, run, **outcomes):
    """Bring a run to its end with its jobs expanded and ended so; returns them by name."""
    ledger = planning.ledger
    for row in await ledger.jobs(run):
        if row.leg == UNEXPANDED:
            await ledger.apply(run, [ExpandJob(key=row.key, legs=(NewJob(key=row.key, name=row.name),))])
    for row in await ledger.jobs(run):
        if row.phase is not Phase.DONE:
            await ledger.apply(run, [QueueJob(job=row.id, now=1.0)])
            epoch = await ledger.claim_job(row.id, "m-1")
            result = JobResult(outcome=outcomes.get(row.name, Outcome.SUCCESS))
            await ledger.apply(run, [EndJob(job=row.id, epoch=epoch, result=result)])
    await ledger.apply(run, [EndRun(outcome=Outcome.FAILURE)])
    return {row.name: row for row in await ledger.jobs(run)}


async def with_three(planning, **outcomes):
    await planning.start()
    _, [run], _ = await planning.push(planning.origin.commit({"ci.yml": THREE}))
    await planning.told(1)
    return run, await jobs_of(planning, run.id, **outcomes)


@pytest.mark.parametrize("button", [{}, {"action": "requested_action", "button": "rerun"}])
async def test_a_job_is_run_again_with_what_needs_it(planning, button):
    """At a job's check either button means that job; what does not need it is carried over."""
    run, jobs = await with_three(planning, build=Outcome.FAILURE)
    record, _, _ = await planning.plan("check_run", press(run, jobs["build"], **button))
    [again, _] = await planning.ledger.runs(9)
    rows = {row.name: row.carried for row in await planning.ledger.jobs(again.id)}
    assert (record.state, again.attempt) == ("planned", 2)
    assert rows == {"build": "", "test": "", "lint": f"{run.id}/{jobs['lint'].id}"}
    assert await planning.told(1) == [RunCreated(again.id)]


async def test_the_check_of_a_job_that_was_carried_over_is_of_the_newest_attempt(planning):
    """It was made in the attempt before, and is still the newest that the forge shows of this job."""
    run, jobs = await with_three(planning, build=Outcome.FAILURE, lint=Outcome.FAILURE)
    await planning.plan("check_run", press(run, jobs["build"]))
    [second, _] = await planning.ledger.runs(9)
    now = await jobs_of(planning, second.id)
    await planning.plan("check_run", press(run, jobs["lint"]))
    [third, _, _] = await planning.ledger.runs(9)
    rows = {row.name: row.carried for row in await planning.ledger.jobs(third.id)}
    assert rows == {
        "build": f"{second.id}/{now['build'].id}",
        "test": f"{second.id}/{now['test'].id}",
        "lint": "",
    }


async def test_a_job_that_cannot_run_again_says_why(planning):
    """While it runs again already, or where it was skipped: the delivery has the reason, and nothing runs."""
    run, jobs = await with_three(planning)
    await planning.plan("check_run", press(run, jobs["build"]))
    [second, _] = await planning.ledger.runs(9)
    record, _, _ = await planning.plan("check_run", press(run, jobs["build"]))
    assert (record.state, record.reason) == (
        "ignored",
        f"run {second.id} is queued: jobs of it can run again when it has ended",
    )
    await ended(planning, second)
    record, _, _ = await planning.plan("check_run", press(run, jobs["test"]))
    assert (record.state, len(await planning.ledger.runs(9))) == ("ignored", 2)
    assert "has no job that is" in record.reason


async def test_jobs_pressed_at_once_run_again_in_one_attempt(planning):
    """ "Re-run failed checks" presses each of them; a press that cannot be obeyed keeps no other from it."""
    run, jobs = await with_three(planning, build=Outcome.FAILURE, lint=Outcome.FAILURE)
    forged = press(run, jobs["lint"])
    forged["check_run"]["external_id"] = f"{run.id}/{jobs['test'].id}/000000000000"
    bodies = (press(run, jobs["build"]), forged, press(run, jobs["lint"]))
    first, stray, second = [await planning.accept("check_run", body) for body in bodies]
    assert (await planning.settled(first)).state == "planned"
    record = await planning.settled(second)
    [again, _] = await planning.ledger.runs(9)
    assert record.reason == f"its job runs again in run {again.id}, with others that were asked for"
    assert (await planning.settled(stray)).reason == "the check it is about is none of ours"
    assert [row.carried for row in await planning.ledger.jobs(again.id)] == ["", "", ""]
    assert await planning.told(1) == [RunCreated(again.id)]


async def test_a_job_that_ended_before_its_run_runs_again_after_it(planning):
    """The press is not lost: it waits for the end of the attempt that runs, over a restart as well."""
    run, jobs = await with_three(planning, build=Outcome.FAILURE, lint=Outcome.FAILURE)
    await planning.plan("check_run", press(run, jobs["build"]))
    [second, _] = await planning.ledger.runs(9)
    waiting = await planning.accept("check_run", press(run, jobs["lint"]))
    await trio.sleep(0.3)
    assert (await planning.ledger.delivery(waiting)).state == "pending"
    await jobs_of(planning, second.id)
    assert (await planning.settled(waiting)).state == "planned"
    [third, _, _] = await planning.ledger.runs(9)
    assert [row.name for row in await planning.ledger.jobs(third.id) if not row.carried] == ["lint"]
