"""A job goes on from a step, in the machine as it was kept before it, after the daemon was started anew."""

from __future__ import annotations

import json

import pytest

from runnerd.web.client import Refusal

from .conftest import Daemon, Sample

pytestmark = [pytest.mark.system, pytest.mark.vm]

WORKFLOW = """\
on: push
jobs:
  build:
    runs-on: ubuntu-latest
    outputs:
      tag: ${{ steps.made.outputs.tag }}
    steps:
      - id: made
        run: |
          echo once >> count
          cat /proc/sys/kernel/random/boot_id > boot
          echo "tag=v7" >> "$GITHUB_OUTPUT"
          echo "KNOWN=from the first step" >> "$GITHUB_ENV"
      - run: |
          echo twice >> count
          echo /opt/mine >> "$GITHUB_PATH"
      - name: The gate
        run: |
          echo "KNOWN is $KNOWN, the tag is ${{ steps.made.outputs.tag }}"
          case "$PATH" in /opt/mine:*) ;; *) exit 8 ;; esac
          echo "counted $(tr '\\n' ' ' < count)"
          echo thrice >> count
          test "${{ vars.READY }}" = yes || exit 7
          test "$(cat boot)" != "$(cat /proc/sys/kernel/random/boot_id)" && echo "another boot"
  aside:
    runs-on: ubuntu-latest
    steps: [{run: echo aside}]
  deploy:
    needs: build
    runs-on: ubuntu-latest
    steps: [{run: "echo deploys ${{ needs.build.outputs.tag }}"}]
"""


def test_a_job_goes_on_from_its_failed_step_after_a_restart(vm_daemon: Daemon, sample: Sample) -> None:
    """What the steps before it did is there and is not done again, what it did itself is not.

    Jobs that need it run, others keep their result; machine and boot are new.
    """
    daemon = vm_daemon
    config = daemon.folder / "config.toml"
    before = config.read_text()
    config.write_text(before + '\n[variables]\nREADY = "no"\n[snapshots]\nmode = "on-failure"\n')
    sha = sample.workflow(WORKFLOW)
    daemon.start().wait_ready()
    delivery = daemon.deliver(sha)
    assert daemon.wait_done(delivery)["conclusion"] == "failure"
    (run,) = daemon.runs_of(delivery)
    old = {job["name"]: job for job in daemon.jobs_of(run["id"])}
    assert {name: job["outcome"] for name, job in old.items()} == {
        "build": "failure", "aside": "success", "deploy": "skipped",
    }  # fmt: skip
    with pytest.raises(
        Refusal, match=r"no machine of job .* from before step 2 .*: there are those from before 3"
    ):
        daemon.client.rerun(run["id"], "build", "2")

    assert daemon.stop() == 0
    config.write_text(before + '\n[variables]\nREADY = "yes"\n')
    daemon.start().wait_ready()
    again = daemon.client.rerun(run["id"], "build", "The gate")
    assert again["message"].endswith(": build from step 3 (The gate), and what needs it: deploy")
    daemon.wait_settled()
    report = daemon.report(again["run"])
    new = {job["name"]: job for job in report["jobs"]}
    log = daemon.log_of(new["build"])
    assert (report["conclusion"], report["run"]["attempt"]) == ("success", 2), "\n".join(log)

    assert [line for line in log if "as it was in job" in line and str(old["build"]["id"]) in line]
    for said in ("KNOWN is from the first step, the tag is v7", "counted once twice ", "another boot"):
        assert said in log
    earlier = json.loads(old["build"]["steps"])
    assert new["build"]["steps"][:2] == earlier[:2]
    assert [step["outcome"] for step in new["build"]["steps"]] == ["success"] * 3
    for name in ("machine", "boot_id", "machine_id"):
        assert new["build"][name] != old["build"][name]
    assert "deploys v7" in daemon.log_of(new["deploy"])
    aside = new["aside"]
    assert aside["carried"] == f"{run['id']}/{old['aside']['id']}"
    assert (aside["outcome"], aside["machine"], aside["started"]) == (
        "success", old["aside"]["machine"], old["aside"]["started"],
    )  # fmt: skip
    assert not daemon.rows("SELECT * FROM outbox WHERE job = ?", aside["id"])
