"""Steps that are tried again on a remote Firecracker service, whose machine stays the same one meanwhile."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import Daemon, Sample, wait_for

pytestmark = pytest.mark.system

WORKFLOW = """\
on: push
env: {{PLACE: {place}}}
jobs:
  build:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - run: cp new.txt made && echo "KNOWN=by the first" >> "$GITHUB_ENV"
      - name: flaky install
        run: |
          echo "$KNOWN:" $(ls) >> "$PLACE/tries"
          echo half done > made; touch left
          [ "$(wc -l < "$PLACE/tries")" -ge 2 ] || exit 9
          {second}
      - run: test "$(cat made)" = "half done"
"""


JOURNAL = "SELECT * FROM machines WHERE job = ? ORDER BY made"


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[tuple[Any, str]]:
    """A fake service and its address."""
    path = Path(__file__).parents[1] / "machines/fcctl/fake_service.py"
    spec = importlib.util.spec_from_file_location("fcctl_fake_service", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules.setdefault("fcctl_fake_service", importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    with module.serving(tmp_path / "vms") as (service, address):
        yield service, address


@pytest.fixture
def serve(
    remote: tuple[Any, str], make_daemon: Callable[..., Daemon], sample: Sample, tmp_path: Path
) -> Callable[[str], tuple[Daemon, str]]:
    """Starts a daemon that uses the service; also the commit of the workflow, its second try as given."""

    def start(second: str = "true") -> tuple[Daemon, str]:
        machines = f"""
[machines]
driver = "fcctl"
firecracker_api_url = {json.dumps(remote[1])}
firecracker_auth_token = {json.dumps(remote[0].token)}

[pool]
min_idle = 0
max_idle = 0

[retry]
steps = ["ci.yml/build/flaky*"]
"""
        daemon = make_daemon(machines).start().wait_ready()
        text = WORKFLOW.format(place=json.dumps(str(tmp_path)), second=second)
        return daemon, sample.commit({".github/workflows/ci.yml": text, "new.txt": "whole\n"})

    return start


def test_step_is_tried_again_in_the_machine_as_it_was(
    remote: tuple[Any, str], serve: Callable[..., tuple[Daemon, str]], tmp_path: Path
) -> None:
    """The second try finds nothing of the first; log, journal and the job's row name the machine that it is
    then, and the service's is released once."""
    service, _ = remote
    daemon, sha = serve()
    delivery = daemon.deliver(sha)
    assert daemon.wait_done(delivery)["conclusion"] == "success"
    assert (tmp_path / "tries").read_text() == "by the first: made new.txt\n" * 2
    (run,) = daemon.runs_of(delivery)
    (job,) = daemon.jobs_of(run["id"])
    said = "\n".join(daemon.log_of(job))
    assert "try 2 of 2" in said
    assert f"Machine: {job['machine']}, as the one before was then" in said
    wait_for(lambda: not service.vms, "the machine is released")
    ((vm, times),) = service.removed.items()
    assert (times, service.rollbacks) == (1, [(vm, "snap-1")])
    assert daemon.stop() == 0
    rows = daemon.rows(JOURNAL, job["id"])
    assert {row["stage"] for row in rows} == {"gone"}
    assert [row["why"] for row in rows] == [
        "rolled back: its job went back to an earlier step",
        "its job ended: success",
    ]
    assert rows[1]["id"] == job["machine"]
    assert list((daemon.state / "fcctl").iterdir()) == []


def test_rollback_that_fails_loses_the_job_and_no_machine(
    remote: tuple[Any, str], serve: Callable[..., tuple[Daemon, str]]
) -> None:
    """The reason is the service's word, the step was run once, and what the machine is now nobody keeps."""
    service, _ = remote
    service.lost_snapshots = True
    daemon, sha = serve()
    delivery = daemon.deliver(sha)
    assert daemon.wait_done(delivery)["conclusion"] != "success"
    (job,) = daemon.jobs_of(daemon.runs_of(delivery)[0]["id"])
    assert job["outcome"] == "lost"
    assert "it could not be gone back to before the step" in job["reason"]
    assert "rollback/snap-1" in job["reason"]
    wait_for(lambda: not service.vms, "the machine is released")
    assert list(service.removed.values()) == [1]
    assert daemon.stop() == 0


def test_machine_that_was_rolled_back_does_not_outlive_a_killed_daemon(
    remote: tuple[Any, str], serve: Callable[..., tuple[Daemon, str]], tmp_path: Path
) -> None:
    """The next daemon releases it, and the job that it had is lost."""
    service, _ = remote
    daemon, sha = serve("sleep 100")
    delivery = daemon.deliver(sha)
    tries = tmp_path / "tries"
    wait_for(lambda: tries.exists() and tries.read_text().count("\n") == 2, "the second try")
    (vm,) = service.vms
    daemon.kill()
    assert list(service.vms) == [vm]
    daemon.start().wait_ready()
    assert service.removed == {vm: 1}
    daemon.wait_done(delivery)
    (job,) = daemon.jobs_of(daemon.runs_of(delivery)[0]["id"])
    assert job["outcome"] == "lost"
    assert {row["stage"] for row in daemon.rows(JOURNAL, job["id"])} == {"gone"}
    assert daemon.stop() == 0
    assert service.vms == {}
