"""One step's turn, as the job and its observer see it."""

from __future__ import annotations

import pytest
import trio

from runnerd.model import Outcome


async def test_the_log_is_told_when_a_step_is_over(bench):
    """Whatever the step logged is written by then; a skipped step never began."""
    await bench.steps("- run: exit 1\n- run: echo never")
    assert bench.log.ended == [1]


async def test_a_step_that_is_skipped_says_why(bench):
    """Its own `if`, or what went wrong before it."""
    result = await bench.steps(
        "- if: 1 == 2\n  run: x\n- run: exit 1\n- run: x\n- if: ${{ false }}\n  run: x"
    )
    assert [step.reason for step in result.steps if step.outcome is Outcome.SKIPPED] == [
        "its `if` does not hold: 1 == 2",
        "an earlier step failed",
        "its `if` does not hold: ${{ false }}",
    ]


async def test_an_end_is_recorded_although_the_daemon_stops(bench):
    """The observer hears of a step that was running when the task was cancelled."""
    async with trio.open_nursery() as nursery:

        async def stop() -> None:
            await bench.log.wait_for("begun")
            nursery.cancel_scope.cancel()

        nursery.start_soon(stop)
        await bench.steps("- name: x\n  run: echo beg''un; sleep 60")
    assert bench.observer.told[-1] == ("ended", 1, "cancelled")
    assert bench.log.ended == [1]


async def test_a_condition_that_cannot_be_evaluated_fails_the_step(bench):
    """It is shown as begun and failed, with the expression's own error."""
    result = await bench.steps("- if: fromJSON('{')\n  run: echo never")
    assert result.steps[0].outcome is Outcome.FAILURE
    assert "`if` cannot be evaluated" in result.steps[0].reason


async def test_a_time_that_is_no_number_fails_the_step(bench):
    """Nothing is run without the bound that was asked for."""
    result = await bench.steps("- timeout-minutes: ${{ 'soon' }}\n  run: echo never")
    assert "`timeout-minutes` is not a number" in result.steps[0].reason
    assert bench.machine.calls["exec"] == 0


async def test_a_forgiveness_that_cannot_be_evaluated_forgives_nothing(bench):
    """The step stays failed, and the log says what was wrong with `continue-on-error`."""
    result = await bench.steps("- continue-on-error: ${{ fromJSON('{') }}\n  run: exit 1")
    assert result.outcome is Outcome.FAILURE
    assert "`continue-on-error` cannot be evaluated" in bench.log.text()


@pytest.mark.parametrize(
    "given",
    [{"secrets": {"ACTIONS_STEP_DEBUG": "true"}}, {"contexts": {"vars": {"ACTIONS_STEP_DEBUG": "true"}}}],
)
async def test_a_secret_or_a_variable_switches_debugging_on(bench, given):
    """`::debug::` is shown, RUNNER_DEBUG is set, commands are echoed, and each `if` says what it came to."""
    await bench.steps(
        """
        - run: echo "::debug::RUNNER_DEBUG is $RUNNER_DEBUG"
        - if: github.ref == 'nowhere'
          run: echo never
        """,
        **given,
    )
    assert "##[debug]RUNNER_DEBUG is 1" in bench.log.output(1)
    assert "##[debug]Evaluating: github.ref == 'nowhere'" in bench.log.steps[2]
    assert bench.log.steps[2][-1] == "##[debug]Result: false"


async def test_without_debugging_nothing_is_said_of_it(bench):
    """RUNNER_DEBUG is not there at all."""
    await bench.steps('- if: always()\n  run: echo "::debug::x"; echo "[${RUNNER_DEBUG-unset}]"')
    assert bench.log.output(1) == ["[unset]"]
