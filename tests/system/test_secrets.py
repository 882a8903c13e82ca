"""Secrets through the whole daemon: had by the step that names them, and nowhere else to be found."""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections.abc import Callable

import pytest

from runnerd.cli import checkout
from runnerd.store.secrets import Secrets

from .conftest import PROCESSES, REPOSITORY, Daemon, Sample, push, wait_for

pytestmark = pytest.mark.system

VALUE = "pa55-phrase.of\u00e4-the#operator"
OTHER = "an0ther-secret-nobody-names"

WORKFLOW = """\
name: CI
on: [push, pull_request]
jobs:
  use:
    runs-on: ubuntu-latest
    outputs: {leak: "${{ steps.a.outputs.leak }}"}
    steps:
      - id: a
        env: {KEY: "${{ secrets.deploy_key }}"}
        run: |
          printf %s "$KEY" | sha256sum | cut -c1-64 > PROOF
          echo "plain $KEY"
          echo "::error::it was $KEY"
          echo "leak=$KEY" >> "$GITHUB_OUTPUT"
          echo "summary $KEY" >> "$GITHUB_STEP_SUMMARY"
          printf %s "$KEY" | base64 -w0
          echo
          exit 3
"""


def test_a_secret_is_in_no_file_but_its_own(make_daemon: Callable[..., Daemon], sample: Sample) -> None:
    """The step gets the value and does what it can to spread it; ledger, logs and reports are without it.

    A stranger's pull request with the same file is held, and gets nothing.
    """
    daemon = make_daemon(PROCESSES)
    secrets = Secrets(daemon.state / "secrets")
    secrets.set("DEPLOY_KEY", VALUE, REPOSITORY)
    secrets.set("OTHER", OTHER)
    daemon.start().wait_ready()
    proof = daemon.folder / "proof"
    sha = sample.commit({".github/workflows/ci.yml": WORKFLOW.replace("PROOF", str(proof))})
    delivery = str(uuid.uuid4())
    assert daemon.post(push(sha), event="push", delivery=delivery)[0] == 202
    daemon.wait_settled()
    (run,) = daemon.runs_of(delivery)
    assert run["outcome"] == "failure"
    assert proof.read_text().strip() == hashlib.sha256(VALUE.encode()).hexdigest()
    proof.unlink()

    facts = checkout.Checkout(full_name=REPOSITORY, ref="refs/heads/topic", sha=sha, message="a change")
    payload = checkout.payload("pull_request", facts, number=9)
    payload["action"] = "opened"
    payload["pull_request"]["base"] |= {"ref": "main", "sha": sha}
    payload["pull_request"]["head"]["repo"] = {"id": 4242, "full_name": "stranger/repo"}
    sample._git("update-ref", "refs/pull/9/head", sha)
    stranger = str(uuid.uuid4())
    body = json.dumps(payload).encode()
    assert daemon.post(body, event="pull_request", delivery=stranger)[0] == 202
    held = wait_for(lambda: daemon.client.status()["waiting_for_approval"], "a run that waits")
    (waiting,) = daemon.runs_of(stranger)
    assert held == [waiting["id"]]
    assert waiting["outcome"] is None
    assert not proof.exists()
    assert daemon.stop() == 0

    forms = [VALUE.encode(), OTHER.encode(), base64.b64encode(VALUE.encode())]
    files = [path for path in daemon.state.rglob("*") if path.is_file()]
    found = [
        str(path)
        for path in [*files, daemon.log]
        if not path.is_relative_to(daemon.state / "secrets")
        and any(form in path.read_bytes() for form in forms)
    ]
    assert len(files) > 5
    assert found == []
