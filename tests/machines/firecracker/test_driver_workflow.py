"""A workflow in machines under the strict fake of Firecracker, whose steps go back and are tried again."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from runnerd.cli import selftest
from runnerd.cli.event import happened
from runnerd.config import load
from runnerd.daemon import Request, run_once
from runnerd.machines.firecracker.driver import FirecrackerDriver
from runnerd.model import Outcome

Opened = Callable[..., AbstractAsyncContextManager[FirecrackerDriver]]

WORKFLOW = """
name: CI
on: push
jobs:
  build:
    runs-on: ubuntu-latest
    outputs: {said: "${{ steps.say.outputs.word }}"}
    steps:
      - uses: actions/checkout@v4
      - id: say
        run: |
          cat new.txt
          echo "word=hello" >> "$GITHUB_OUTPUT"
          echo before > note
      - name: Flaky
        run: |
          tries=$(cat TRIES)
          echo x >> note
          echo $((tries + 1)) > TRIES
          test "$tries" = 2
      - run: echo "$(tr '\\n' ' ' < note) after $(cat TRIES) tries, $GITHUB_WORKSPACE"
  next:
    needs: build
    runs-on: ubuntu-latest
    steps: [{run: "echo ${{ needs.build.outputs.said }}"}]
"""


@pytest.mark.parametrize("version", ["1.14.4", "1.16.1"])
def test_steps_are_tried_again_from_the_machine_before_them(
    opened: Opened, tmp_path: Path, version: str
) -> None:
    """Checkout, outputs, going back twice: what a try did to its machine is gone, and nothing else."""
    path = tmp_path / "hello"
    (path / ".github/workflows").mkdir(parents=True)
    tries = tmp_path / "tries"
    tries.write_text("0\n")
    (path / ".github/workflows/ci.yml").write_text(WORKFLOW.replace("TRIES", str(tries)))
    (path / "new.txt").write_text("from the working tree\n")
    git = ["git", "-C", path, "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q", "-b", "main"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    flags = {
        "machines.driver": "firecracker",
        "machines.memory": 128,
        "machines.disk": 64,
        "retry.steps": ["*Flaky"],
        "retry.times": 2,
    }
    environ = {"STATE_DIRECTORY": str(tmp_path / "state"), "HOME": str(tmp_path)}
    what = happened(path, "push", None, inputs={})
    lines: list[str] = []
    report = run_once(
        Request(path=path, event=what.event, body=what.body, changed=what.changed),
        config=load(None, environ=environ, flags=flags),
        show=lambda job, line: lines.append(line),
        open_driver=lambda config, journal, own: opened(version, journal=journal),
    )
    ((_, jobs),) = report.runs
    assert {job.name: job.outcome for job in jobs} == {
        "build": Outcome.SUCCESS,
        "next": Outcome.SUCCESS,
    }, "\n".join(lines)
    assert "before x  after 3 tries, /home/runner/work/hello/hello" in lines
    assert {"from the working tree", "hello"} <= set(lines)


def test_the_self_test_does_all_its_parts(opened: Opened, tmp_path: Path) -> None:
    """What it would do with a real Firecracker is done with the fake one, going back included."""
    flags = {"machines.driver": "firecracker", "machines.memory": 128, "machines.disk": 64}
    environ = {"STATE_DIRECTORY": str(tmp_path / "state"), "HOME": str(tmp_path)}
    good, others = selftest.selftest(
        load(None, environ=environ, flags=flags),
        open_driver=lambda config, journal, own: opened("1.16.1", journal=journal),
    )
    assert good.verdict == "good", good.found
    parts = [part.split()[0] for part in good.found.removeprefix("firecracker: ").split(", ")]
    assert parts[0] == "template"
    assert parts[-3:] == ["snapshot", "restore", "destroy"]
    assert "qemu, fcctl, process" in others.found
