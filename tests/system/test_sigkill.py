"""The promise: whenever the daemon is killed, nothing is lost, nothing runs twice and no outcome is a lie."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from runnerd.machines import launcher, reaper

from .conftest import PROCESSES, Daemon, Sample, push, wait_for

KILLS = 20
SEED = 20

ATTEMPT = """
      - run: |
          me="$PLACE/$GITHUB_RUN_ID-$GITHUB_JOB-${{ strategy.job-index }}"
          exec 9>> "$me.lock"
          flock --nonblock 9 || echo "$me" >> "$PLACE/violations"
          sleep 1000 > /dev/null 2>&1 &  # holds the lock for as long as the machine lives
          echo start >> "$me.lines"
      - run: |
          sleep 0.2
          echo end >> "$PLACE/$GITHUB_RUN_ID-$GITHUB_JOB-${{ strategy.job-index }}.lines"
"""
"""The steps of every job: what they do is seen outside their machine, whoever dies meanwhile."""

ONE = f"""\
on: {{push: {{branches: [main, wide]}}}}
jobs:
  only:
    runs-on: ubuntu-latest
    steps:{ATTEMPT}
"""

GRAPH = f"""\
on: {{push: {{branches: [wide]}}}}
jobs:
  first:
    runs-on: ubuntu-latest
    steps:{ATTEMPT}
  then:
    needs: first
    runs-on: ubuntu-latest
    strategy: {{fail-fast: false, matrix: {{leg: [a, b]}}}}
    steps:{ATTEMPT}
"""

WORKFLOWS = {
    "main": [".github/workflows/one.yml"],
    "wide": [".github/workflows/graph.yml", ".github/workflows/one.yml"],
    "none": [],
}
"""Branch -> the workflows that a push to it starts."""


class Forge(threading.Thread):
    """Posts one push after the other and, as a forge does, again until it was answered."""

    def __init__(self, daemon: Daemon, sha: str) -> None:
        super().__init__()
        self.sha = sha
        self.branches: dict[str, str] = {}
        """Delivery -> branch, for everything that was answered as stored."""
        self.doubtful = 0
        """How often an answer did not come although the delivery may have arrived."""
        self.wrong: list[str] = []
        """Answers that must not be."""
        self._daemon = daemon
        self._random = random.Random(SEED)
        self._enough = threading.Event()

    def run(self) -> None:
        number = 0
        while not self._enough.is_set():
            number += 1
            branch = self._random.choice(["main", "main", "wide", "none"])
            self._deliver(f"delivery-{number}", branch)
            if number % 4 == 0:
                self._repeat(self._random.choice(list(self.branches)))
            self._enough.wait(self._random.uniform(0.0, 0.25))

    def stop(self) -> None:
        """Post no more; what is on its way is answered first."""
        self._enough.set()
        self.join(60)
        assert not self.is_alive()

    def _deliver(self, delivery: str, branch: str) -> None:
        asked_before = False
        while True:
            status = self._post(delivery, branch)
            if status == 202 or (status == 200 and asked_before):
                self.branches[delivery] = branch
                return
            if status is not None and status != 503:
                self.wrong.append(f"{delivery}: {status}")
                return
            asked_before = True

    def _repeat(self, delivery: str) -> None:
        """What was answered once is known for ever, also to the daemon after the next."""
        while (status := self._post(delivery, self.branches[delivery])) is None:
            pass
        if status != 200:
            self.wrong.append(f"{delivery} again: {status}")

    def _post(self, delivery: str, branch: str) -> int | None:
        body = push(self.sha, f"refs/heads/{branch}")
        try:
            return self._daemon.post(body, delivery=delivery, timeout=10.0)[0]
        except ConnectionRefusedError:
            pass
        except (OSError, http.client.HTTPException, ValueError):
            self.doubtful += 1
        time.sleep(0.02)
        return None


def started(place: Path) -> int:
    """How many attempts have written their first line."""
    return len(list(place.glob("*.lines")))


@pytest.mark.system
def test_nothing_is_lost_doubled_or_made_up(make_daemon, sample: Sample, tmp_path: Path) -> None:
    """Killed twenty times under load, the daemon owes nothing in the end and has told no lie."""
    place = tmp_path / "place"
    place.mkdir()
    env = f"env: {{PLACE: {json.dumps(str(place))}}}\n"
    sample.workflow(env + ONE, "one.yml")
    daemon: Daemon = make_daemon(PROCESSES).start()
    forge = Forge(daemon, sample.workflow(env + GRAPH, "graph.yml"))
    forge.start()
    rng = random.Random(SEED)
    try:
        for _ in range(KILLS):
            seen = started(place)
            match rng.choice(["starting", "serving", "serving", "running"]):
                case "starting":
                    time.sleep(rng.uniform(0.1, 1.5))
                case "serving":
                    daemon.wait_ready()
                    time.sleep(rng.uniform(0.0, 1.5))
                case "running":
                    wait_for(lambda: started(place) > seen, "a job starts")  # noqa: B023 - asked at once
                    time.sleep(rng.uniform(0.0, 0.6))
            daemon.kill()
            daemon.start()
            # A commit that no earlier daemon fetched.
            forge.sha = sample.commit({})
    finally:
        forge.stop()
    daemon.wait_ready().wait_settled()
    assert daemon.stop() == 0

    assert forge.wrong == []
    check_deliveries(daemon, forge)
    check_jobs(daemon, place)
    check_reports(daemon)
    assert daemon.left() == {}
    assert list((daemon.state / "machines").glob("process-*")) == []


def check_deliveries(daemon: Daemon, forge: Forge) -> None:
    """I1, I2, I3: everything answered is there and settled, once for each workflow it starts."""
    assert len(forge.branches) > KILLS
    assert {"main", "wide", "none"} == set(forge.branches.values())
    states = {row["id"]: row["state"] for row in daemon.rows("SELECT id, state FROM deliveries")}
    assert states.keys() == forge.branches.keys()
    runs = daemon.rows("SELECT delivery, workflow_path FROM runs ORDER BY workflow_path")
    for delivery, branch in forge.branches.items():
        assert states[delivery] == ("planned" if WORKFLOWS[branch] else "ignored")
        assert [run["workflow_path"] for run in runs if run["delivery"] == delivery] == WORKFLOWS[branch]


def check_jobs(daemon: Daemon, place: Path) -> None:
    """I6 and the truth rules: no two attempts at once, no job begun twice, green only after its last line."""
    assert not (place / "violations").exists()
    outcomes: Counter[str] = Counter()
    for job in daemon.rows("SELECT * FROM jobs"):
        path = place / f"{job['run']}-{job['key']}-{max(job['leg'], 0)}.lines"
        lines = path.read_text().split() if path.exists() else []
        assert job["phase"] == "done"
        assert 0 <= job["epoch"] <= 3
        outcomes[job["outcome"]] += 1
        match job["outcome"]:
            case "success":
                assert lines == ["start", "end"], job
            case "lost":
                assert lines in ([], ["start"], ["start", "end"]), job
                assert job["reason"].startswith("the daemon or its executor ended while this job ran")
            case "skipped":
                assert lines == [], job
            case _:
                pytest.fail(f"nothing ends like this here: {job}")
    assert outcomes["success"] > 0
    assert outcomes["lost"] > 0, "no job was running at any kill: nothing was tested"


def check_reports(daemon: Daemon) -> None:
    """I4: every run has its terminal report, which says what the ledger says."""
    for run in daemon.rows("SELECT id, phase, outcome FROM runs"):
        report = daemon.report(run["id"])
        jobs = {job["id"]: job["outcome"] for job in daemon.jobs_of(run["id"])}
        assert run["phase"] == "done"
        assert report["run"]["outcome"] == run["outcome"]
        assert {job["id"]: job["outcome"] for job in report["jobs"]} == jobs
        assert run["outcome"] == ("success" if set(jobs.values()) == {"success"} else "lost")


VM_WORKFLOW = """\
on: push
jobs:
  only:
    runs-on: ubuntu-latest
    steps:
      - run: |
          echo start
          sleep 3
          echo end
