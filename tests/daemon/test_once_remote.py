"""A whole workflow through a remote Firecracker service, which can do little more than run a shell text."""

import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runnerd.cli.event import happened
from runnerd.config import load
from runnerd.daemon import Request, run_once
from runnerd.model import Outcome

WORKFLOW = """
name: CI
on: push
jobs:
  build:
    runs-on: ubuntu-latest
    outputs: {said: "${{ steps.say.outputs.word }}"}
    steps:
      - uses: actions/checkout@v4
      - run: cat new.txt
      - id: say
        run: |
          echo "word=hello" >> "$GITHUB_OUTPUT"
          echo "LATER=kept" >> "$GITHUB_ENV"
          for word in 1 2 3; do echo "line $word"; sleep 0.4; done
      - run: echo "$LATER $PWD"
  untold:
    runs-on: ubuntu-latest
    steps:
      - run: kill -9 $PPID; exit 0
  legs:
    needs: build
    runs-on: ubuntu-latest
    strategy: {matrix: {what: [fails, sleeps]}}
    steps:
      - run: |
          if [ ${{ matrix.what }} = fails ]; then
            until test -e UP; do sleep 0.1; done
            echo "${{ needs.build.outputs.said }}"; exit 3
          fi
          trap 'echo interrupted; exit 1' INT
          touch UP
          while :; do sleep 0.1; done
      - if: cancelled()
        run: echo "cleaned up"
"""


@pytest.fixture
def fakes():
    """The module with the fake service."""
    path = Path(__file__).parents[1] / "machines/fcctl/fake_service.py"
    spec = importlib.util.spec_from_file_location("fcctl_fake_service", path)
    module = sys.modules.setdefault("fcctl_fake_service", importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    return module


def test_a_workflow_runs_through_a_remote_service(tmp_path, fakes):
    """Checkout, outputs, live lines, a failure and a cancelled leg; no machine is left at the service."""
    path = tmp_path / "hello"
    (path / ".github/workflows").mkdir(parents=True)
    (path / ".github/workflows/ci.yml").write_text(WORKFLOW.replace("UP", str(tmp_path / "up")))
    (path / "new.txt").write_text("from the working tree\n")
    git = ["git", "-C", path, "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q", "-b", "main"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    lines: list[tuple[float, str]] = []
    with fakes.serving(tmp_path / "vms") as (service, address):
        flags = {
            "machines.firecracker_api_url": address,
            "machines.firecracker_auth_token": service.token,
            "machines.memory": 128,
        }
        environ = {"STATE_DIRECTORY": str(tmp_path / "state"), "HOME": str(tmp_path)}
        # Answers without a status, now and then: what is asked again does no harm.
        service.fault, service.faults["POST /api/llm/execute"] = "no status", 4
        config = load(None, environ=environ, flags=flags)
        what = happened(path, "push", None, inputs={})
        request = Request(path=path, event=what.event, body=what.body, changed=what.changed)
        report = run_once(
            request, config=config, show=lambda job, line: lines.append((time.monotonic(), f"{job}|{line}"))
        )
        assert service.vms == {}
    ((record, jobs),) = report.runs
    assert {job.name: job.outcome for job in jobs} == {
        "build": Outcome.SUCCESS,
        "untold": Outcome.INFRA_ERROR,  # whoever waited for its status is gone
        "legs (fails)": Outcome.FAILURE,
        "legs (sleeps)": Outcome.CANCELLED,
    }
    assert record.outcome is Outcome.FAILURE
    said = [line for _, line in lines]
    assert "build|from the working tree" in said
    assert any(line.startswith("build|kept ") and line.endswith("/hello/hello") for line in said)
    assert {"legs (fails)|hello", "legs (sleeps)|interrupted", "legs (sleeps)|cleaned up"} <= set(said)
    times = {line: when for when, line in lines}
    assert times["build|line 1"] < times["build|line 2"] < times["build|line 3"]
    failed = next(job for job in jobs if job.name == "legs (fails)")
    assert (failed.steps[0].exit_code, failed.steps[0].outcome) == (3, Outcome.FAILURE)
