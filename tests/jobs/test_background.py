"""Steps beside the others, with real processes."""

from __future__ import annotations

import pytest
import trio

from runnerd.machines.driver import Exit
from runnerd.model import Outcome


def say_ends(bench) -> None:
    """Let the steps see when the job has recorded that one ended: as a file `ended-NUMBER`."""
    tell = bench.observer.step_ended

    async def note(result) -> None:
        await tell(result)
        await bench.machine.put(f"{bench.machine.paths.work}/hello/hello/ended-{result.number}", b"")

    bench.observer.step_ended = note


AFTER_1 = "until test -e ended-1; do sleep 0.02; done"


def outcomes(result) -> list[str]:
    return [str(step.conclusion) for step in result.steps]


async def test_a_background_step_does_not_hold_the_next(bench):
    """The step after it runs while it runs: here it ends only because of what that one does."""
    result = await bench.steps(
        """
        - id: slow
          background: true
          run: until test -e go; do sleep 0.02; done; echo gone
        - run: touch go
        - wait: slow
        """
    )
    assert (result.outcome, outcomes(result)) == (Outcome.SUCCESS, ["success"] * 3)
    assert bench.log.output(1) == ["gone"]


async def test_lines_stay_with_the_step_that_wrote_them(bench):
    """Two steps that write in turns have each its own lines, and the log knows who runs beside."""
    await bench.steps(
        """
        - background: true
          run: for n in 1 2 3; do until test -e b$n; do sleep 0.02; done; echo a$n; touch a$n; done
        - run: for n in 1 2 3; do echo b$n; touch b$n; until test -e a$n; do sleep 0.02; done; done
        """
    )
    assert bench.log.output(1) == ["a1", "a2", "a3"]
    assert bench.log.output(2) == ["b1", "b2", "b3"]
    assert bench.log.background == {1}


async def test_outputs_variables_and_paths_show_with_the_wait(bench):
    """Not before, although the step has long ended."""
    show = """
            echo "[${{ steps.a.outputs.x }}][${{ steps.a.outcome }}][$V]"
            case $PATH in /mine:*) echo found;; esac
    """.strip()
    say_ends(bench)
    await bench.steps(
        f"""
        - id: a
          background: true
          run: |
            echo x=1 >> $GITHUB_OUTPUT
            echo V=2 >> $GITHUB_ENV
            echo /mine >> $GITHUB_PATH
        - run: |
            {AFTER_1}
            {show}
        - wait: a
        - run: |
            {show}
        """
    )
    assert bench.log.output(2) == ["[][][]"]
    assert bench.log.output(4) == ["[1][success][2]", "found"]


async def test_steps_side_by_side_have_files_of_their_own(bench):
    """Each writes its own outputs."""
    await bench.steps(
        """
        - parallel:
          - id: a
            run: echo x=a >> $GITHUB_OUTPUT
          - id: b
            run: echo x=b >> $GITHUB_OUTPUT
        - run: echo ${{ steps.a.outputs.x }} ${{ steps.b.outputs.x }}
        """
    )
    assert bench.log.output(4) == ["a b"]


async def test_a_background_step_starts_with_what_was_known_then(bench):
    """A variable that a later step sets does not reach it."""
    await bench.steps(
        """
        - id: a
          background: true
          run: until test -e go; do sleep 0.02; done; echo "[$V]"
        - run: echo V=1 >> $GITHUB_ENV; touch go
        - wait: a
        """
    )
    assert bench.log.output(1) == ["[]"]


async def test_a_failure_shows_at_the_wait(bench):
    """Steps before the wait run as if nothing was; the wait fails, and what follows is skipped."""
    say_ends(bench)
    result = await bench.steps(
        f"""
        - id: bad
          background: true
          run: exit 4
        - run: {AFTER_1}
        - run: echo still running
        - wait: bad
        - run: echo never
        """
    )
    assert outcomes(result) == ["failure", "success", "success", "failure", "skipped"]
    assert result.outcome is Outcome.FAILURE
    assert "Run exit 4" in result.steps[3].reason


async def test_a_failure_nobody_waits_for_fails_the_job_in_the_end(bench):
    """The job does not end before its background steps do."""
    result = await bench.steps(
        "- background: true\n  run: sleep 0.2; exit 1\n- run: 'true'\n- if: failure()\n  run: echo never"
    )
    assert outcomes(result) == ["failure", "success", "skipped"]
    assert result.outcome is Outcome.FAILURE


