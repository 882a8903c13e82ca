"""The limits of time on a job and its steps: real processes, and a clock that is moved on once they run."""

import trio

from runnerd.model import Outcome


async def pass_on(bench, clock, line, minutes):
    """Once a line is logged, so many minutes pass; else time runs as usual."""
    clock.rate = 1
    await bench.log.wait_for(line)
    clock.jump(60 * minutes)


async def test_a_step_that_takes_too_long_is_stopped(bench, nursery, mock_clock):
    """`timeout-minutes` ends the step as timed out, fails the job, and later steps see a failure."""
    nursery.start_soon(pass_on, bench, mock_clock, "begun", 5)
    result = await bench.steps(
        """
        - id: slow
          run: echo begun; sleep 600
          timeout-minutes: 5
        - if: failure()
          run: echo "${{ steps.slow.outcome }}"
        """
    )
    assert (result.outcome, result.steps[0].outcome) == (Outcome.FAILURE, Outcome.TIMED_OUT)
    assert bench.log.output(1)[0] == "begun"
    assert bench.log.output(2) == ["failure"]


async def test_a_timed_out_step_may_be_forgiven(bench, nursery, mock_clock):
    """`continue-on-error` covers a time-out too, and a limit may be a fraction of a minute."""
    nursery.start_soon(pass_on, bench, mock_clock, "begun", 0.5)
    result = await bench.steps(
        "- run: echo begun; sleep 600\n  timeout-minutes: 0.5\n  continue-on-error: true"
    )
    assert (result.outcome, result.steps[0].outcome) == (Outcome.SUCCESS, Outcome.TIMED_OUT)


async def test_a_job_that_takes_too_long_is_timed_out(bench, nursery, mock_clock):
    """The job's own limit stops the running step; always() steps still run."""
    nursery.start_soon(pass_on, bench, mock_clock, "begun", 7)
    result = await bench.steps(
        """
        - run: echo begun; sleep 600
        - run: echo never
        - if: always()
          run: echo cleaned up
        """,
        head="timeout-minutes: ${{ 7 }}",
    )
    assert result.outcome is Outcome.TIMED_OUT
    assert "longer than 7 minutes" in result.reason
    assert [str(s.outcome) for s in result.steps] == ["cancelled", "skipped", "success"]
    assert bench.log.output(3) == ["cleaned up"]


async def test_a_machine_that_hangs_is_named_once_the_time_is_over(bench, nursery, mock_clock):
    """The job timed out, its reason says that its machine was lost, and the log how its console ended."""

    async def hung(limits):
        raise bench.machine.lose("the agent did not answer")

    bench.machine.get_all = hung
    bench.machine.console = ("reboot: System halted",)
    nursery.start_soon(pass_on, bench, mock_clock, "begun", 7)
    result = await bench.steps("- run: echo begun; sleep 600", head="timeout-minutes: 7")
    assert (result.outcome, result.steps[0].outcome) == (Outcome.TIMED_OUT, Outcome.LOST)
    assert result.reason == (
        "the job took longer than 7 minutes; the machine was lost: the agent did not answer "
        "(the end of the machine's console is in the job's log)"
    )
    assert "| reboot: System halted" in bench.log.text().splitlines()


async def test_clean_up_ends_with_the_time_for_it(bench, nursery, mock_clock):
    """Steps after a cancellation are stopped when `cancel-timeout-minutes` are over."""
    mock_clock.rate = 1

    async def cancel_soon() -> None:
        await bench.log.wait_for("begun")
        bench.cancel.set()
        await pass_on(bench, mock_clock, "cleaning", 3)

    nursery.start_soon(cancel_soon)
    result = await bench.steps(
        """
        - run: echo begun; sleep 600
        - if: always()
          run: echo cleaning; sleep 600
        - if: always()
          run: echo never
        """,
        head="cancel-timeout-minutes: 3",
    )
    assert [str(s.outcome) for s in result.steps] == ["cancelled", "cancelled", "skipped"]
    assert result.outcome is Outcome.CANCELLED


async def test_cancelling_the_task_stops_the_process_and_tells_the_observer(bench):
    """When the daemon itself stops, Cancelled leaves after the step was ended and recorded."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.steps, "- run: echo begun; sleep 600")
        await bench.log.wait_for("begun")
        nursery.cancel_scope.cancel()
    assert bench.result is None
    assert bench.observer.told == [("started", 1, "Run echo begun; sleep 600"), ("ended", 1, "cancelled")]
