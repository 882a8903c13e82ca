"""Changes of a run follow the table of legal phases, belong together, and owe their reports."""

import pytest

from runnerd.model import PHASES, Annotation, JobResult, Outcome, Phase, StepResult
from runnerd.store import jobs, runs
from runnerd.store.changes import UNEXPANDED, EndJob, EndRun, ExpandJob, QueueJob, SkipJob, StartRun
from runnerd.store.errors import IllegalTransition, StaleEpoch

LOST = JobResult(outcome=Outcome.LOST)


def test_a_run_from_start_to_end(desk):
    """The whole life of a run of one job, with the reports it leaves behind."""
    run = desk.run_with(desk.new_job())
    job, epoch = desk.claimed(run)
    result = JobResult(
        outcome=Outcome.FAILURE,
        reason="exit status 1",
        outputs={"version": "1"},
        steps=(StepResult(number=1, id="a", name="A", outcome=Outcome.FAILURE, conclusion=Outcome.FAILURE),),
        annotations=(Annotation(level="error", message="no"),),
        summary="# no",
    )
    desk.now = 130.0
    desk.apply(
        run,
        EndJob(job=job, epoch=epoch, result=result, allowed_to_fail=True),
        EndRun(outcome=Outcome.SUCCESS, reason="all allowed"),
    )
    record = jobs.find(desk.connection, job)
    assert (record.phase, record.outcome, record.reason, record.ended) == (
        Phase.DONE,
        Outcome.FAILURE,
        "exit status 1",
        130.0,
    )
    assert (record.outputs, record.steps, record.annotations, record.summary, record.allowed_to_fail) == (
        result.outputs,
        result.steps,
        result.annotations,
        "# no",
        True,
    )
    ended = runs.find(desk.connection, run)
    assert (ended.phase, ended.outcome, ended.reason, ended.ended) == (
        Phase.DONE,
        Outcome.SUCCESS,
        "all allowed",
        130.0,
    )
    assert desk.owed() == [(job, "job", "completed"), (None, "run", "completed")]


def test_every_phase_a_job_may_end_in_and_no_other(desk):
    """A job is brought into each phase, then ended: legal exactly where the table says so."""
    for phase in Phase:
        run = desk.plan(desk.new_run(desk.new_job()), delivery=f"to-{phase}")[0]
        job, epoch = desk.jobs(run)[0].id, 0
        if phase is Phase.QUEUED:
            desk.apply(run, QueueJob(job=job, now=1.0))
        if phase is Phase.RUNNING:
            job, epoch = desk.claimed(run)
        if phase is Phase.DONE:
            desk.apply(run, EndJob(job=job, epoch=0, result=LOST))
        assert jobs.find(desk.connection, job).phase is phase
        if Phase.DONE in PHASES[phase]:
            desk.apply(run, EndJob(job=job, epoch=epoch, result=LOST))
            assert jobs.find(desk.connection, job).phase is Phase.DONE
        else:
            with pytest.raises(IllegalTransition, match="is done and cannot become done"):
                desk.apply(run, EndJob(job=job, epoch=epoch, result=LOST))


def test_a_job_is_queued_once(desk):
    """Only a waiting job is queued: RUNNING goes back only by a retry."""
    run = desk.run_with(desk.new_job())
    job, _ = desk.claimed(run)
    with pytest.raises(IllegalTransition, match="is running and cannot be queued"):
        desk.apply(run, QueueJob(job=job, now=1.0))


def test_a_skipped_job(desk):
    """It is done without an attempt, with its reason, and reported as ended."""
    run = desk.run_with(desk.new_job())
    job = desk.jobs(run)[0].id
    desk.apply(run, SkipJob(job=job, reason="if: false"))
    record = jobs.find(desk.connection, job)
    assert (record.phase, record.outcome, record.reason, record.epoch) == (
        Phase.DONE,
        Outcome.SKIPPED,
        "if: false",
        0,
    )
    assert desk.owed() == [(job, "job", "completed")]


def test_expanding_gives_the_legs_their_place(desk):
    """The legs stand where the job stood, and each owes its first report."""
    run = desk.run_with(
        desk.new_job("a"), desk.new_job("b", leg=UNEXPANDED), desk.new_job("c", allowed_to_fail=True)
    )
    legs = tuple(desk.new_job("b", leg=n, legs=2, name=f"b ({n})", matrix={"n": n}) for n in range(2))
    desk.apply(run, ExpandJob(key="b", legs=legs))
    rows = desk.jobs(run)
    assert [row.name for row in rows] == ["a", "b (0)", "b (1)", "c"]
    assert [row.allowed_to_fail for row in rows] == [False, False, False, True]
    assert sorted(job for job, _, _ in desk.owed()) == sorted(row.id for row in rows)
    with pytest.raises(IllegalTransition, match="has its legs already"):
        desk.apply(run, ExpandJob(key="b", legs=legs))
    with pytest.raises(IllegalTransition, match="has its legs already"):
        desk.apply(run, ExpandJob(key="nope", legs=legs))


