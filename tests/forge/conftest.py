"""Payloads with the keys that are read, in GitHub's shapes, for the tests of this folder."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

ZERO = "0" * 40


def repository(**changes: Any) -> dict[str, Any]:
    return {
        "id": 1296269,
        "full_name": "octo-org/hello",
        "default_branch": "main",
        "private": False,
        "html_url": "https://github.com/octo-org/hello",
        **changes,
    }


def push_payload(**changes: Any) -> dict[str, Any]:
    return {
        "ref": "refs/heads/main",
        "before": "a" * 40,
        "after": "b" * 40,
        "created": False,
        "deleted": False,
        "forced": False,
        "head_commit": {"id": "b" * 40, "message": "A change\n\nand why"},
        "commits": [],
        "repository": repository(),
        "sender": {"id": 583231, "login": "octocat"},
        **changes,
    }


def side(ref: str, sha: str, repo: int | None) -> dict[str, Any]:
    return {"ref": ref, "sha": sha, "repo": None if repo is None else {"id": repo, "fork": True}}


def pull_payload(**changes: Any) -> dict[str, Any]:
    payload = {
        "action": "opened",
        "number": 7,
        "pull_request": {
            "number": 7,
            "head": side("topic", "c" * 40, 1296269),
            "base": side("main", "d" * 40, 1296269),
            "merged": False,
            "merge_commit_sha": None,
        },
        "repository": repository(),
        "sender": {"id": 583231, "login": "octocat"},
    }
    payload["pull_request"] |= changes.pop("pull_request", {})  # type: ignore[operator]
    return payload | changes


def dispatch_payload(**changes: Any) -> dict[str, Any]:
    return {
        "ref": "refs/heads/main",
        "workflow": ".github/workflows/build.yml",
        "inputs": {"level": "debug", "dry": True, "count": 3},
        "repository": repository(),
        "sender": {"id": 583231, "login": "octocat"},
        **changes,
    }


def ping_payload(**changes: Any) -> dict[str, Any]:
    return {"zen": "Design for failure.", "hook_id": 109, "hook": {"type": "Repository"}, **changes}


class Payloads:
    """Builders of payloads, one for each event that is read."""

    repository = staticmethod(repository)
    side = staticmethod(side)
    push = staticmethod(push_payload)
    pull_request = staticmethod(pull_payload)
    workflow_dispatch = staticmethod(dispatch_payload)
    ping = staticmethod(ping_payload)


@pytest.fixture(scope="session")
def payloads() -> type[Payloads]:
    return Payloads


def _load_fake() -> Any:
    """Load the fake server's module: a test folder is no package."""
    spec = importlib.util.spec_from_file_location("fake_github", Path(__file__).with_name("fake_github.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def fake_github() -> Any:
    """The module with `FakeGitHub` and `Fault`."""
    return _load_fake()
