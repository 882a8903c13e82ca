"""Payloads with the keys that are read, in GitHub's shapes, for the tests of this folder."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from runnerd.forge.client import open_github

from .app_key import generate

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


REPOSITORY, SHA = "octo-org/hello", "b" * 40
CONTEXT = "runnerd / CI / build (ubuntu, 3.12)"
MARKER = "<!-- runnerd:v1 repository=1 pull=7 -->"


class Site:
    """A client, the server behind it, and a clock that moves only by sleeping."""

    def __init__(self, module: Any, key: str = "") -> None:
        self.module = module
        self.server = module.FakeGitHub()
        self.key = key
        self.now = 1_000_000.0
        self.slept: list[float] = []
        self.server.clock = lambda: self.now
        self.address = ""
        self.github: Any = None

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def fail(self, kind: str, **details: Any) -> None:
        self.server.faults.append(self.module.Fault(kind, **details))

    def client(self, address: str, token: str = "ghp_test") -> Any:
        who = {"app": "7", "private_key": self.key} if self.key else {}
        return open_github(
            address, token, **who, clock=lambda: self.now, sleep=self.sleep, jitter=lambda: 0.5
        )

    async def status(
        self, state: str = "success", description: str = "Successful in 12s", context: str = CONTEXT
    ) -> None:
        await self.github.set_status(REPOSITORY, SHA, context, state, description, "")

    async def comment(self, text: str) -> None:
        await self.github.upsert_comment(REPOSITORY, 7, MARKER, f"{MARKER}\n{text}\n")

    @property
    def bodies(self) -> list[str]:
        return [comment["body"] for comment in self.server.comments.get((REPOSITORY, 7), [])]


@pytest.fixture
async def site(fake_github: Any) -> AsyncIterator[Site]:
    """A GitHub and its client with a personal token."""
    site = Site(fake_github)
    async with site.server.served() as site.address, site.client(site.address) as site.github:
        yield site
    assert site.server.problems == []


@pytest.fixture(scope="session")
def app_key() -> tuple[str, str]:
    """A private and a public key, as PEM text."""
    return generate()


@pytest.fixture
async def app_site(fake_github: Any, app_key: tuple[str, str]) -> AsyncIterator[Site]:
    """A GitHub with an App that is installed at octo-org, and a client that is this App."""
    site = Site(fake_github, app_key[0])
    site.server.app = ("7", "our-runner", app_key[1])
    site.server.installed = {"octo-org": 42}
    site.server.granted = {
        "checks": "write", "contents": "write", "statuses": "write", "pull_requests": "write",
    }  # fmt: skip
    async with site.server.served() as site.address, site.client(site.address, "") as site.github:
        yield site
    assert site.server.problems == []