@pytest.mark.parametrize("legs", ["none", "of another job", "without number"])
def test_expanding_to_nonsense(desk, legs):
    """A job has at least one leg, and only legs of its own."""
    run = desk.run_with(desk.new_job("b", leg=UNEXPANDED))
    nonsense = {
        "none": (),
        "of another job": (desk.new_job("a"),),
        "without number": (desk.new_job("b", leg=UNEXPANDED),),
    }
    with pytest.raises(ValueError, match="at least one leg"):
        desk.apply(run, ExpandJob(key="b", legs=nonsense[legs]))


def test_an_unexpanded_job_can_end(desk):
    """A job may be skipped or fail before its legs are known; legs cannot follow."""
    run = desk.run_with(desk.new_job("b", leg=UNEXPANDED))
    desk.apply(run, SkipJob(job=desk.jobs(run)[0].id, reason="needs"))
    with pytest.raises(IllegalTransition, match="or has ended"):
        desk.apply(run, ExpandJob(key="b", legs=(desk.new_job("b"),)))
    desk.apply(run, EndRun(outcome=Outcome.SUCCESS))


def test_a_run_starts_once(desk):
    """Starting again changes nothing, so that it can be repeated."""
    run = desk.run_with(desk.new_job())
    desk.apply(run, StartRun())
    desk.now = 500.0
    desk.apply(run, StartRun())
    assert runs.find(desk.connection, run).started == 100.0


def test_a_run_ends_after_its_jobs(desk):
    """While a job is open the run cannot end; the name of the job is said."""
    run = desk.run_with(desk.new_job("a"), desk.new_job("b"))
    first, second = desk.jobs(run)
    desk.apply(run, SkipJob(job=first.id, reason=""))
    with pytest.raises(IllegalTransition, match="cannot end before its job b"):
        desk.apply(run, EndRun(outcome=Outcome.SUCCESS))
    desk.apply(run, SkipJob(job=second.id, reason=""), EndRun(outcome=Outcome.SUCCESS))


def test_nothing_changes_after_the_end(desk):
    """A run that has ended takes no change of any kind."""
    run = desk.run_with()
    desk.apply(run, EndRun(outcome=Outcome.SUCCESS))
    for change in (StartRun(), EndRun(outcome=Outcome.FAILURE), QueueJob(job=1, now=1.0)):
        with pytest.raises(IllegalTransition, match=f"run {run} has ended"):
            desk.apply(run, change)
    assert runs.find(desk.connection, run).outcome is Outcome.SUCCESS


def test_a_result_without_steps_leaves_those_recorded(desk):
    """A lost job keeps the steps that were seen to end."""
    run = desk.run_with(desk.new_job())
    job, epoch = desk.claimed(run)
    seen = StepResult(number=1, id="", name="A", outcome=Outcome.SUCCESS, conclusion=Outcome.SUCCESS)
    jobs.end_step(desk.connection, job, epoch, seen)
    desk.apply(run, EndJob(job=job, epoch=epoch, result=LOST))
    assert jobs.find(desk.connection, job).steps == (seen,)


def test_an_old_epoch_ends_nothing(desk):
    """The attempt before this one, and one that never was, are both refused (I6)."""
    run = desk.run_with(desk.new_job())
    job, epoch = desk.claimed(run)
    for wrong in (epoch - 1, epoch + 1):
        with pytest.raises(StaleEpoch, match=f"attempt {wrong} may not end it"):
            desk.apply(run, EndJob(job=job, epoch=wrong, result=LOST))


def test_jobs_of_other_runs_are_out_of_reach(desk):
    """A change names a job of its own run or it is refused."""
    run = desk.run_with(desk.new_job())
    other = desk.plan(desk.new_run(desk.new_job()), delivery="d2")[0]
    with pytest.raises(LookupError, match=f"belongs to run {other}"):
        desk.apply(run, SkipJob(job=desk.jobs(other)[0].id, reason=""))
    with pytest.raises(LookupError, match="no run 99"):
        desk.apply(99, StartRun())


def test_hostile_results_are_stored(desk):
    """Whatever text a job puts into its result, the job can end."""
    run = desk.run_with(desk.new_job())
    job, epoch = desk.claimed(run)
    result = JobResult(
        outcome=Outcome.FAILURE,
        reason="a\0\ud800",
        outputs={"x\ud800": "\0"},
        annotations=(Annotation(level="error", message="\udfff"),),
        summary="\x1b[2J\ud83d\0",
    )
    desk.apply(run, EndJob(job=job, epoch=epoch, result=result))
    record = jobs.find(desk.connection, job)
    assert (record.reason, record.outputs, record.summary) == ("a\ufffd?", {"x?": "\0"}, "\x1b[2J?\ufffd")
    assert record.annotations[0].message == "?"
