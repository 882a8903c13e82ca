"""Runs are planned in one piece, at most one per workflow, numbered, and can be run again."""

import pytest
import sqlalchemy as sa

from runnerd.model import JobResult, Outcome, Phase, Repository
from runnerd.store import deliveries, runs
from runnerd.store.changes import (
    UNEXPANDED,
    Again,
    EndJob,
    EndRun,
    ExpandJob,
    QueueJob,
    SkipJob,
    WorkflowNote,
)
from runnerd.store.errors import IllegalTransition
from runnerd.store.records import DeliveryState
from runnerd.store.tables import runs as table


def test_planning_writes_everything(desk):
    """One call leaves runs, jobs, sources, notes, first reports and a planned delivery."""
    desk.deliver("d1")
    legs = [desk.new_job("test", leg=i, legs=2, name=f"test ({i})", matrix={"os": i}) for i in (0, 1)]
    unknown = desk.new_job("deploy", leg=UNEXPANDED)
    event = desk.event(payload={"big": 1})
    new = desk.new_run(desk.new_job("build"), *legs, unknown, event=event)
    why = [
        WorkflowNote(path="b.yml", matched=False, reason="no"),
        WorkflowNote(path="a.yml", matched=True, reason=""),
    ]
    [id] = runs.plan(desk.connection, "d1", [new], why, desk.now)
    run = runs.find(desk.connection, id)
    assert (run.delivery, run.repository, run.workflow_path) == ("d1", "o/r", ".github/workflows/ci.yml")
    assert (run.number, run.attempt, run.phase, run.outcome, run.created) == (1, 1, Phase.QUEUED, None, 100.0)
    assert run.event == desk.event()  # the payload stays with the delivery
    assert runs.source(desk.connection, run.source) == "on: push"
    rows = desk.jobs(id)
    assert [(row.key, row.leg, row.name) for row in rows] == [
        ("build", 0, "build"),
        ("test", 0, "test (0)"),
        ("test", 1, "test (1)"),
        ("deploy", UNEXPANDED, "deploy"),
    ]
    assert rows[1].matrix == {"os": 0}
    assert rows[0].labels == ("self-hosted",)
    assert {row.phase for row in rows} == {Phase.WAITING}
    assert desk.owed() == [(row.id, "job", "queued") for row in rows[:3]]
    assert deliveries.find(desk.connection, "d1").state is DeliveryState.PLANNED
    assert [note.path for note in runs.notes_of(desk.connection, "d1")] == ["a.yml", "b.yml"]


def test_planning_twice_returns_the_first_runs(desk):
    """A repeated call writes nothing and returns the same ids, whatever it was given (I2)."""
    first = desk.plan(desk.new_run(desk.new_job(), path="a.yml"), desk.new_run(path="b.yml"))
    again = runs.plan(desk.connection, "d1", [desk.new_run(path="c.yml")], (), desk.now)
    assert again == first
    assert [run.id for run in runs.latest(desk.connection, 10, None, None)] == first[::-1]


def test_the_schema_refuses_a_second_run_of_a_workflow(desk):
    """Even a caller that goes around the plan cannot write one (I2)."""
    [id] = desk.plan(desk.new_run())
    row = dict(desk.connection.execute(sa.select(table).where(table.c.id == id)).mappings().one())
    del row["id"]
    with pytest.raises(sa.exc.IntegrityError, match=r"runs\.delivery"):
        desk.connection.execute(sa.insert(table), {**row, "number": 2})


def test_the_same_file_twice_is_a_fault(desk):
    """A plan that starts one file twice is refused before anything is written."""
    desk.deliver("d1")
    with pytest.raises(ValueError, match="starts a workflow file twice"):
        runs.plan(desk.connection, "d1", [desk.new_run(), desk.new_run()], (), desk.now)


def test_a_delivery_without_a_run_is_ignored(desk):
    """Nothing to run is an end with a reason, and why no file matched is kept (I3)."""
    desk.deliver("d1")
    note = WorkflowNote(path="a.yml", matched=False, reason="the branch is not listed")
    assert runs.plan(desk.connection, "d1", [], [note], desk.now) == []
    record = deliveries.find(desk.connection, "d1")
    assert (record.state, record.reason) == (DeliveryState.IGNORED, runs.NOTHING)
    assert runs.notes_of(desk.connection, "d1") == [note]


