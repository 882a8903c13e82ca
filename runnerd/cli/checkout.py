"""What a checkout says about itself, and the webhook payloads a forge would send about it."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

_GIT_TIMEOUT = 20.0
_REMOTE = re.compile(
    r"^(?:https?://|ssh://|git://)?(?:[^@/]+@)?[^/:]+[:/](?:[0-9]+/)?([\w.-]+/[\w.-]+?)(?:\.git)?/?$"
)
NO_COMMIT = "0" * 40

EVENTS = ("push", "pull_request", "workflow_dispatch", "ping")
"""The events `payload` can make."""


class Checkout(msgspec.Struct, frozen=True, kw_only=True):
    """The facts of one commit in one repository; `before` is its parent, or all zeros."""

    full_name: str
    ref: str
    """A full ref: `refs/heads/…` or `refs/tags/…`."""
    sha: str
    before: str = NO_COMMIT
    default_branch: str = "main"
    message: str = ""
    author: str = "runnerd"
    email: str = "runnerd@localhost"
    timestamp: str = "1970-01-01T00:00:00+00:00"
    added: tuple[str, ...] = ()
    modified: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    @property
    def branch(self) -> str:
        """The ref without its prefix."""
        return self.ref.removeprefix("refs/heads/").removeprefix("refs/tags/")


async def describe(path: Path) -> Checkout:
    """Return the facts of a checkout's current commit. Raises `GitError` where there is none."""
    from runnerd.git.process import Git, GitError

    git = Git(os.environ)

    async def ask(*arguments: str, otherwise: str | None = None) -> str:
        try:
            output = await git.run(*arguments, cwd=path, timeout=_GIT_TIMEOUT, limit=8 << 20)
        except GitError:
            if otherwise is None:
                raise
            return otherwise
        return output.decode(errors="replace").rstrip("\n")

    top = Path(await ask("rev-parse", "--show-toplevel"))
    commit = await ask("log", "-1", "--format=%H%x00%P%x00%an%x00%ae%x00%aI%x00%B")
    sha, parents, author, email, timestamp, message = commit.split("\0", 5)
    remote = await ask("config", "--get", "remote.origin.url", otherwise="")
    ref = await ask("symbolic-ref", "-q", "HEAD", otherwise="refs/heads/main")
    upstream = await ask("symbolic-ref", "-q", "refs/remotes/origin/HEAD", otherwise="")
    changes: dict[str, list[str]] = {"A": [], "M": [], "D": []}
    listing = await ask(
        "show", "--format=", "--name-status", "-z", "--no-renames", "-m", "--first-parent", sha
    )
    fields = listing.strip("\n").split("\0")
    for kind, name in zip(fields[::2], fields[1::2], strict=False):
        changes["A" if kind == "A" else "D" if kind == "D" else "M"].append(name)
    return Checkout(
        full_name=name_of(remote, top),
        ref=ref,
        sha=sha,
        before=parents.split(" ")[0] or NO_COMMIT,
        default_branch=upstream.rpartition("/")[2] or ref.removeprefix("refs/heads/"),
        message=message.strip("\n"),
        author=author,
        email=email,
        timestamp=timestamp,
        added=tuple(changes["A"]),
        modified=tuple(changes["M"]),
        removed=tuple(changes["D"]),
    )


def name_of(remote: str, path: Path) -> str:
    """Return `owner/name` as a remote's address says it, or `local/FOLDER` where it says none."""
    if "/" in remote and (found := _REMOTE.match(remote)) and not remote.startswith(("/", ".", "file:")):
        return found[1]
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", path.name).lstrip("-.") or "repository"
    return f"local/{name[:100]}"


def payload(
    event: str,
    checkout: Checkout,
    *,
    inputs: Mapping[str, str] | None = None,
    workflow: str = "",
    number: int = 1,
) -> dict[str, Any]:
    """Return the payload of an event about a commit, with the fields every consumer reads.

    Raises ValueError for an event not in `EVENTS`.
    """
    owner, _, name = checkout.full_name.partition("/")
    account = {"login": owner, "id": _number(owner), "type": "User"}
    repository = {
        "id": _number(checkout.full_name),
        "name": name,
        "full_name": checkout.full_name,
        "private": False,
        "fork": False,
        "owner": account,
        "html_url": f"https://github.com/{checkout.full_name}",
        "clone_url": f"https://github.com/{checkout.full_name}.git",
        "default_branch": checkout.default_branch,
    }
    common: dict[str, Any] = {"repository": repository, "sender": account}
    match event:
        case "push":
            return _push(checkout) | common
        case "pull_request":
            sides = {"user": account, "repo": repository}
            return {
                "action": "opened",
                "number": number,
                "pull_request": {
                    "id": number,
                    "number": number,
                    "state": "open",
                    "title": checkout.message.partition("\n")[0],
                    "body": None,
                    "draft": False,
                    "merged": False,
                    "user": account,
                    "head": {"ref": checkout.branch, "sha": checkout.sha, **sides},
                    "base": {"ref": checkout.default_branch, "sha": checkout.before, **sides},
                    "merge_commit_sha": None,
                },
            } | common
        case "workflow_dispatch":
            path = f".github/workflows/{workflow}" if workflow and "/" not in workflow else workflow
            return {"inputs": dict(inputs or {}), "ref": checkout.ref, "workflow": path} | common
        case "ping":
            return {
                "zen": "Speak like a human.",
                "hook_id": 1,
                "hook": {"type": "Repository", "id": 1},
            } | common
    raise ValueError(f"no payload is known for {event!r}: give one as a file, or use {', '.join(EVENTS)}")


def _push(checkout: Checkout) -> dict[str, Any]:
    person = {"name": checkout.author, "email": checkout.email, "username": checkout.author}
    commit = {
        "id": checkout.sha,
        "message": checkout.message,
        "timestamp": checkout.timestamp,
        "distinct": True,
        "author": person,
        "committer": person,
        "added": list(checkout.added),
        "modified": list(checkout.modified),
        "removed": list(checkout.removed),
    }
    return {
        "ref": checkout.ref,
        "before": checkout.before,
        "after": checkout.sha,
        "created": checkout.before == NO_COMMIT,
        "deleted": False,
        "forced": False,
        "base_ref": None,
        "compare": "",
        "commits": [commit],
        "head_commit": commit,
        "pusher": {"name": checkout.author, "email": checkout.email},
    }


def _number(name: str) -> int:
    """A stable stand-in for the number a forge would give."""
    return zlib.crc32(name.casefold().encode())
