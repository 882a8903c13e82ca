"""Whole jobs, with real processes."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import msgspec
import pytest
import trio

from runnerd.git.checkout import MirrorCheckout
from runnerd.git.mirror import Mirrors
from runnerd.jobs.runner import run_job
from runnerd.jobs.spec import JobLimits
from runnerd.machines.driver import Exit, Size
from runnerd.machines.process import open_process_driver
from runnerd.model import Outcome
from runnerd.store.logs import JobLog


async def test_steps_run_in_order_and_the_job_succeeds(bench):
    """Each step's output is in its part of the log, and the result has every step."""
    result = await bench.steps(
        """
        - run: echo one
        - name: Second
          run: echo two
        """
    )
    assert result.outcome is Outcome.SUCCESS
    assert bench.log.output(1) == ["one"]
    assert bench.log.output(2) == ["two"]
    assert [(s.number, s.name, s.outcome, s.exit_code) for s in result.steps] == [
        (1, "Run echo one", Outcome.SUCCESS, 0),
        (2, "Second", Outcome.SUCCESS, 0),
    ]


async def test_what_is_not_done_as_written_is_said_at_the_head_of_the_log(bench):
    """What the file asks for and this version leaves out is a warning with its place."""
    environment = "{name: 'prod-${{ github.ref_name }}', url: 'https://${{ steps.s.outputs.host }}'}"
    steps = "[{id: s, run: 'echo host=example.com >> $GITHUB_OUTPUT'}]"
    await bench.run(f"on: push\njobs: {{a: {{runs-on: x, environment: {environment}, steps: {steps}}}}}")
    said = [line for lines in bench.log.steps.values() for line in lines]
    assert "Environment: prod-main" in said
    assert "Environment's address: https://example.com" in said
    (warning,) = [line for line in bench.log.output(0) if line.startswith("##[warning]")]
    assert ".github/workflows/ci.yml:2:" in warning


async def test_a_failing_step_fails_the_job_and_skips_the_rest(bench):
    """The exit status is in the log and the result; `failure()` and `always()` steps still run."""
    result = await bench.steps(
        """
        - run: exit 3
        - run: echo never
        - if: failure()
          run: echo after a failure
        - if: always()
          run: echo always
        - if: cancelled()
          run: echo never
        """
    )
    assert result.outcome is Outcome.FAILURE
    assert result.reason == "the step 'Run exit 3' failed: Process completed with exit code 3."
    outcomes = [str(s.outcome) for s in result.steps]
    assert outcomes == ["failure", "skipped", "success", "success", "skipped"]
    assert result.steps[1].reason == "an earlier step failed"
    assert bench.log.output(1) == ["##[error]Process completed with exit code 3."]
    assert result.annotations[0].message == "Process completed with exit code 3."


async def test_a_command_that_fails_ends_the_step(bench):
    """Unlike a plain `sh -c`, a failing line in the middle is a failure."""
    result = await bench.steps(
        """
        - run: |
            false
            echo not reached
        """
    )
    assert result.outcome is Outcome.FAILURE
    assert "not reached" not in bench.log.output(1)


async def test_continue_on_error_splits_outcome_and_conclusion(bench):
    """The step's outcome is failure, its conclusion success, and the job goes on green."""
    result = await bench.steps(
        """
        - id: flaky
          run: exit 1
          continue-on-error: true
        - run: echo "${{ steps.flaky.outcome }} ${{ steps.flaky.conclusion }} ${{ job.status }}"
        - id: expression
          run: exit 1
          continue-on-error: ${{ 1 == 1 }}
        """
    )
    assert result.outcome is Outcome.SUCCESS
    assert bench.log.output(2) == ["failure success success"]
    assert (result.steps[2].outcome, result.steps[2].conclusion) == (Outcome.FAILURE, Outcome.SUCCESS)


async def test_a_job_without_steps_never_succeeds(bench):
    """What nothing was run of is a startup failure."""
    spec = bench.spec("on: push\njobs:\n  one:\n    runs-on: x\n    steps: [{run: 'true'}]\n")
    empty = msgspec.structs.replace(spec, job=msgspec.structs.replace(spec.job, steps=()))
    result = await bench.run_spec(empty)
    assert (result.outcome, result.reason) == (Outcome.STARTUP_FAILURE, "the job has no steps")


