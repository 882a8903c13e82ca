"""A part of a run once more: what runs again, what is carried over, and what of it is said to the forge."""

import pytest

from runnerd.model import Annotation, JobResult, Outcome, Phase, StepResult
from runnerd.store import jobs, runs
from runnerd.store.changes import UNEXPANDED, Again, EndJob, EndRun, EnterCalls, ExpandJob, NewJob, SkipJob
from runnerd.store.errors import IllegalTransition
from runnerd.workflow.model import Call

STEP = StepResult(
    number=1,
    id="s",
    name="build it",
    outcome=Outcome.SUCCESS,
    conclusion=Outcome.SUCCESS,
    started=1.0,
    ended=2.0,
)
GOOD = JobResult(
    outcome=Outcome.SUCCESS,
    outputs={"tag": "v1"},
    steps=(STEP,),
    annotations=(Annotation(level="warning", message="old"),),
    summary="# built",
)
BAD = JobResult(outcome=Outcome.FAILURE, reason="step 3 failed", steps=(STEP,))


@pytest.fixture
def ended(desk):
    """A run whose first job succeeded, whose second failed, and whose third was skipped for that."""
    run = desk.run_with(*(desk.new_job(key) for key in ("build", "test", "deploy")))
    for index, result in enumerate((GOOD, BAD)):
        job, epoch = desk.claimed(run, index, machine=f"m{index}")
        jobs.move(desk.connection, job, epoch, f"m{index}", f"boot{index}", f"machine{index}")
        desk.now += 10
        desk.apply(run, EndJob(job=job, epoch=epoch, result=result))
    deploy = desk.jobs(run)[2]
    desk.apply(run, SkipJob(job=deploy.id, reason="it needs 'test'"), EndRun(outcome=Outcome.FAILURE))
    return run


def rerun(desk, run, now=500.0, **fields):
    return runs.rerun(desk.connection, run, now, Again(**fields))


def test_what_does_not_run_again_is_carried_over_whole(desk, ended):
    """Result, outputs, steps, machine and times stand in the new attempt, with where they come from."""
    build, test, _ = desk.jobs(ended)
    deploy = desk.new_job("deploy", leg=UNEXPANDED)
    again = rerun(desk, ended, jobs=frozenset({test.id}), anew=(deploy,))
    carried, fresh, planned = desk.jobs(again)
    told = {name: getattr(carried, name) for name in build.__struct_fields__}
    assert told == {
        **{name: getattr(build, name) for name in build.__struct_fields__},
        "id": carried.id,
        "run": again,
        "carried": f"{ended}/{build.id}",
    }
    assert carried.outputs == {"tag": "v1"}
    assert (carried.machine, carried.boot_id) == ("m0", "boot0")
    assert (build.logged, carried.logged) == ((ended, build.id), (ended, build.id))
    assert (fresh.key, fresh.phase, fresh.outcome, fresh.steps, fresh.machine) == (
        "test", Phase.WAITING, None, (), "",
    )  # fmt: skip
    assert (fresh.epoch, fresh.started, fresh.reason, fresh.carried) == (0, None, "", "")
    assert (planned.key, planned.leg, planned.phase) == ("deploy", UNEXPANDED, Phase.WAITING)
    record = runs.find(desk.connection, again)
    assert (record.attempt, record.phase, record.outcome) == (2, Phase.QUEUED, None)


def test_the_forge_hears_only_of_what_runs_again(desk, ended):
    """Of a carried job nothing is owed, of one that runs again its first report is."""
    before = len(desk.owed())
    _, test, _ = desk.jobs(ended)
    again = rerun(desk, ended, jobs=frozenset({test.id}))
    fresh = desk.jobs(again)[1]
    assert desk.owed()[before:] == [(fresh.id, "job", "queued")]


def test_a_job_carried_twice_points_to_where_it_ran(desk, ended):
    """The third attempt names the first, where the log is."""
    build, test, deploy = desk.jobs(ended)
    second = rerun(desk, ended, jobs=frozenset({test.id, deploy.id}))
    _, test, deploy = desk.jobs(second)
    desk.apply(
        second,
        SkipJob(job=test.id, reason="x"),
        SkipJob(job=deploy.id, reason="x"),
        EndRun(outcome=Outcome.CANCELLED),
    )
    third = rerun(desk, second, jobs=frozenset({deploy.id}))
    first, other, _ = desk.jobs(third)
    assert (first.carried, first.logged) == (f"{ended}/{build.id}", (ended, build.id))
    assert other.carried == f"{second}/{test.id}"


def test_where_a_job_goes_on_outlives_its_claims(desk, ended):
    """It is in the row, so that a restart knows it, and stays when an attempt is repeated."""
    _, test, deploy = desk.jobs(ended)
    again = rerun(desk, ended, jobs=frozenset({test.id, deploy.id}), resumes={test.id: f"{test.id}/3"})
    job, epoch = desk.claimed(again, 1)
    assert jobs.known(desk.connection, job).resumes == f"{test.id}/3"
    jobs.retry(desk.connection, job, epoch, "its machine was lost", 600.0)
    assert [row.resumes for row in desk.jobs(again)] == ["", f"{test.id}/3", ""]