async def test_a_forgiven_failure_does_not_fail_the_wait(bench):
    """`continue-on-error` of the background step is its conclusion, also to who waits."""
    result = await bench.steps(
        "- id: a\n  background: true\n  continue-on-error: true\n  run: exit 1\n- wait: a\n- run: 'true'"
    )
    assert (result.outcome, outcomes(result)) == (Outcome.SUCCESS, ["success"] * 3)


async def test_a_forgiven_wait_lets_steps_go_on_but_not_the_job_succeed(bench):
    """The wait's own conclusion is success; the step that failed still counts in the end."""
    result = await bench.steps(
        "- id: a\n  background: true\n  run: exit 1\n- wait: a\n  continue-on-error: true\n- run: echo on"
    )
    assert outcomes(result) == ["failure", "success", "success"]
    assert result.outcome is Outcome.FAILURE


async def test_wait_all_waits_for_what_is_left(bench):
    """It names whom it waits for; a second one has nobody to wait for."""
    await bench.steps(
        """
        - {background: true, name: One, run: sleep 0.1}
        - {background: true, name: Two, run: sleep 0.1}
        - wait-all:
        - wait-all:
        """
    )
    assert bench.log.steps[3] == ["Waiting for: One, Two", "  One: success", "  Two: success"]
    assert bench.log.steps[4] == ["There is no background step to wait for."]


async def test_waiting_for_a_step_in_the_foreground_waits_for_nothing(bench):
    """GitHub takes it."""
    result = await bench.steps("- id: a\n  run: 'true'\n- wait: a")
    assert result.outcome is Outcome.SUCCESS


async def test_control_steps_run_after_a_failure(bench):
    """They run always: what was started is stopped, whatever went wrong."""
    result = await bench.steps(
        """
        - {id: server, background: true, run: sleep 60}
        - run: exit 1
        - cancel: server
        """
    )
    assert outcomes(result) == ["cancelled", "failure", "success"]


async def test_a_cancelled_step_does_not_count_for_the_job(bench):
    """It is shown as cancelled and the job succeeds; its log says why it ended, without an error."""
    result = await bench.steps(
        """
        - {id: server, background: true, run: echo up; touch up; sleep 60}
        - run: until test -e up; do sleep 0.02; done
        - cancel: server
        - run: echo ${{ job.status }} ${{ steps.server.outcome }}
        """
    )
    assert (result.outcome, outcomes(result)) == (
        Outcome.SUCCESS,
        ["cancelled", "success", "success", "success"],
    )
    assert bench.log.output(1) == ["up", "The operation was canceled: a later step cancelled it."]
    assert bench.log.output(4) == ["success cancelled"]
    assert result.annotations == ()


async def test_a_wait_for_a_cancelled_step_is_cancelled_and_does_not_count(bench):
    """As at GitHub, where it takes over what it waited for."""
    result = await bench.steps(
        "- {id: a, background: true, run: sleep 60}\n- cancel: a\n- wait: a\n- run: echo on"
    )
    assert outcomes(result) == ["cancelled", "success", "cancelled", "success"]
    assert result.outcome is Outcome.SUCCESS


async def test_cancelling_a_step_that_failed_does_not_excuse_it(bench):
    """It had ended by itself."""
    say_ends(bench)
    result = await bench.steps(
        f"""
        - {{id: a, background: true, run: exit 1}}
        - run: {AFTER_1}
        - cancel: a
        """
    )
    assert outcomes(result) == ["failure", "success", "success"]
    assert result.outcome is Outcome.FAILURE


async def test_ten_run_at_once_and_the_others_queue(bench):
    """The eleventh begins when one has ended, and is told to nobody before."""
    hold = "until test -e go; do sleep 0.05; done"
    steps = [f"- {{background: true, name: s{n}, run: {hold}}}" for n in range(1, 12)]
    started: list[int] = []
    tell, ten = bench.observer.step_started, trio.Event()

    async def note(number: int, name: str) -> None:
        started.append(number)
        await tell(number, name)
        if len(started) == 11:  # ten of the background, and the step after them
            ten.set()

    bench.observer.step_started = note

    async def release() -> None:
        await ten.wait()
        assert sorted(started) == [*range(1, 11), 12]
        await bench.machine.put(bench.machine.paths.work + "/hello/hello/go", b"")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(release)
        result = await bench.steps("\n".join([*steps, f"- run: {hold}"]))
    assert result.outcome is Outcome.SUCCESS
    assert started.index(11) > 10


