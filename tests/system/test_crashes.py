"""Every actor crashes once while runs are in flight; the daemon goes on, and no outcome is a lie."""

from __future__ import annotations

import http.client
import json
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import PROCESSES, Daemon, Sample, push, wait_for

COMMAND = (sys.executable, str(Path(__file__).with_name("crashable.py")))

WORKFLOW = """\
on: push
env: {GATE: %s}
jobs:
  first:
    runs-on: ubuntu-latest
    outputs: {word: "${{ steps.word.outputs.word }}"}
    steps:
      - uses: actions/checkout@v4
      - run: |
          touch "$GATE-$GITHUB_RUN_ID"
          until test -e "$GATE"; do sleep 0.05; done
      - id: word
        run: echo word=truth >> "$GITHUB_OUTPUT"
  then:
    needs: first
    runs-on: ubuntu-latest
    strategy: {matrix: {leg: [a, b]}}
    steps:
      - run: test "${{ needs.first.outputs.word }}" = truth
"""
"""The first job runs until a file lets it go on, so that it runs for sure when the crash comes."""

HARMLESS = ("writer", "reporter", "health", "control", "parser", "receiver")
"""A crash of these costs no job."""

OWNERS = {"executor": "a step had started", "pool": "the machine was lost"}
"""These own the running machines: a crash loses the jobs on them, with this reason."""


def outcomes(daemon: Daemon, deliveries: list[str]) -> list[str]:
    """How the one run of each delivery ended."""
    runs = [daemon.runs_of(delivery) for delivery in deliveries]
    assert [len(each) for each in runs] == [1] * len(deliveries)
    return [run["outcome"] for (run,) in runs]


def restarts(daemon: Daemon, actor: str) -> float:
    """How often an actor was started anew."""
    return daemon.metric(f'runnerd_actor_restarts_total{{actor="{actor}"}}')


def deliver(daemon: Daemon, sha: str) -> str:
    """Post until it is stored, as a forge does that delivers again."""
    delivery = str(uuid.uuid4())

    def stored() -> bool:
        try:
            return daemon.post(push(sha), delivery=delivery)[0] in (200, 202)
        except (OSError, http.client.HTTPException):
            return False

    wait_for(stored, "a delivery is stored", pause=0.05)
    return delivery


@pytest.mark.system
def test_every_actor_crashes_once_under_load(
    make_daemon: Callable[..., Daemon], sample: Sample, tmp_path: Path
) -> None:
    """One after the other crashes: only owners of machines lose jobs, and what comes later succeeds."""
    daemon = make_daemon(PROCESSES, command=COMMAND).start().wait_ready()
    for actor in (*HARMLESS, *OWNERS):
        gate = tmp_path / actor
        sha = sample.workflow(WORKFLOW % json.dumps(str(gate)))
        flying = [daemon.deliver(sha), daemon.deliver(sha)]
        wait_for(lambda: len(list(tmp_path.glob(f"{actor}-*"))) == 2, "two jobs run")  # noqa: B023
        assert restarts(daemon, actor) == 0
        daemon.tell(actor)
        meanwhile = deliver(daemon, sha)
        wait_for(lambda: restarts(daemon, actor) == 1, f"the {actor} is made anew")  # noqa: B023
        gate.touch()
        later = deliver(daemon, sha)
        daemon.wait_settled()

        assert outcomes(daemon, [later]) == ["success"], actor
        if actor in HARMLESS:
            assert outcomes(daemon, [*flying, meanwhile]) == ["success"] * 3, actor
            continue
        assert outcomes(daemon, flying) == ["lost"] * 2, actor
        for delivery in flying:
            (run,) = daemon.runs_of(delivery)
            jobs = {job["key"]: job for job in daemon.jobs_of(run["id"])}
            assert {key: job["outcome"] for key, job in jobs.items()} == {"first": "lost", "then": "skipped"}
            assert OWNERS[actor] in jobs["first"]["reason"]
            assert daemon.report(run["id"])["conclusion"] == "failure"
        # It may have had a machine before the crash arrived.
        assert outcomes(daemon, [meanwhile]) in (["success"], ["lost"])

    assert {actor: restarts(daemon, actor) for actor in (*HARMLESS, *OWNERS)} == dict.fromkeys(
        (*HARMLESS, *OWNERS), 1
    )
    assert daemon.client.status()["open_runs"] == []
    assert daemon.stop() == 0
    assert daemon.left() == {}
    assert list((daemon.state / "machines").glob("process-*")) == []
