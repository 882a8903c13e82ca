"""First light: a signed push runs a real workflow in real microVMs, and the result comes back."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from runnerd.machines import launcher, reaper

from .conftest import SECRET, Daemon, Sample, wait_for

pytestmark = [pytest.mark.system, pytest.mark.vm]

WORKFLOW = """\
name: First light
on: {push: {branches: [main]}}
env:
  GREETING: hello
jobs:
  build:
    runs-on: ubuntu-latest
    outputs:
      version: ${{ steps.version.outputs.version }}
    steps:
      - name: Before the checkout
        run: test -z "$(ls -A)" && echo "the workspace is empty"
      - uses: actions/checkout@v4
      - name: Who is this
        run: sh who.sh
      - id: version
        run: echo "version=$(cat VERSION)" >> "$GITHUB_OUTPUT"
      - name: The work tree
        run: |
          git rev-parse HEAD
          git status --porcelain
          git rev-list --count HEAD
          mkdir left-behind
  test:
    needs: build
    runs-on: [self-hosted, linux]
    strategy:
      matrix:
        flavour: [plain, spicy]
    steps:
      - run: test -z "$(ls -A)" && echo "the workspace is empty"
      - uses: actions/checkout@v4
      - run: sh who.sh
      - run: echo "$GREETING ${{ matrix.flavour }} ${{ needs.build.outputs.version }}"
      - id: fragile
        continue-on-error: true
        run: exit 3
      - run: |
          echo "fragile: ${{ steps.fragile.outcome }}, ${{ steps.fragile.conclusion }}"
          for number in 1 2 3 4 5; do echo "line $number"; done
  release:
    needs: [build, test]
    runs-on: ubuntu-latest
    env:
      VERSION: ${{ needs.build.outputs.version }}
    steps:
      - uses: actions/checkout@v4
      - run: sh who.sh
      - run: echo "releasing $VERSION"
  never:
    needs: build
    if: needs.build.outputs.version == 'another'
    runs-on: ubuntu-latest
    steps:
      - run: echo "not this"
"""

WHO = """\
echo "boot $(cat /proc/sys/kernel/random/boot_id)"
echo "machine $(cat /etc/machine-id)"
echo "random $(od -An -N16 -tx1 /dev/urandom | tr -d ' ')"
echo "user $(id -un)"
"""


def said(lines: list[str], word: str) -> str:
    """What a job said about itself in a line `WORD value`."""
    found = [match[1] for line in lines if (match := re.fullmatch(rf"{word} (\S+)", line))]
    assert len(found) == 1, lines
    return found[0]


def test_a_push_runs_a_workflow_in_machines_of_its_own(vm_daemon: Daemon, sample: Sample) -> None:
    """Needs, a matrix, outputs, env, checkout and a step that may fail: each job in a machine of its own."""
    sha = sample.commit({".github/workflows/light.yml": WORKFLOW, "who.sh": WHO, "VERSION": "1.2.3\n"})
    daemon = vm_daemon.start().wait_ready()
    delivery = daemon.deliver(sha)
    uids = set()

    def watched() -> bool:
        uids.update(owners(daemon))
        return bool(daemon.runs_of(delivery)) and daemon.settled()

    wait_for(watched, "the run's report")
    (run,) = daemon.runs_of(delivery)
    report = daemon.report(run["id"])
    jobs = {job["name"]: job for job in report["jobs"]}
    logs = {name: daemon.log_of(job) for name, job in jobs.items()}

    assert report["conclusion"] == report["run"]["outcome"] == "success"
    ran = ["build", "test (plain)", "test (spicy)", "release"]
    assert {name: job["outcome"] for name, job in jobs.items()} == dict.fromkeys(ran, "success") | {
        "never": "skipped"
    }
    assert {status["context"]: status["state"] for status in report["statuses"]} == {
        f"runnerd / First light / {name}": "success" for name in jobs
    }
    assert report["sha"] == sha

    # Machines of their own, known to the ledger as what they call themselves.
    host = (Path("/proc/sys/kernel/random/boot_id").read_text().strip(), host_machine_id())
    boots = {said(logs[name], "boot") for name in ran}
    machines = {said(logs[name], "machine") for name in ran}
    assert len(boots | {host[0]}) == len(machines | {host[1]}) == 5
    assert len({said(logs[name], "random") for name in ran}) == 4
    for name in ran:
        assert (jobs[name]["boot_id"], jobs[name]["machine_id"]) == (
            said(logs[name], "boot"),
            said(logs[name], "machine"),
        )
        assert said(logs[name], "user") == "runner"
    if os.geteuid() == 0:
        assert uids
        assert 0 not in uids

    # A workspace is empty before the checkout and the commit's tree after it.
    for name in ran[:3]:
        assert "the workspace is empty" in logs[name]
    tree = logs["build"][logs["build"].index(sha) :]
    assert tree[:2] == [sha, "1"]

    # Outputs, env and the matrix reach later jobs; the step that may fail does not fail the job.
    assert "releasing 1.2.3" in logs["release"]
    for flavour in ("plain", "spicy"):
        lines = logs[f"test ({flavour})"]
        assert f"hello {flavour} 1.2.3" in lines
        start = lines.index("fragile: failure, success")
        assert lines[start + 1 : start + 6] == [f"line {number}" for number in range(1, 6)]
        fragile = next(step for step in jobs[f"test ({flavour})"]["steps"] if step["id"] == "fragile")
        assert (fragile["outcome"], fragile["conclusion"], fragile["exit_code"]) == ("failure", "success", 3)
    assert jobs["release"]["started"] >= max(jobs[name]["ended"] for name in ran[:3])

    assert daemon.stop() == 0
    assert launcher.strays(reaper.mark(daemon.state)) == {}
    for path in [daemon.log, *daemon.state.glob("logs/*/*.log"), *daemon.state.glob("reports/*")]:
        assert SECRET.encode() not in path.read_bytes(), path
    for path in daemon.state.glob("ledger.db*"):
        assert SECRET.encode() not in path.read_bytes(), path


def owners(daemon: Daemon) -> Iterator[int]:
    """The users that the daemon's VMMs run as; what only prepares to become one is left out."""
    for pid in launcher.strays(reaper.mark(daemon.state)):
        try:
            if "qemu" in os.readlink(f"/proc/{pid}/exe"):
                yield os.stat(f"/proc/{pid}").st_uid
        except OSError:  # it ended
            continue