async def test_what_cannot_be_had_yet_is_said_and_never_green(bench):
    """A job in a container is refused before anything of it runs."""
    result = await bench.steps("- run: echo hi", head="container: node:20")
    assert result.outcome is Outcome.STARTUP_FAILURE
    assert "`container`" in result.reason
    assert bench.machine.calls == {}


async def test_an_action_that_cannot_be_run_fails_its_step(bench):
    """The sentence names the action; the step before it ran."""
    result = await bench.steps(
        """
        - run: echo hi
        - uses: actions/setup-node@v4
        """
    )
    assert result.outcome is Outcome.FAILURE
    assert "actions/setup-node@v4 cannot be run yet" in result.steps[1].reason


async def test_a_bad_expression_in_the_jobs_env_is_a_startup_failure(bench):
    """Nothing is started with an environment that could not be worked out."""
    result = await bench.steps("- run: echo hi", head="env:\n  A: ${{ fromJSON('{') }}")
    assert result.outcome is Outcome.STARTUP_FAILURE
    assert bench.machine.calls == {}


async def test_a_lost_machine_is_told_apart_from_a_failure(bench):
    """The job ends as lost, with the machine's own reason; later steps are not run."""
    bench.machine.ends = [bench.machine.lose("its kernel panicked")]
    result = await bench.steps(
        """
        - run: echo hi
        - if: always()
          run: echo no
        """
    )
    assert (result.outcome, result.reason) == (Outcome.LOST, "the machine was lost: its kernel panicked")
    assert [s.outcome for s in result.steps] == [Outcome.LOST, Outcome.SKIPPED]
    assert "The machine was lost: its kernel panicked" in bench.log.text()


async def test_a_missing_exit_status_is_our_error(bench):
    """A process whose end nobody reported is neither success nor failure."""
    bench.machine.ends = [Exit()]
    result = await bench.steps("- run: echo hi\n- run: echo no")
    assert result.outcome is Outcome.INFRA_ERROR
    assert [s.outcome for s in result.steps] == [Outcome.INFRA_ERROR, Outcome.SKIPPED]


async def test_a_signal_is_a_failure_with_its_name(bench):
    """A step that was killed says by what."""
    result = await bench.steps("- run: kill -SEGV $$")
    assert result.steps[0].reason == "Process was ended by SIGSEGV (11)."
    assert (result.outcome, result.steps[0].exit_code) == (Outcome.FAILURE, None)


async def test_running_out_of_memory_is_said(bench):
    """What the kernel did is in the log beside the exit status."""
    bench.machine.ends = [Exit(code=137, out_of_memory=True)]
    result = await bench.steps("- run: echo hi")
    assert "ran out of memory" in result.annotations[0].message
    assert "ran out of memory" in result.reason
    assert result.steps[0].exit_code == 137


async def test_cancelling_stops_the_step_and_lets_clean_up_run(bench):
    """The running step is stopped; `always()` and `cancelled()` steps run, the others do not."""

    async def cancel_soon() -> None:
        await bench.log.wait_for("begun")
        bench.cancel.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel_soon)
        result = await bench.steps(
            """
            - run: echo begun; sleep 60
            - run: echo never
            - if: cancelled()
              run: echo "cancelled ${{ job.status }}"
            - if: failure()
              run: echo never
            - if: always()
              run: echo always
            """
        )
    assert (result.outcome, result.reason) == (Outcome.CANCELLED, "the job was cancelled")
    assert [str(s.outcome) for s in result.steps] == ["cancelled", "skipped", "success", "skipped", "success"]
    assert bench.log.output(3) == ["cancelled cancelled"]


async def test_a_running_always_step_is_not_stopped_by_a_cancellation(bench):
    """Its `if` is asked again, and holds for a cancelled job too."""

    async def cancel_soon() -> None:
        await bench.log.wait_for("begun")
        bench.cancel.set()
        await trio.sleep(0.3)
        await bench.machine.put(bench.machine.paths.work + "/hello/hello/go", b"")

    run = "echo beg''un; until test -e go; do sleep 0.02; done; echo done"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel_soon)
        result = await bench.steps(f"- if: always()\n  name: x\n  run: {run}")
    assert bench.log.output(1)[-1] == "done"
    assert (result.outcome, result.steps[0].outcome) == (Outcome.CANCELLED, Outcome.SUCCESS)