"""


def vmms(daemon: Daemon) -> dict[int, int | None]:
    """The QEMU processes of this state directory, and when each was born."""
    return {pid: launcher.born(pid) for pid in launcher.strays(reaper.mark(daemon.state))}


@pytest.mark.system
@pytest.mark.vm
def test_no_machine_outlives_its_daemon(vm_daemon: Daemon, sample: Sample) -> None:
    """Machines of a killed daemon are gone before its jobs run again, and none is left in the end."""
    daemon = vm_daemon.start().wait_ready()
    sha = sample.workflow(VM_WORKFLOW)
    deliveries = []
    known: set[str] = set()

    def running() -> list[dict[str, Any]]:
        jobs = daemon.rows("SELECT * FROM jobs WHERE phase = 'running'")
        return [job for job in jobs if job["machine"] not in known]

    for pause in (0.0, 0.5, 2.0):
        deliveries += [daemon.deliver(sha) for _ in range(2)]
        wait_for(running, "a job runs")
        time.sleep(pause)
        known |= {job["machine"] for job in daemon.rows("SELECT machine FROM jobs")}
        old = vmms(daemon)
        assert old
        daemon.kill()
        daemon.start().wait_ready()
        assert [pid for pid, birth in old.items() if launcher.born(pid) == birth] == []
    daemon.wait_ready().wait_settled()
    jobs = daemon.rows("SELECT * FROM jobs")
    assert len(jobs) == len(deliveries)
    for job in jobs:
        lines = daemon.log_of(job)
        assert job["outcome"] in ("success", "lost"), job
        assert (lines.count("start"), lines.count("end")) == (1, 1) or job["outcome"] == "lost"
    check_reports(daemon)
    assert daemon.stop() == 0
    assert vmms(daemon) == {}
    assert daemon.left() == {}
    assert daemon.rows("SELECT * FROM machines WHERE stage != 'gone'") == []
    assert any("reaped" in row["why"] for row in daemon.rows("SELECT why FROM machines"))
