"""Real repositories to mirror, made with the host's git."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runnerd.git.mirror import Mirrors
from runnerd.model import Repository

REPOSITORY = Repository(id=7, full_name="octo/hello")


class Origin:
    """A repository on disk that plays the remote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.git("init", "--quiet", "--initial-branch=main", ".")

    def git(self, *arguments: str, stdin: bytes = b"") -> str:
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "GIT_CONFIG_NOSYSTEM": "1",
            **{f"GIT_{who}_{what}": "octo" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        }
        done = subprocess.run(
            ["git", *arguments], cwd=self.folder, env=env, input=stdin, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode().strip()

    def write(self, **files: str) -> None:
        for name, text in files.items():
            self.put(name, text)

    def put(self, name: str, text: str | bytes, *, mode: int = 0o644) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        path.chmod(mode)

    def commit(self, message: str = "change") -> str:
        self.git("add", "--all", "--force")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        return self.git("rev-parse", "HEAD")

    def tree_commit(self, *entries: tuple[str, str, str, bytes]) -> str:
        """Commit a hand-made tree of (mode, type, sha, name), which `git add` would refuse to make."""
        listing = b"".join(f"{m} {t} {s}\t".encode() + n + b"\0" for m, t, s, n in entries)
        tree = self.git("mktree", "-z", "--missing", stdin=listing)
        sha = self.git("commit-tree", tree, "-m", "made by hand")
        self.git("update-ref", "refs/heads/hand", sha)
        return sha

    def blob(self, text: bytes) -> str:
        return self.git("hash-object", "-w", "--stdin", stdin=text)


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    return Origin(tmp_path / "origin")


@pytest.fixture
async def mirrors(tmp_path: Path, origin: Origin) -> AsyncIterator[Mirrors]:
    remote = str(origin.folder)
    async with Mirrors(tmp_path / "mirrors", remote_of=lambda name: remote, timeout=30.0) as mirrors:
        yield mirrors