async def test_a_job_cancelled_before_it_began_does_nothing(bench):
    """The machine is not touched."""
    bench.cancel.set()
    result = await bench.steps("- run: echo hi")
    assert result.outcome is Outcome.CANCELLED
    assert bench.machine.calls == {}


async def test_the_observer_hears_of_every_step(bench):
    """Started and ended, in order; a skipped step only ends."""
    await bench.steps("- run: 'true'\n- if: false\n  run: 'true'")
    assert bench.observer.told == [
        ("started", 1, "Run true"),
        ("ended", 1, "success"),
        ("ended", 2, "skipped"),
    ]


async def test_what_the_observer_raises_reaches_the_caller_plainly(bench):
    """A stale attempt is stopped by its ledger; its error comes out in no group."""

    async def stale(number: int, name: str) -> None:
        raise LookupError("another attempt took over")

    bench.observer.step_started = stale
    with pytest.raises(LookupError, match="another attempt"):
        await bench.steps("- run: echo hi")


async def test_outputs_of_steps_become_outputs_of_the_job(bench):
    """Through GITHUB_OUTPUT and the `steps` context; empty ones are left out."""
    result = await bench.steps(
        """
        - id: a
          run: |
            echo version=1.2 >> "$GITHUB_OUTPUT"
            printf 'text<<E\\nline 1\\nline 2\\nE\\n' >> "$GITHUB_OUTPUT"
        """,
        head="""
        outputs:
          v: ${{ steps.a.outputs.version }}
          t: ${{ steps.a.outputs.text }}
          n: ${{ steps.b.outputs.x }}
        """,
    )
    assert result.outputs == {"v": "1.2", "t": "line 1\nline 2"}


async def test_an_output_that_holds_a_secret_is_dropped(bench):
    """The warning names the output, never the value."""
    result = await bench.steps(
        '- id: a\n  run: echo "x=token-${{ secrets.KEY }}" >> "$GITHUB_OUTPUT"',
        head="outputs:\n  x: ${{ steps.a.outputs.x }}\n  y: fine",
        secrets={"KEY": "hunter2secret"},
    )
    assert result.outputs == {"y": "fine"}
    assert "hunter2secret" not in bench.log.text() + repr(result)
    assert any("'x' was dropped" in note.message for note in result.annotations)


async def test_outputs_too_large_together_fail_the_job(bench):
    """They are not stored, and the job says why."""
    result = await bench.steps(
        "- id: a\n  run: printf 'x=%0200d' 1 >> \"$GITHUB_OUTPUT\"",
        head="outputs:\n  x: ${{ steps.a.outputs.x }}",
        limits=JobLimits(outputs=100),
    )
    assert (result.outcome, result.outputs) == (Outcome.FAILURE, {})


async def test_a_secret_appears_nowhere(bench):
    """Not in the log, the environment shown, a step's name, a reason, an annotation or the summary."""
    result = await bench.steps(
        """
        - name: use ${{ secrets.KEY }}
          env:
            TOKEN: ${{ secrets.KEY }}
          run: |
            echo "$TOKEN"
            printf %s "$TOKEN" | base64
            echo "::error title=$TOKEN,file=$TOKEN::bad $TOKEN"
            echo "$TOKEN" >> "$GITHUB_STEP_SUMMARY"
        - name: ${{ env.NONE }}
          run: cat ${{ secrets.KEY }}
        """,
        secrets={"KEY": "hunter2secret"},
    )
    everything = bench.log.text() + repr(result) + repr(bench.observer.told)
    assert "hunter2secret" not in everything
    assert "aHVudGVyMnNlY3JldA" not in everything
    assert result.summary == "***\n"
    assert bench.log.output(1)[:3] == ["***", "***==", "##[error]bad ***"]


