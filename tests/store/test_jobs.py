"""Attempts of a job: claimed one at a time, fenced by their epoch, ended once."""

import pytest
import sqlalchemy as sa

from runnerd.model import JobResult, Outcome, Phase, StepResult
from runnerd.store import jobs, runs
from runnerd.store.changes import UNEXPANDED, EndJob, QueueJob
from runnerd.store.errors import IllegalTransition, StaleEpoch
from runnerd.store.tables import jobs as table


def step(number: int, outcome: Outcome = Outcome.SUCCESS) -> StepResult:
    """A step that ended."""
    return StepResult(number=number, id="", name=f"step {number}", outcome=outcome, conclusion=outcome)


def test_claiming_begins_an_attempt(desk):
    """A queued job gets its machine and a new epoch, its run begins, and the forge will hear."""
    run = desk.run_with(desk.new_job())
    job = desk.jobs(run)[0]
    desk.apply(run, QueueJob(job=job.id, now=50.0))
    desk.now = 60.0
    assert jobs.claim(desk.connection, job.id, "m1", 60.0, who=("b", "i")) == 1
    record = jobs.find(desk.connection, job.id)
    assert (record.boot_id, record.machine_id) == ("b", "i")
    assert (record.phase, record.epoch, record.machine) == (Phase.RUNNING, 1, "m1")
    assert (record.queued, record.started) == (50.0, 60.0)
    began = runs.find(desk.connection, run)
    assert (began.phase, began.started) == (Phase.RUNNING, 60.0)
    assert desk.owed() == [(job.id, "job", "in_progress")]


def test_a_job_may_be_claimed_in_the_knowledge_that_its_run_is_cancelled(desk):
    """One that runs in a cancelled run too (`always()`) gets its machine; another state still refuses."""
    run = desk.run_with(desk.new_job())
    job = desk.jobs(run)[0]
    desk.apply(run, QueueJob(job=job.id, now=1.0))
    runs.request_cancel(desk.connection, run)
    assert jobs.claim(desk.connection, job.id, "m1", 2.0) is None
    assert jobs.claim(desk.connection, job.id, "m1", 2.0, though_cancelled=True) == 1
    assert jobs.claim(desk.connection, job.id, "m2", 3.0, though_cancelled=True) is None


@pytest.mark.parametrize("state", ["waiting", "running", "done", "cancelled"])
def test_only_a_queued_job_of_a_wanted_run_is_claimed(desk, state):
    """Anything else is answered with None and left as it was (I6)."""
    run = desk.run_with(desk.new_job())
    job = desk.jobs(run)[0].id
    if state == "running":
        desk.claimed(run)
    if state == "done":
        desk.apply(run, EndJob(job=job, epoch=0, result=JobResult(outcome=Outcome.CANCELLED)))
    if state == "cancelled":
        desk.apply(run, QueueJob(job=job, now=1.0))
        runs.request_cancel(desk.connection, run)
    before = jobs.find(desk.connection, job)
    assert jobs.claim(desk.connection, job, "m2", desk.now) is None
    assert jobs.find(desk.connection, job) == before


def test_a_retry_gives_a_fresh_attempt(desk):
    """The old attempt is fenced off at once; the next has nothing of it but its number."""
    run = desk.run_with(desk.new_job())
    job, first = desk.claimed(run)
    jobs.begin_step(desk.connection, job, first)
    jobs.end_step(desk.connection, job, first, step(1))
    jobs.move(desk.connection, job, first, "m1", "boot", "machine")
    jobs.retry(desk.connection, job, first, "the machine was lost", 70.0)
    record = jobs.find(desk.connection, job)
    assert (record.phase, record.reason, record.queued) == (Phase.QUEUED, "the machine was lost", 70.0)
    assert (record.steps, record.step_started, record.boot_id, record.machine) == ((), False, "", "")
    assert desk.owed() == [(job, "job", "queued")]
    with pytest.raises(StaleEpoch):
        jobs.begin_step(desk.connection, job, first)
    second = jobs.claim(desk.connection, job, "m2", 80.0)
    assert second == 2
    for stale in (
        lambda: jobs.begin_step(desk.connection, job, first),
        lambda: jobs.end_step(desk.connection, job, first, step(1)),
        lambda: jobs.move(desk.connection, job, first, "m9", "x", "y"),
        lambda: jobs.retry(desk.connection, job, first, "again", 90.0),
        lambda: desk.apply(run, EndJob(job=job, epoch=first, result=JobResult(outcome=Outcome.SUCCESS))),
    ):
        with pytest.raises(StaleEpoch, match=r"job 1 \(build\) of run 1 is .*attempt 1"):
            stale()
    jobs.begin_step(desk.connection, job, second)
    assert jobs.find(desk.connection, job).step_started