def test_an_ended_delivery_is_not_planned(desk):
    """What was rejected or ignored stays so."""
    desk.deliver("d1")
    deliveries.settle(desk.connection, "d1", DeliveryState.REJECTED, "bad")
    with pytest.raises(IllegalTransition, match="d1 is rejected and cannot become planned"):
        runs.plan(desk.connection, "d1", [desk.new_run()], (), desk.now)


def test_numbers_count_per_repository_and_file(desk):
    """Each file counts for itself, each repository too, and a rename does not start over."""
    renamed = desk.event(repository=Repository(id=5, full_name="o/new"))
    other = desk.event(repository=Repository(id=6, full_name="o/r"))
    desk.plan(desk.new_run(path="a.yml"), desk.new_run(path="b.yml"), delivery="d1")
    desk.plan(desk.new_run(path="a.yml", event=renamed), delivery="d2")
    desk.plan(desk.new_run(path="a.yml", event=other), delivery="d3")
    found = runs.latest(desk.connection, 10, None, None)
    assert [(run.delivery, run.workflow_path, run.number) for run in reversed(found)] == [
        ("d1", "a.yml", 1),
        ("d1", "b.yml", 1),
        ("d2", "a.yml", 2),
        ("d3", "a.yml", 1),
    ]


def test_an_invalid_file_is_a_run_that_ends_at_birth(desk):
    """It has its outcome, its reason and its terminal report at once, and is not open."""
    [id] = desk.plan(desk.new_run(outcome=Outcome.STARTUP_FAILURE, reason="3:1: no jobs"))
    run = runs.find(desk.connection, id)
    assert (run.phase, run.outcome, run.reason, run.ended) == (
        Phase.DONE,
        Outcome.STARTUP_FAILURE,
        "3:1: no jobs",
        100.0,
    )
    assert desk.owed() == [(None, "run", "completed")]
    assert runs.unfinished(desk.connection) == []
    with pytest.raises(IllegalTransition, match="no jobs to run again: 3:1: no jobs"):
        runs.rerun(desk.connection, id, desk.now)


def test_a_run_that_ends_at_birth_has_no_jobs(desk):
    """An outcome together with jobs contradicts itself."""
    desk.deliver("d1")
    new = desk.new_run(desk.new_job(), outcome=Outcome.STARTUP_FAILURE)
    with pytest.raises(ValueError, match="ends at birth has no jobs"):
        runs.plan(desk.connection, "d1", [new], (), desk.now)


def test_a_pull_request_gets_its_comment(desk):
    """A run for a pull request owes a comment from its plan to its end; others owe none."""
    [id] = desk.plan(desk.new_run(event=desk.event(number=7)))
    assert desk.owed() == [(None, "comment", "queued")]
    desk.apply(id, EndRun(outcome=Outcome.SUCCESS))
    assert desk.owed() == [(None, "run", "completed"), (None, "comment", "completed")]


def test_listing(desk):
    """Newest first, in pages, of one repository or all."""
    other = desk.event(repository=Repository(id=6, full_name="o/other"))
    ids = [
        desk.plan(desk.new_run(event=other if n == 1 else desk.event()), delivery=f"d{n}")[0]
        for n in range(4)
    ]
    found = runs.latest(desk.connection, 2, None, None)
    assert [run.id for run in found] == [ids[3], ids[2]]
    assert [run.id for run in runs.latest(desk.connection, 2, ids[2], None)] == [ids[1], ids[0]]
    assert [run.id for run in runs.latest(desk.connection, 9, None, "o/other")] == [ids[1]]
    assert runs.unfinished(desk.connection) == ids


def test_what_is_not_there(desk):
    """Unknown runs and sources are said to be so."""
    assert runs.find(desk.connection, 99) is None
    with pytest.raises(LookupError, match="no run 99"):
        runs.rerun(desk.connection, 99, desk.now)
    with pytest.raises(LookupError, match="sha256 beef"):
        runs.source(desk.connection, "beef")


