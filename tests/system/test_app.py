"""The whole daemon as a GitHub App: check runs on the commit, a press of their button, no token left."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from runnerd.cli import checkout

from .conftest import PROCESSES, REPOSITORY, Daemon, Sample, wait_for
from .forge_side import Forge

pytestmark = pytest.mark.system

WORKFLOW = """\
name: CI
on: push
jobs:
  bad:
    runs-on: ubuntu-latest
    steps:
      - run: echo fine
      - run: |
          echo "::error file=src/a.py,line=3::it does not fit"
          echo "### Coverage" >> "$GITHUB_STEP_SUMMARY"
          echo the last words
          exit 3
      - if: always()
        run: echo tidied up
"""


@pytest.fixture
def forge() -> Iterator[Forge]:
    """A GitHub with an App that is installed at the sample's owner, and in the end nothing to object to."""
    with Forge("nobody's token").running() as forge:
        yield forge
    assert forge.problems == []


@pytest.fixture
def private_key(forge: Forge) -> str:
    """The App's key, of which the forge has the public half."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    forge.app = ("7", "our-runner", public.decode())
    forge.installed = {REPOSITORY.partition("/")[0]: 42}
    forge.granted = {"checks": "write", "contents": "read", "statuses": "write", "pull_requests": "write"}
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    ).decode()


def checks(forge: Forge) -> list[dict[str, Any]]:
    return [check for of_commit in forge.checks.values() for check in of_commit]


def test_check_runs_are_made_kept_and_pressed(
    make_daemon: Callable[..., Daemon], forge: Forge, sample: Sample, private_key: str
) -> None:
    """One check run per job, with steps, annotation, summary and the failing step's last lines.

    "Run again" at it is the next attempt with a check run of its own; at the end no token is left.
    """
    settings = f"""
[forge]
api = {json.dumps(forge.url)}
app_id = "7"
app_private_key = '''{private_key}'''
"""
    daemon = make_daemon(PROCESSES, settings=settings).start().wait_ready()
    sha = sample.commit({".github/workflows/ci.yml": WORKFLOW})
    facts = checkout.Checkout(full_name=REPOSITORY, ref="refs/heads/main", sha=sha, message="a change")
    pushed = json.dumps(checkout.payload("push", facts)).encode()
    assert daemon.post(pushed, event="push", delivery=str(uuid.uuid4()))[0] == 202
    daemon.wait_settled()

    [check] = checks(forge)
    assert (check["name"], check["status"], check["conclusion"]) == (
        "runnerd / CI / bad",
        "completed",
        "failure",
    )
    summary = check["output"]["summary"]
    assert "| ❌ | 2. " in summary
    assert "Failed, exit status 3" in summary
    assert "the last words\n##[error]Process completed with exit code 3.\n```" in summary
    assert "\ntidied up\n" not in summary
    assert check["output"]["text"] == "### Coverage\n"
    [annotation] = check["annotations"][:1]
    assert (annotation["path"], annotation["start_line"]) == ("src/a.py", 3)
    assert [button["identifier"] for button in check["actions"]] == ["rerun"]
    assert forge.statuses == {}

    repository = json.loads(pushed)["repository"]
    press = {
        "action": "requested_action",
        "requested_action": {"identifier": "rerun"},
        "check_run": {"external_id": check["external_id"], "head_sha": sha, "name": check["name"]},
        "repository": repository,
        "sender": {"id": 1, "login": "octo"},
    }
    body = json.dumps(press).encode()
    assert daemon.post(body, event="check_run", delivery=str(uuid.uuid4()))[0] == 202
    wait_for(lambda: len(checks(forge)) == 2, "a second check run")
    daemon.wait_settled()
    assert [each["conclusion"] for each in checks(forge)] == ["failure", "failure"]

    assert daemon.stop() == 0
    assert forge.tokens == {}
    assert len(forge.revoked) >= 1
    assert "BEGIN RSA" not in daemon.log.read_text()