def test_legs_stay_as_they_were_expanded_or_are_made_anew(desk):
    """One leg runs again beside the others; a job that is made anew has no legs until it is expanded."""
    run = desk.run_with(desk.new_job("a"), desk.new_job("m", leg=UNEXPANDED), desk.new_job("z"))
    legs = tuple(
        desk.new_job("m", leg=n, legs=2, name=f"m ({n})", matrix={"n": n}, allowed_to_fail=n == 1)
        for n in range(2)
    )
    desk.apply(run, ExpandJob(key="m", legs=legs))
    desk.apply(
        run,
        *(SkipJob(job=row.id, reason="x") for row in desk.jobs(run)),
        EndRun(outcome=Outcome.FAILURE),
    )
    one = desk.jobs(run)[2]
    again = rerun(desk, run, jobs=frozenset({one.id}))
    rows = desk.jobs(again)
    assert [(row.key, row.leg, row.phase) for row in rows] == [
        ("a", 0, Phase.DONE), ("m", 0, Phase.DONE), ("m", 1, Phase.WAITING), ("z", 0, Phase.DONE),
    ]  # fmt: skip
    assert (rows[2].name, rows[2].matrix, rows[2].allowed_to_fail) == ("m (1)", {"n": 1}, True)
    desk.apply(again, SkipJob(job=rows[2].id, reason="x"), EndRun(outcome=Outcome.FAILURE))
    third = rerun(desk, again, anew=(desk.new_job("m", leg=UNEXPANDED),))
    assert [(row.key, row.leg) for row in desk.jobs(third)] == [("a", 0), ("m", UNEXPANDED), ("z", 0)]


def test_calls_are_carried_over_or_made_anew(desk):
    """With a called job its call stays; a caller that is made anew loses its calls and all below them."""
    run = desk.run_with(desk.new_job("one", leg=UNEXPANDED), desk.new_job("two", leg=UNEXPANDED))
    for key in ("one", "two"):
        call = Call(key=key, leg=0, legs=1, name=key, matrix=None, inputs={"n": 1})
        inner = desk.new_job(f"{key}.0/in", leg=UNEXPANDED, name=f"{key} / in")
        nest = desk.new_job(f"{key}.0/nest", leg=UNEXPANDED)
        desk.apply(run, EnterCalls(key=key, calls=(call,), jobs=(inner, nest)))
        call = Call(key=nest.key, leg=0, legs=1, name="nest", matrix=None, inputs={})
        deep = desk.new_job(f"{nest.key}.0/deep", leg=UNEXPANDED)
        desk.apply(run, EnterCalls(key=nest.key, calls=(call,), jobs=(deep,)))
    desk.apply(
        run,
        *(SkipJob(job=row.id, reason="x") for row in desk.jobs(run)),
        EndRun(outcome=Outcome.FAILURE),
    )
    inner = next(row for row in desk.jobs(run) if row.key == "one.0/in")
    again = rerun(desk, run, jobs=frozenset({inner.id}), anew=(desk.new_job("two", leg=UNEXPANDED),))
    assert [(row.key, row.phase) for row in desk.jobs(again)] == [
        ("one.0/in", Phase.WAITING), ("one.0/nest.0/deep", Phase.DONE), ("two", Phase.WAITING),
    ]  # fmt: skip
    assert [call.key for call in jobs.calls_of(desk.connection, again)] == ["one", "one.0/nest"]
    assert len(jobs.calls_of(desk.connection, run)) == 4


@pytest.mark.parametrize(
    ("part", "why"),
    [
        (Again(jobs=frozenset({99})), "has no job 99"),
        (Again(anew=(NewJob(key="lint", leg=UNEXPANDED, name="lint"),)), "has no job lint"),
        (Again(), "has no job to run again"),
    ],
)
def test_a_job_the_run_has_not_cannot_be_run_again(desk, ended, part, why):
    """Nothing of it is written; to name none at all is no rerun either."""
    with pytest.raises(IllegalTransition, match=f"run {ended} {why}"), desk.connection.begin_nested():
        runs.rerun(desk.connection, ended, 500.0, part)
    assert [run.id for run in runs.latest(desk.connection, 9, None, None)] == [ended]


def test_only_jobs_of_the_newest_attempt_run_again(desk, ended):
    """Its attempts are one after the other; the sentence names the newest."""
    build, test, _ = desk.jobs(ended)
    again = rerun(desk, ended, jobs=frozenset({test.id}))
    with pytest.raises(
        IllegalTransition, match=f"run {ended} is attempt 1, .* that is run {again}, attempt 2"
    ):
        rerun(desk, ended, jobs=frozenset({build.id}))
    fresh = desk.jobs(again)[1]
    with pytest.raises(IllegalTransition, match=f"run {again} is queued and cannot be run again"):
        rerun(desk, again, jobs=frozenset({fresh.id}))