def test_a_rerun_is_the_plan_once_more(desk):
    """Same number and source, the next attempt, jobs as they were planned, even if they got legs since."""
    id = desk.run_with(desk.new_job("build"), desk.new_job("matrix", leg=UNEXPANDED, name="matrix"))
    job, epoch = desk.claimed(id)
    leg = desk.new_job("matrix", leg=0, legs=1, name="matrix (x)")
    desk.apply(id, ExpandJob(key="matrix", legs=(leg,)))
    expanded = desk.jobs(id)[1]
    desk.apply(
        id,
        EndJob(job=job, epoch=epoch, result=JobResult(outcome=Outcome.FAILURE)),
        SkipJob(job=expanded.id, reason="needs"),
        EndRun(outcome=Outcome.FAILURE, reason="build failed"),
    )
    again = runs.rerun(desk.connection, id, 200.0)
    old, new = runs.find(desk.connection, id), runs.find(desk.connection, again)
    assert (new.number, new.attempt, new.source, new.event) == (old.number, 2, old.source, old.event)
    assert (new.phase, new.outcome, new.reason, new.created, new.ended) == (
        Phase.QUEUED,
        None,
        "",
        200.0,
        None,
    )
    assert [(row.key, row.leg, row.name, row.phase, row.epoch) for row in desk.jobs(again)] == [
        ("build", 0, "build", Phase.WAITING, 0),
        ("matrix", UNEXPANDED, "matrix", Phase.WAITING, 0),
    ]
    assert old.outcome is Outcome.FAILURE
    with pytest.raises(IllegalTransition, match=f"run {again} is queued and cannot be run again"):
        runs.rerun(desk.connection, again, 300.0)
    with pytest.raises(IllegalTransition, match=f"runs again already: run {again}, attempt 2, is queued"):
        runs.rerun(desk.connection, id, 300.0)
    desk.apply(
        again,
        *(SkipJob(job=job.id, reason="x") for job in desk.jobs(again)),
        EndRun(outcome=Outcome.SKIPPED),
    )
    third = runs.rerun(desk.connection, id, 300.0)
    assert runs.find(desk.connection, third).attempt == 3


def test_cancelling(desk):
    """An open run is marked, as often as it is asked; one that has ended, or is unknown, is not."""
    id = desk.run_with(desk.new_job())
    assert runs.request_cancel(desk.connection, id)
    assert runs.request_cancel(desk.connection, id)
    assert runs.find(desk.connection, id).cancel_requested
    desk.apply(id, SkipJob(job=desk.jobs(id)[0].id, reason=""), EndRun(outcome=Outcome.CANCELLED))
    assert not runs.request_cancel(desk.connection, id)
    assert not runs.request_cancel(desk.connection, 99)


def test_a_queued_job_does_not_start_the_run(desk):
    """The run begins with its first claimed job, not before."""
    id = desk.run_with(desk.new_job())
    desk.apply(id, QueueJob(job=desk.jobs(id)[0].id, now=1.0))
    assert runs.find(desk.connection, id).phase is Phase.QUEUED


def test_a_delivery_that_asks_for_runs_again_is_settled_with_them(desk):
    """The newest attempt counts, what has not ended is passed over, and a second call writes nothing."""
    run = desk.run_with(desk.new_job())
    desk.deliver("again")
    assert runs.rerun_for(desk.connection, "again", [run], 5.0) == []
    desk.apply(run, SkipJob(job=desk.jobs(run)[0].id, reason="x"), EndRun(outcome=Outcome.FAILURE))
    desk.deliver("once more")
    [second] = runs.rerun_for(desk.connection, "once more", [run, run], 5.0)
    assert runs.find(desk.connection, second).attempt == 2
    assert runs.rerun_for(desk.connection, "once more", [run], 5.0) == []
    desk.deliver("while it runs")
    assert runs.rerun_for(desk.connection, "while it runs", [run], 5.0) == []


def test_a_delivery_that_asks_for_a_job_again(desk):
    """Only of the newest attempt, which is not looked for; a second call writes nothing."""
    run = desk.run_with(desk.new_job(), desk.new_job("test"))
    build, test = desk.jobs(run)
    ended = [SkipJob(job=job.id, reason="x") for job in (build, test)]
    desk.apply(run, *ended, EndRun(outcome=Outcome.FAILURE))
    part = Again(jobs=frozenset({test.id}))
    desk.deliver("again")
    [second] = runs.rerun_for(desk.connection, "again", [run], 5.0, part)
    assert [job.carried for job in desk.jobs(second)] == [f"{run}/{build.id}", ""]
    assert runs.rerun_for(desk.connection, "again", [run], 5.0, part) == []
    assert {runs.newest(desk.connection, id).id for id in (run, second)} == {second}
    desk.deliver("too late")
    with pytest.raises(IllegalTransition, match=f"that is run {second}"):
        runs.rerun_for(desk.connection, "too late", [run], 5.0, part)
