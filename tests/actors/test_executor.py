"""The executor: real ledger, real workflow texts, machines in memory behind a real pool."""

from functools import partial

from runnerd.machines.fake import DiesAtExec, DiesAtLayOut, Replies, Reply, Succeeds
from runnerd.model import Outcome

from .conftest import ONE_JOB, flow, refuse_machines


async def test_a_run_goes_from_its_first_job_to_its_terminal_report(world):
    """One job in one machine: steps, identity, outcome and the reports of both job and run."""
    await world.machines()
    await world.executor()
    run, jobs = await world.go(ONE_JOB)
    job = jobs["build"]
    assert (run.outcome, job.outcome, job.epoch) == (Outcome.SUCCESS, Outcome.SUCCESS, 1)
    assert [(step.name, step.exit_code) for step in job.steps] == [("Run make", 0)]
    assert (job.machine, job.labels) == ("fake-1", ("ubuntu-latest",))
    assert job.boot_id
    assert job.machine_id
    assert await world.reports(run.id) == [("job", job.id), ("run", None)]
    await world.no_machine_left()


async def test_outputs_reach_the_jobs_that_need_them(world):
    """A job starts after what it needs, and its matrix, name and condition see the outputs of it."""
    await world.machines(
        Replies([("make list", Reply(writes={"GITHUB_OUTPUT": b'legs=["x","y"]\nword=hello\n'}))])
    )
    await world.executor()
    run, jobs = await world.go(
        flow(
            first="outputs: {legs: '${{ steps.l.outputs.legs }}', word: '${{ steps.l.outputs.word }}'}, "
            "steps: [{id: l, run: make list}]",
            then="needs: first, if: needs.first.outputs.word == 'hello', "
            "strategy: {matrix: {leg: '${{ fromJSON(needs.first.outputs.legs) }}'}}, "
            "steps: [{run: 'echo ${{ needs.first.outputs.word }} ${{ matrix.leg }} "
            "${{ strategy.job-index }}'}]",
            never="needs: first, if: needs.first.outputs.word == 'other'",
        )
    )
    assert run.outcome is Outcome.SUCCESS
    assert {name: job.outcome.value for name, job in jobs.items()} == {
        "first": "success",
        "then (x)": "success",
        "then (y)": "success",
        "never": "skipped",
    }
    assert jobs["first"].outputs == {"legs": '["x","y"]', "word": "hello"}
    assert jobs["then (y)"].steps[0].name == "Run echo hello y 1"
    assert "`if` is false" in jobs["never"].reason


async def test_a_failed_leg_stops_the_others_and_those_who_need_it(world):
    """Fail-fast: legs that run or wait are cancelled, the job that needs them is skipped, the run failed."""
    await world.machines(Replies([("exit 1", Reply(code=1)), ("sleep", Reply(seconds=60))]))
    await world.executor()
    run, jobs = await world.go(
        flow(
            legs="strategy: {max-parallel: 2, matrix: {do: [sleep 1, exit 1, sleep 2, sleep 3]}}, "
            "steps: [{run: '${{ matrix.do }}'}]",
            after="needs: legs",
        )
    )
    assert run.outcome is Outcome.FAILURE
    outcomes = {name: job.outcome.value for name, job in jobs.items()}
    assert outcomes == {
        "legs (sleep 1)": "cancelled",
        "legs (exit 1)": "failure",
        "legs (sleep 2)": "cancelled",
        "legs (sleep 3)": "cancelled",
        "after": "skipped",
    }
    assert "fail-fast" in jobs["legs (sleep 3)"].reason
    assert jobs["legs (sleep 3)"].machine == ""
    await world.no_machine_left()


