"""What a step writes to its files."""

from __future__ import annotations

import pytest

from runnerd.jobs.collection import environment_size
from runnerd.jobs.spec import JobLimits
from runnerd.model import Outcome


async def test_variables_and_paths_reach_later_steps(bench):
    """GITHUB_ENV and GITHUB_PATH act from the next step on, the last path first."""
    await bench.steps(
        """
        - run: |
            echo WHO=world >> "$GITHUB_ENV"
            printf 'MANY<<EOF\\na\\nb\\nEOF\\n' >> "$GITHUB_ENV"
            mkdir -p "$RUNNER_TEMP/bin"
            printf '#!/bin/sh\\necho "hello $WHO"\\n' > "$RUNNER_TEMP/bin/greet"
            chmod +x "$RUNNER_TEMP/bin/greet"
            echo /first >> "$GITHUB_PATH"
            echo "$RUNNER_TEMP/bin" >> "$GITHUB_PATH"
            echo "now: $WHO"
        - run: |
            greet
            echo "$MANY"
            echo "${PATH%%:*} ${{ env.WHO }}"
        """
    )
    assert bench.log.output(1) == ["now: "]
    assert bench.log.output(2) == ["hello world", "a", "b", f"{bench.machine.paths.temp}/bin world"]


async def test_node_options_is_refused(bench):
    """A variable that would run code in actions is not taken; the step does not fail for it."""
    result = await bench.steps(
        '- run: echo NODE_OPTIONS=--require=x >> $GITHUB_ENV\n- run: echo "[$NODE_OPTIONS]"'
    )
    assert bench.log.output(2) == ["[]"]
    assert result.outcome is Outcome.SUCCESS
    assert "Can't store NODE_OPTIONS" in result.annotations[0].message


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (
            "printf 'a<<EOF\\nb\\n' >> $GITHUB_OUTPUT",
            "$GITHUB_OUTPUT: the closing delimiter 'EOF' of 'a' is missing",
        ),
        ("echo nonsense >> $GITHUB_ENV", "$GITHUB_ENV: 'nonsense' is neither"),
        ("head -c 2000 /dev/zero > $GITHUB_OUTPUT", "$GITHUB_OUTPUT: "),
        ("rm $GITHUB_ENV; ln -s /etc/passwd $GITHUB_ENV", "$GITHUB_ENV: "),
        ("rm $GITHUB_PATH; mkfifo $GITHUB_PATH", "$GITHUB_PATH: "),
    ],
)
async def test_a_file_that_cannot_be_taken_fails_the_step(bench, write, said):
    """Bad format, too large, a link or a pipe: the process exited 0, and the step failed."""
    result = await bench.steps(f"- run: |\n    {write}", limits=JobLimits(environment_file=1000))
    assert (result.outcome, result.steps[0].exit_code) == (Outcome.FAILURE, 0)
    assert said in result.annotations[0].message


async def test_removed_files_are_empty_files(bench):
    """A step may tidy up after the runner."""
    result = await bench.steps("- run: rm -rf $RUNNER_TEMP/_runner_file_commands\n- run: echo still here")
    assert result.outcome is Outcome.SUCCESS


async def test_a_summary_that_is_too_large_is_left_out(bench):
    """The step does not fail for it, and the log says so."""
    result = await bench.steps(
        "- run: head -c 5000 /dev/zero > $GITHUB_STEP_SUMMARY", limits=JobLimits(summary=4096)
    )
    assert (result.outcome, result.summary) == (Outcome.SUCCESS, "")
    assert "$GITHUB_STEP_SUMMARY" in result.annotations[0].message


async def test_step_outputs_are_bounded_together(bench):
    """Many large outputs cannot fill the daemon's memory."""
    result = await bench.steps(
        "- run: printf 'x=%0900d' 1 >> $GITHUB_OUTPUT\n- run: printf 'x=%0900d' 1 >> $GITHUB_OUTPUT",
        limits=JobLimits(step_outputs=1000),
    )
    assert [str(step.outcome) for step in result.steps] == ["success", "failure"]


async def test_variables_too_large_together_fail_the_step_that_set_them(bench):
    """They are not taken, so that later steps can run."""
    result = await bench.steps(
        "- run: printf 'A=%05000d' 1 >> $GITHUB_ENV\n- if: always()\n  run: echo \"[$A$B]\"",
        head="env: {B: kept}",
        limits=JobLimits(environment=4900),
    )
    assert [str(step.outcome) for step in result.steps] == ["failure", "success"]
    assert bench.log.output(2)[-1] == "[kept]"


async def test_a_million_variables_are_not_listed(bench):
    """The log names the first hundred; the event loop is not held while they are read."""
    await bench.steps("- run: seq 1 20000 | sed 's/.*/V&=1/' >> $GITHUB_ENV\n- run: echo done")
    listed = [line for line in bench.log.steps[2] if line.startswith("  ")]
    assert (len(listed), listed[-1]) == (101, "  and 19900 more")


async def test_a_variable_of_the_runners_own_is_left_out(bench):
    """With a warning; names that only look like the runner's may be set, as at GitHub."""
    result = await bench.steps(
        """
        - run: printf 'GITHUB_SHA=fake\\nGITHUB_TOKEN=t1\\nRUNNER_COLOR=red\\n' >> "$GITHUB_ENV"
        - run: echo "$GITHUB_TOKEN $RUNNER_COLOR ${#GITHUB_SHA}"
        """
    )
    assert bench.log.output(2) == ["t1 red 40"]
    (note,) = result.annotations
    assert (note.level, note.message.partition(" ")[0]) == ("warning", "GITHUB_SHA")


def test_the_size_of_an_environment_counts_what_a_process_gets():
    """Name, `=`, value and the byte that ends it."""
    assert environment_size({"A": "bc"}) == 5