def test_an_overtaken_attempt_cannot_end_a_queued_job_green(desk):
    """Success, failure and time-out need an attempt that runs; a queued job can only end without one."""
    run = desk.run_with(desk.new_job())
    job, epoch = desk.claimed(run)
    jobs.retry(desk.connection, job, epoch, "lost", 70.0)
    for outcome in (Outcome.SUCCESS, Outcome.FAILURE, Outcome.TIMED_OUT):
        with pytest.raises(StaleEpoch, match=f"no attempt of it runs that could be {outcome}"):
            desk.apply(run, EndJob(job=job, epoch=epoch, result=JobResult(outcome=outcome)))
    desk.apply(run, EndJob(job=job, epoch=epoch, result=JobResult(outcome=Outcome.INFRA_ERROR)))
    assert jobs.find(desk.connection, job).outcome is Outcome.INFRA_ERROR


def test_why_no_machine_was_kept_is_of_the_attempt_that_ended(desk):
    """It is on record from then on."""
    run = desk.run_with(desk.new_job())
    job, epoch = desk.claimed(run)
    assert jobs.find(desk.connection, job).not_kept == ""
    result = JobResult(outcome=Outcome.FAILURE, not_kept="the disk is full")
    desk.apply(run, EndJob(job=job, epoch=epoch, result=result))
    assert jobs.find(desk.connection, job).not_kept == "the disk is full"


def test_steps_are_kept_in_order(desk):
    """Each step ends once: a repeated report takes the place of the first."""
    run = desk.run_with(desk.new_job())
    job, epoch = desk.claimed(run)
    for number in (2, 1, 3):
        jobs.end_step(desk.connection, job, epoch, step(number))
    jobs.end_step(desk.connection, job, epoch, step(2, Outcome.FAILURE))
    found = jobs.find(desk.connection, job).steps
    assert [(s.number, s.outcome.value) for s in found] == [(1, "success"), (2, "failure"), (3, "success")]


def test_the_machines_own_word_is_kept(desk):
    """Boot id and machine id of the attempt can be shown later."""
    run = desk.run_with(desk.new_job())
    job, epoch = desk.claimed(run)
    jobs.move(desk.connection, job, epoch, "m1", "boot", "machine")
    record = jobs.find(desk.connection, job)
    assert (record.boot_id, record.machine_id) == ("boot", "machine")
    jobs.move(desk.connection, job, epoch, "m2", "boot 2", "machine 2")
    record = jobs.find(desk.connection, job)
    assert (record.machine, record.boot_id, record.machine_id) == ("m2", "boot 2", "machine 2")


def test_the_schema_has_one_row_per_leg(desk):
    """A leg cannot stand twice in a run."""
    run = desk.run_with(desk.new_job())
    row = dict(desk.connection.execute(sa.select(table).where(table.c.run == run)).mappings().one())
    del row["id"]
    with pytest.raises(sa.exc.IntegrityError, match=r"jobs\.run"):
        desk.connection.execute(sa.insert(table), row)


def test_an_unexpanded_job_cannot_be_queued(desk):
    """A job whose legs are not known has nothing that could run."""
    run = desk.run_with(desk.new_job(leg=UNEXPANDED))
    with pytest.raises(IllegalTransition, match="has no legs yet"):
        desk.apply(run, QueueJob(job=desk.jobs(run)[0].id, now=1.0))


def test_unknown_jobs(desk):
    """What is not there is said to be so."""
    assert jobs.find(desk.connection, 99) is None
    with pytest.raises(LookupError, match="no job 99"):
        jobs.claim(desk.connection, 99, "m", 1.0)
    with pytest.raises(LookupError, match="no job 99"):
        jobs.begin_step(desk.connection, 99, 1)