async def test_a_step_that_is_cancelled_in_the_queue_never_runs(bench):
    """It is shown as cancelled, and no process was made for it."""
    steps = [f"- {{background: true, id: s{n}, run: sleep 60}}" for n in range(11)]
    result = await bench.steps("\n".join([*steps, "- cancel: s10", *(f"- cancel: s{n}" for n in range(10))]))
    assert result.outcome is Outcome.SUCCESS
    assert outcomes(result)[10] == "cancelled"
    assert ("started", 11) not in [told[:2] for told in bench.observer.told]


async def test_an_observer_that_fails_over_a_step_in_the_queue_reaches_the_caller(bench):
    """Plainly, as over any other."""
    tell = bench.observer.step_ended

    async def stale(result) -> None:
        if result.number == 11:
            raise LookupError("another attempt took over")
        await tell(result)

    bench.observer.step_ended = stale
    steps = [f"- {{background: true, id: s{n}, run: sleep 60}}" for n in range(11)]
    with pytest.raises(LookupError, match="another attempt"):
        await bench.steps("\n".join([*steps, "- cancel: s10", "- run: sleep 60"]))


async def test_a_background_step_has_its_own_time(bench):
    """`timeout-minutes` ends it alone, and the wait fails."""
    result = await bench.steps(
        "- {id: a, background: true, timeout-minutes: 0.005, run: sleep 60}\n- run: echo on\n- wait: a"
    )
    assert [str(step.outcome) for step in result.steps] == ["timed_out", "success", "failure"]


async def test_a_skipped_background_step_is_not_waited_for(bench):
    """Its `if` is asked when its turn comes."""
    result = await bench.steps("- {id: a, background: true, if: false, run: sleep 60}\n- wait: a")
    assert (result.outcome, outcomes(result)) == (Outcome.SUCCESS, ["skipped", "success"])


async def test_a_group_with_an_if_that_does_not_hold_is_skipped(bench):
    """All its steps, with the reason; steps with an `if` of their own too."""
    result = await bench.steps(
        """
        - if: github.ref == 'nowhere'
          parallel:
          - run: echo never
          - if: always()
            run: echo never
        """
    )
    assert outcomes(result) == ["skipped", "skipped", "success"]
    assert "its group" in result.steps[0].reason


async def test_cancelling_the_job_stops_background_steps(bench):
    """Those whose `if` holds for a cancelled job go on, and later `always()` steps run."""

    async def cancel_soon() -> None:
        await bench.log.wait_for("begun")
        bench.cancel.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel_soon)
        result = await bench.steps(
            """
            - {background: true, run: sleep 60}
            - background: true
              if: always()
              run: until test -e go; do sleep 0.02; done; echo cleaned
            - run: echo beg''un; sleep 60
            - {if: always(), run: touch go}
            - wait-all:
            - {if: always(), run: echo last}
            """
        )
    assert result.outcome is Outcome.CANCELLED
    assert [str(step.outcome) for step in result.steps] == [
        "cancelled",
        "success",
        "cancelled",
        "success",
        "cancelled",
        "success",
    ]
    assert bench.log.output(2) == ["cleaned"]


async def test_a_machine_lost_under_background_steps_ends_the_job(bench):
    """As lost, said once, however many steps saw it."""
    bench.machine.ends = [bench.machine.lose("its kernel panicked")]
    result = await bench.steps(
        "- {background: true, run: a}\n- {background: true, run: sleep 60}\n- wait-all:"
    )
    assert (result.outcome, result.reason) == (Outcome.LOST, "the machine was lost: its kernel panicked")
    assert bench.log.text().count("kernel panicked") == 1


async def test_a_missing_exit_status_beside_ends_the_job(bench):
    """A background process whose end nobody reported is our error, and no success."""
    bench.machine.ends = [Exit()]
    result = await bench.steps("- {background: true, run: a}\n- wait-all:\n- if: always()\n  run: echo no")
    assert result.outcome is Outcome.INFRA_ERROR


async def test_what_the_observer_raises_about_a_background_step_reaches_the_caller(bench):
    """Plainly, in no group, and nothing keeps running."""

    async def stale(result) -> None:
        raise LookupError("another attempt took over")

    bench.observer.step_ended = stale
    with pytest.raises(LookupError, match="another attempt"):
        await bench.steps("- {background: true, run: 'true'}\n- run: sleep 60")
