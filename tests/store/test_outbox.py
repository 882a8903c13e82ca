"""Reports are owed until they are sent; newer ones replace older ones, but never a terminal one."""

import sqlalchemy as sa

from runnerd.model import JobResult, Outcome
from runnerd.store import jobs, outbox
from runnerd.store.changes import EndJob, EndRun
from runnerd.store.records import Backlog, Kind, OutboxRow, ReportState


def test_reports_are_due_oldest_first(desk):
    """Each owed report is listed with what it is about, up to the limit."""
    run = desk.run_with(desk.new_job("a"), desk.new_job("b"))
    first, second = desk.jobs(run)
    assert outbox.due(desk.connection, 100.0, 1) == [
        OutboxRow(
            id=1, run=run, job=first.id, kind=Kind.JOB, state=ReportState.QUEUED, attempts=0, created=100.0
        )
    ]
    assert [row.job for row in outbox.due(desk.connection, 100.0, 9)] == [first.id, second.id]
    assert outbox.due(desk.connection, 99.0, 9) == []
    assert outbox.depth(desk.connection) == 2


def test_what_was_sent_is_not_owed(desk):
    """A report that is done is never due again, and the note of it stays."""
    desk.run_with(desk.new_job())
    [row] = outbox.due(desk.connection, 100.0, 9)
    outbox.done(desk.connection, row.id, 101.0, "written to a file")
    assert outbox.due(desk.connection, 1e9, 9) == []
    assert outbox.depth(desk.connection) == 0
    kept = desk.connection.execute(sa.text("SELECT sent, error FROM outbox")).one()
    assert tuple(kept) == (101.0, "written to a file")


def test_a_failed_report_waits_for_its_time(desk):
    """It is due again when it was told, with one attempt more and the error cut to a bounded length."""
    desk.run_with(desk.new_job())
    [row] = outbox.due(desk.connection, 100.0, 9)
    outbox.retry(desk.connection, row.id, 160.0, "502 " * 1000)
    assert outbox.due(desk.connection, 159.0, 9) == []
    [again] = outbox.due(desk.connection, 160.0, 9)
    assert (again.id, again.attempts) == (row.id, 1)
    [error] = desk.connection.execute(sa.text("SELECT error FROM outbox")).scalars()
    assert len(error) == outbox.ERROR_LIMIT


def test_a_newer_report_takes_the_place_of_an_unsent_one(desk):
    """A forge that was away hears the latest state of a job once, not its history."""
    run = desk.run_with(desk.new_job("a"), desk.new_job("b"))
    first, epoch = desk.claimed(run)
    other = desk.jobs(run)[1].id
    assert desk.owed() == [(other, "job", "queued"), (first, "job", "in_progress")]
    desk.apply(run, EndJob(job=first, epoch=epoch, result=JobResult(outcome=Outcome.SUCCESS)))
    assert desk.owed() == [(other, "job", "queued"), (first, "job", "completed")]


def test_an_answer_for_a_replaced_report_changes_nothing(desk):
    """The sender may finish with a report that was replaced while it was being sent."""
    run = desk.run_with(desk.new_job())
    [old] = outbox.due(desk.connection, 100.0, 9)
    job, _ = desk.claimed(run)
    outbox.done(desk.connection, old.id, 101.0, "")
    outbox.retry(desk.connection, old.id, 1e9, "failed")
    assert desk.owed() == [(job, "job", "in_progress")]
    assert [row.attempts for row in outbox.due(desk.connection, 100.0, 9)] == [0]


def test_a_terminal_report_is_never_replaced(desk):
    """Whatever is owed after it, a terminal report stays until it was sent (I4)."""
    run = desk.run_with(desk.new_job())
    job, epoch = desk.claimed(run)
    desk.apply(run, EndJob(job=job, epoch=epoch, result=JobResult(outcome=Outcome.SUCCESS)))
    for state in ReportState:
        outbox.owe(desk.connection, run, job, Kind.JOB, state, 200.0)
    assert desk.owed() == [(job, "job", "completed"), (job, "job", "completed")]


def test_subjects_do_not_replace_each_other(desk):
    """The report of a run, its comment and its jobs are told apart, and so are runs."""
    event = desk.event(number=3)
    runs = [desk.plan(desk.new_run(desk.new_job(), event=event), delivery=f"d{n}")[0] for n in range(2)]
    assert len(desk.owed()) == 4
    job, epoch = desk.claimed(runs[0])
    jobs.retry(desk.connection, job, epoch, "lost", 1.0)
    desk.apply(
        runs[0],
        EndJob(job=job, epoch=epoch, result=JobResult(outcome=Outcome.LOST)),
        EndRun(outcome=Outcome.LOST),
    )
    other = desk.jobs(runs[1])[0].id
    assert sorted(desk.owed(), key=str) == sorted(
        [
            (job, "job", "completed"),
            (None, "run", "completed"),
            (None, "comment", "completed"),
            (other, "job", "queued"),
            (None, "comment", "queued"),
        ],
        key=str,
    )


def test_a_repository_that_is_limited_waits_as_a_whole(desk):
    """Nothing about it is due before the time, what waits longer still does, and no attempt is counted."""
    run = desk.run_with(desk.new_job("a"), desk.new_job("b"), desk.new_job("c"))
    rows = outbox.due(desk.connection, 100.0, 9)
    outbox.retry(desk.connection, rows[2].id, 900.0, "later")
    repository = desk.connection.execute(
        sa.text(f"SELECT repository FROM runs WHERE id = {run}")
    ).scalar_one()
    outbox.put_off(desk.connection, "another/one", 500.0, "limit")
    assert len(outbox.due(desk.connection, 100.0, 9)) == 2
    outbox.put_off(desk.connection, repository, 500.0, "limit")
    assert outbox.due(desk.connection, 499.0, 9) == []
    assert [row.attempts for row in outbox.due(desk.connection, 500.0, 9)] == [0, 0]
    assert len(outbox.due(desk.connection, 900.0, 9)) == 3


def test_the_backlog_at_a_glance(desk):
    """How many, how old the oldest is, when it is tried next, and why the last one was put off."""
    assert outbox.backlog(desk.connection) == Backlog(owed=0)
    desk.run_with(desk.new_job("a"), desk.new_job("b"))
    assert outbox.backlog(desk.connection) == Backlog(owed=2, oldest=100.0, due=100.0)
    first, second = outbox.due(desk.connection, 100.0, 9)
    outbox.retry(desk.connection, first.id, 200.0, "a first problem")
    outbox.retry(desk.connection, second.id, 300.0, "the token lacks a permission")
    assert outbox.backlog(desk.connection) == Backlog(
        owed=2, oldest=100.0, due=200.0, problem="the token lacks a permission"
    )
