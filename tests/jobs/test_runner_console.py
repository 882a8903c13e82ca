"""What a lost machine's console said is kept in the job's log."""

from __future__ import annotations

from runnerd.model import Outcome


async def test_the_end_of_a_lost_machines_console_is_in_the_log(bench):
    """It stands there masked and marked, and the reason says so."""
    bench.machine.console = ("##[error]made up", "the key is sesame-open", "Kernel panic - not syncing")
    bench.machine.ends = [bench.machine.lose("its kernel panicked")]
    result = await bench.steps("- run: echo hi", secrets={"KEY": "sesame-open"})
    assert result.outcome is Outcome.LOST
    assert result.reason == (
        "the machine was lost: its kernel panicked (the end of the machine's console is in the job's log)"
    )
    lines = bench.log.text().splitlines()
    begun = lines.index("##[group]The end of the machine's console")
    assert lines[begun + 1 : begun + 5] == [
        "| ##[error]made up",
        "| the key is ***",
        "| Kernel panic - not syncing",
        "##[endgroup]",
    ]


async def test_a_job_that_fails_by_itself_keeps_no_console(bench):
    """What the machine's console said concerns nobody when a step failed."""
    bench.machine.console = ("booted",)
    result = await bench.steps("- run: exit 1")
    assert result.outcome is Outcome.FAILURE
    assert "booted" not in bench.log.text()