async def test_a_short_secret_is_warned_of(bench):
    """It is masked, and the log says what that costs."""
    await bench.steps("- run: echo ab1", secrets={"PIN": "ab1"})
    assert "The secret PIN has fewer than 4 characters" in bench.log.text()
    assert bench.log.output(1) == ["***"]


async def test_the_head_of_the_log_says_where_the_job_runs(bench):
    """Machine, image, labels, boot id and machine id; and that nothing isolates it."""
    await bench.steps("- run: 'true'")
    head = "\n".join(bench.log.steps[0])
    for text in ("machine-1, image default", "ubuntu-latest", "boot-1", "id-1", "Isolation: none"):
        assert text in head


async def test_a_step_costs_three_round_trips(bench):
    """Script in, run, files back: one put, one exec and the reads that go together."""
    await bench.steps("- run: 'true'\n- run: 'true'")
    # The job itself: the event's file, and one command that makes folders and files.
    assert bench.machine.calls == {"put": 1 + 2, "lay_out": 1, "exec": 2, "get_all": 2}


async def test_many_steps_with_summaries_are_cut_visibly(bench):
    """The summaries are joined up to the limit, and the cut is said."""
    result = await bench.steps(
        "- run: printf '%0600d' 0 >> $GITHUB_STEP_SUMMARY\n- run: printf '%0600d' 0 >> $GITHUB_STEP_SUMMARY",
        limits=JobLimits(summary=1000),
    )
    assert len(result.summary) == 1000
    assert "cut here" in result.summary


async def test_a_machine_that_cannot_be_prepared_is_our_error(bench):
    """When the folders cannot be made, no step is blamed."""

    async def refuse(path: str, data: bytes, **_: object) -> None:
        raise OSError("No space left on device")

    bench.machine.put = refuse
    result = await bench.steps("- run: echo hi")
    assert result.outcome is Outcome.INFRA_ERROR
    assert "No space left on device" in result.reason


async def test_a_job_in_a_machine_with_an_agent(bench, tmp_path):
    """The whole chain: an agent's machine, a mirror's checkout, a log on disk."""
    origin = tmp_path / "origin"
    sha = _repository(origin)
    folders = [tmp_path / name for name in ("machines", "mirrors", "scratch")]
    for folder in folders:
        os.mkdir(folder)
    async with (
        open_process_driver(root=folders[0]) as driver,
        Mirrors(folders[1], remote_of=lambda name: str(origin)) as mirrors,
        JobLog(tmp_path / "job.log", 1 << 20, 1 << 20, time.time) as log,
    ):
        machine = await driver.clone(await driver.build_template("default", Size()))
        await machine.thaw()
        await machine.lease()
        spec = bench.spec(
            """
on: push
jobs:
  one:
    runs-on: x
    steps:
      - uses: actions/checkout@v4
      - run: git status --porcelain --branch; git log --format=%s; cat greeting
      - run: echo ${{ hashFiles('greeting') }}; sleep 60 & echo left something running
      - run: exit 7
"""
        )
        github = {**spec.contexts["github"], "sha": sha}
        result = await run_job(
            msgspec.structs.replace(spec, contexts={**spec.contexts, "github": github}),
            machine,
            checkout=MirrorCheckout(mirrors, folders[2]),
            log=log,
            observer=bench.observer,
            secrets={"WORD": "hello"},
            cancel=trio.Event(),
        )
        await machine.destroy()
    assert [step.exit_code for step in result.steps] == [None, 0, 0, 7]
    assert (result.outcome, result.steps[0].outcome) == (Outcome.FAILURE, Outcome.SUCCESS)
    lines = [line.partition(" ")[2] for line in _text(tmp_path / "job.log").splitlines()]
    at = lines.index("## main...origin/main")
    assert lines[at + 1 : at + 3] == ["first", "*** world"]
    assert "left something running" in lines


def _repository(folder: Path) -> str:
    os.mkdir(folder)
    (folder / "greeting").write_text("hello world\n")
    identity = ("-c", "user.name=octo", "-c", "user.email=octo@example.com")
    for arguments in (
        ("init", "-q", "-b", "main"),
        ("add", "-A"),
        (*identity, "commit", "-q", "-m", "first"),
    ):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    out = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True)
    return out.stdout.strip()


def _text(path: Path) -> str:
    return path.read_text()