def host_machine_id() -> str:
    """This host's machine id; a container may have none."""
    path = Path("/etc/machine-id")
    return path.read_text().strip() if path.exists() else ""


HOSTILE = """\
on: push
jobs:
  panics:
    runs-on: ubuntu-latest
    steps:
      - run: echo before
      - run: echo c | sudo tee /proc/sysrq-trigger
      - run: echo never
  reboots:
    runs-on: ubuntu-latest
    steps:
      - run: echo b | sudo tee /proc/sysrq-trigger
      - run: echo never
  kills:
    runs-on: ubuntu-latest
    steps:
      - run: for number in 1 2 3 9 11 15; do sudo kill -$number 1; done
      - run: sudo kill -KILL -1
  devours:
    runs-on: ubuntu-latest
    steps:
      - run: |
          python3 -c '
          eaten = []
          while True:
              eaten.append(b"x" * (1 << 20))
          '
  scribbles:
    runs-on: ubuntu-latest
    steps:
      - run: |
          port=$(stat -c '0x%t 0x%T' /dev/vport*)
          sudo mknod /tmp/port c $port
          sudo sh -c 'head -c 65536 /dev/urandom > /tmp/port' || echo "the port is taken"
  bystander:
    runs-on: ubuntu-latest
    steps:
      - run: sleep 4
      - run: echo unharmed
"""


def test_a_hostile_job_ends_its_own_machine_only(vm_daemon: Daemon, sample: Sample) -> None:
    """A machine that panics, reboots, loses its processes or its memory says so; others do not notice."""
    daemon = vm_daemon.start().wait_ready()
    report = daemon.wait_done(daemon.deliver(sample.workflow(HOSTILE)))
    jobs = {job["name"]: job for job in report["jobs"]}
    assert {name: job["outcome"] for name, job in jobs.items()} == {
        "panics": "lost",
        "reboots": "lost",
        "kills": "failure",
        "devours": "failure",
        "scribbles": "success",
        "bystander": "success",
    }
    assert "its kernel panicked" in jobs["panics"]["reason"]
    assert "the machine was lost" in jobs["reboots"]["reason"]
    assert "SIGKILL" in jobs["kills"]["reason"]
    for name in ("panics", "reboots"):
        assert jobs[name]["epoch"] == 1, "a step had started: it is not tried again"
        assert [step["outcome"] for step in jobs[name]["steps"]][-2:] == ["lost", "skipped"]
    assert any("ran out of memory" in line for line in daemon.log_of(jobs["devours"]))
    assert "the port is taken" in daemon.log_of(jobs["scribbles"])
    assert "unharmed" in daemon.log_of(jobs["bystander"])
    assert report["conclusion"] == "failure"

    sha = sample.workflow("on: push\njobs: {next: {runs-on: ubuntu-latest, steps: [run: echo hello]}}\n")
    assert daemon.wait_done(daemon.deliver(sha))["conclusion"] == "success"
    assert daemon.metric('runnerd_actor_restarts_total{actor="pool"}') == 0
    assert daemon.metric('runnerd_actor_restarts_total{actor="executor"}') == 0
    assert daemon.stop() == 0
    assert launcher.strays(reaper.mark(daemon.state)) == {}
