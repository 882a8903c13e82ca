"""A repository that plays the remote, with pull request 7 of `topic` into `main`."""

from __future__ import annotations

import pytest

from runnerd.git.mirror import Mirrors
from runnerd.model import Actor, Event, Repository
from runnerd.store.ledger import Delivery, open_ledger

from ..git.conftest import Origin

REPOSITORY = Repository(id=7, full_name="octo/hello")
CI = "name: CI\non: {on}\njobs: {{build: {{runs-on: ubuntu-latest, steps: [{{run: make}}]}}}}\n"


class Remote(Origin):
    """The remote, and the events that happen there."""

    def branch(self, name: str, start: str = "main", **files: str) -> str:
        """Commit files on a branch; returns the commit."""
        self.git("checkout", "--quiet", "-B", name, start)
        self.write(**files)
        sha = self.commit(f"change {name}")
        self.git("checkout", "--quiet", "main")
        return sha

    def offer(self, head: str, number: int = 7) -> None:
        """Set a pull request's head."""
        self.git("update-ref", f"refs/pull/{number}/head", head)

    def merge(self, base: str, head: str, number: int = 7) -> str:
        """Make the merge commit as a forge does in the background; returns it."""
        tree = self.git("merge-tree", "--write-tree", base, head).splitlines()[0]
        sha = self.git("commit-tree", tree, "-p", base, "-p", head, "-m", f"Merge {head} into {base}")
        self.git("update-ref", f"refs/pull/{number}/merge", sha)
        return sha

    def event(self, name: str = "pull_request", **fields: object) -> Event:
        known = {
            "delivery": "d", "name": name, "repository": REPOSITORY, "sender": Actor(id=1, login="ada"),
            "ref": "refs/heads/main",
        }  # fmt: skip
        return Event(**{**known, **fields})  # type: ignore[arg-type]

    def pull(self, head: str, base: str, **fields: object) -> Event:
        known: dict[str, object] = {
            "action": "synchronize", "ref": "refs/pull/7/merge", "report_sha": head, "base_sha": base,
            "base_ref": "main", "head_ref": "topic", "number": 7,
        }  # fmt: skip
        return self.event(**{**known, **fields})  # type: ignore[arg-type]


@pytest.fixture
def remote(tmp_path):
    return Remote(tmp_path / "hello")


@pytest.fixture
async def mirrors(tmp_path, remote):
    async with Mirrors(
        tmp_path / "mirrors", remote_of=lambda name: str(remote.folder), timeout=30.0
    ) as mirrors:
        yield mirrors


@pytest.fixture
async def ledger(tmp_path, nursery):
    """A ledger that serves writes and has accepted delivery `d`, a push."""
    async with open_ledger(tmp_path) as one:
        await nursery.start(one.serve_writes)
        await one.accept_delivery(Delivery(id="d", event="push", body=b"{}", received=1.0))
        yield one
        nursery.cancel_scope.cancel()


class Site:
    """A host with one image, for ubuntu-latest."""

    server_url = "https://forge.example"
    api_url = "https://api.forge.example"
    foreign_is_failure = False
    shared_workflows = ()
    workflow_folders: tuple[str, ...] = (".github/workflows",)

    def __init__(self):
        self.variables = {}

    def image_for(self, labels):
        return "default" if labels == ("ubuntu-latest",) else None


@pytest.fixture
def site():
    return Site()
