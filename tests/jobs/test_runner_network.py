"""A job's way out: open while steps run, its variables in every step, its lines in the log, masked."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest

from runnerd.jobs.ports import PolicyUnheld
from runnerd.jobs.runner import run_job
from runnerd.model import JobResult, Outcome

STEPS = """
on: push
jobs:
  one:
    runs-on: x
    steps:
      - run: echo "$http_proxy $no_proxy"
        env: {no_proxy: mine}
"""


class Offers:
    """A network that is set up, or raises."""

    def __init__(self, problem: Exception | None = None) -> None:
        self.problem = problem
        self.open_now = False

    @asynccontextmanager
    async def open(self, machine, run, say):
        """Say something with a secret in it, before and after."""
        if self.problem is not None:
            raise self.problem
        self.open_now = True
        await say("refused hunter2-token.example")
        yield {"http_proxy": "http://127.0.0.1:1", "no_proxy": "theirs"}
        await say("the summary")
        self.open_now = False


async def run(bench, network: Offers) -> JobResult:
    """Run the job with this network."""
    return await run_job(
        bench.spec(STEPS, {}),
        bench.machine,
        checkout=bench.checkout,
        log=bench.log,
        observer=bench.observer,
        secrets={"TOKEN": "hunter2-token"},
        cancel=bench.cancel,
        network=network,
    )


async def test_steps_have_the_variables_and_the_log_its_lines(bench):
    """A step's own `env` goes first; what the network says is masked; it is closed when steps have ended."""
    network = Offers()
    assert (await run(bench, network)).outcome is Outcome.SUCCESS
    assert bench.log.output(1)[0] == "http://127.0.0.1:1 mine"
    assert "the summary" in bench.log.output(1)
    assert "refused ***.example" in bench.log.output(0)
    assert not network.open_now


@pytest.mark.parametrize(
    ("problem", "outcome"),
    [
        (PolicyUnheld("the policy cannot be held"), Outcome.STARTUP_FAILURE),
        (OSError("the port is taken"), Outcome.INFRA_ERROR),
    ],
)
async def test_without_its_network_no_step_runs(bench, problem, outcome):
    """A policy that cannot be held, or a port that is not to be had, ends the job with the reason."""
    result = await run(bench, Offers(problem))
    assert result.outcome is outcome
    assert str(problem) in result.reason
    assert [step.outcome for step in result.steps] == [Outcome.SKIPPED]