async def test_a_job_that_may_fail_does_not_spoil_the_run(world):
    """With `continue-on-error` the job says failure, and the run and who needs it go on."""
    await world.machines(Replies([("exit 1", Reply(code=1))]))
    await world.executor()
    run, jobs = await world.go(
        flow(shaky="continue-on-error: true, steps: [{run: exit 1}]", after="needs: shaky")
    )
    assert run.outcome is Outcome.SUCCESS
    assert jobs["shaky"].outcome is Outcome.FAILURE
    assert jobs["after"].outcome is Outcome.SUCCESS


async def test_unclaimed_labels_are_a_startup_failure(world):
    """Where every job is ours, one whose labels no image claims says so, and needs no machine."""
    await world.machines()
    world.host.foreign_is_failure = True
    await world.executor()
    run, jobs = await world.go(flow(a="runs-on: [windows, big]"))
    assert run.outcome is Outcome.STARTUP_FAILURE
    assert jobs["a"].reason == "no image claims the labels windows, big: see [images] in config.toml"
    assert world.driver.made == 0


async def test_legs_that_are_not_ours_are_left_out(world):
    """Of a matrix that is partly ours only our legs are written down and run."""
    await world.machines()
    await world.executor()
    run, jobs = await world.go(
        flow(all="strategy: {matrix: {os: [ubuntu-latest, windows-latest]}}, runs-on: '${{ matrix.os }}'")
    )
    assert run.outcome is Outcome.SUCCESS
    assert list(jobs) == ["all (ubuntu-latest)"]


async def test_labels_that_turn_out_to_be_nobodys_are_told(world):
    """A job whose labels come from another job's output is ours to fail when nobody claims them."""
    await world.machines(Replies([("pick", Reply(writes={"GITHUB_OUTPUT": b"os=plan9\n"}))]))
    await world.executor()
    run, jobs = await world.go(
        flow(
            pick="outputs: {os: '${{ steps.p.outputs.os }}'}, steps: [{id: p, run: pick}]",
            on="needs: pick, runs-on: '${{ needs.pick.outputs.os }}'",
        )
    )
    assert run.outcome is Outcome.STARTUP_FAILURE
    assert jobs["on"].reason.startswith("no image claims the labels plan9")


async def test_no_machine_is_an_infrastructure_error(world):
    """What keeps machines from being made is the job's reason; it is not tried again."""
    scope, _ = await world.background(partial(refuse_machines, world.pool))
    await world.executor()
    run, jobs = await world.go(ONE_JOB)
    assert run.outcome is Outcome.INFRA_ERROR
    assert (jobs["build"].outcome, jobs["build"].reason) == (Outcome.INFRA_ERROR, "the image is gone")
    assert jobs["build"].epoch == 0
    scope.cancel()


async def test_a_machine_that_dies_before_a_step_is_replaced_twice(world):
    """Three attempts in three machines; then the job is lost and says what happened to the last."""
    await world.machines(DiesAtLayOut("its kernel panicked"))
    await world.executor()
    run, jobs = await world.go(ONE_JOB)
    assert run.outcome is Outcome.LOST
    assert (jobs["build"].epoch, world.driver.made) == (3, 3)
    assert "its kernel panicked" in jobs["build"].reason
    await world.no_machine_left()


async def test_a_replaced_machine_may_do(world):
    """The attempt after a lost one runs as if nothing had been."""
    await world.machines(DiesAtLayOut(), Succeeds())
    await world.executor()
    run, jobs = await world.go(ONE_JOB)
    assert run.outcome is Outcome.SUCCESS
    assert (jobs["build"].epoch, jobs["build"].machine, jobs["build"].reason) == (2, "fake-2", "")


async def test_a_machine_that_dies_in_a_step_is_not_replaced(world):
    """A step had started and may have had effects: the job is lost at once."""
    await world.machines(DiesAtExec())
    await world.executor()
    run, jobs = await world.go(ONE_JOB)
    assert run.outcome is Outcome.LOST
    assert (jobs["build"].epoch, world.driver.made) == (1, 1)
    assert jobs["build"].steps[0].outcome is Outcome.LOST
