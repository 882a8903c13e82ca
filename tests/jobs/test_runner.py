"""Whole jobs, with real processes."""

from __future__ import annotations

import trio

from runnerd.machines.driver import Exit
from runnerd.model import Outcome


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
