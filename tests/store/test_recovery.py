"""After a crash every job recorded as running is either queued again or lost, and the reason is said."""

from runnerd.model import Outcome, Phase
from runnerd.store import jobs, recovery


def test_an_untouched_job_is_queued_again(desk):
    """No step had started: another attempt can do no harm."""
    run = desk.run_with(desk.new_job())
    job, epoch = desk.claimed(run)
    found = recovery.recover(desk.connection, 200.0)
    assert found == recovery.Recovery(requeued=((run, job, epoch),))
    record = jobs.find(desk.connection, job)
    assert (record.phase, record.queued, record.machine) == (Phase.QUEUED, 200.0, "")
    assert desk.owed() == [(job, "job", "queued")]


def test_a_job_with_a_started_step_is_lost(desk):
    """It may have had effects: it ends as lost, with a terminal report, and its run can end."""
    run = desk.run_with(desk.new_job())
    job, epoch = desk.claimed(run)
    jobs.begin_step(desk.connection, job, epoch)
    assert recovery.recover(desk.connection, 200.0).lost == ((run, job, epoch),)
    record = jobs.find(desk.connection, job)
    assert (record.phase, record.outcome, record.ended) == (Phase.DONE, Outcome.LOST, 200.0)
    assert record.reason.endswith("not tried again because a step had started")
    assert desk.owed() == [(job, "job", "completed")]


def test_a_job_is_tried_three_times(desk):
    """One try and two retries; then it is lost even if no step ever started."""
    run = desk.run_with(desk.new_job())
    job, epoch = desk.claimed(run)
    for attempt in (1, 2):
        assert epoch == attempt
        assert recovery.recover(desk.connection, 200.0).requeued == ((run, job, attempt),)
        epoch = jobs.claim(desk.connection, job, "m", 201.0)
    assert recovery.recover(desk.connection, 300.0).lost == ((run, job, 3),)
    assert jobs.find(desk.connection, job).reason.endswith("attempt 3 of at most 3")


def test_recovering_twice_changes_nothing(desk):
    """The second call finds nobody running, and what waits or has ended is left alone."""
    run = desk.run_with(desk.new_job("a"), desk.new_job("b"), desk.new_job("c"))
    desk.claimed(run, 0)
    job, epoch = desk.claimed(run, 1)
    jobs.begin_step(desk.connection, job, epoch)
    recovery.recover(desk.connection, 200.0)
    before = desk.jobs(run)
    assert recovery.recover(desk.connection, 300.0) == recovery.Recovery()
    assert desk.jobs(run) == before
