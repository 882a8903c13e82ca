"""The sample repository of the demo: one workflow that uses what ordinary workflows use."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

NAME = "demo/hello"
BRANCH = "main"
VERSION = "1.2.3"

JOBS = ("build", "test (plain)", "test (spicy)", "release")
"""The jobs of one run, as they are shown, in the order they may start."""

WORKFLOW = """\
name: Hello
run-name: Hello from ${{ github.ref_name }}

on:
  push:
    branches: [main]

env:
  GREETING: hello

jobs:
  build:
    runs-on: ubuntu-latest
    outputs:
      version: ${{ steps.version.outputs.version }}
    steps:
      - uses: actions/checkout@v4
      - name: Say where this runs
        run: ./where.sh
      - name: Read the version
        id: version
        run: echo "version=$(cat VERSION)" >> "$GITHUB_OUTPUT"

  test:
    needs: build
    runs-on: ubuntu-latest
    strategy:
      matrix:
        flavour: [plain, spicy]
    env:
      FLAVOUR: ${{ matrix.flavour }}
    steps:
      - uses: actions/checkout@v4
      - name: Say where this runs
        run: ./where.sh
      - name: Greet
        run: echo "$GREETING, $FLAVOUR world"
      - name: Fail, as this step is allowed to
        id: fragile
        continue-on-error: true
        run: exit 3
      - name: Go on all the same
        if: steps.fragile.outcome == 'failure'
        run: echo "it ended as ${{ steps.fragile.outcome }} and counts as ${{ steps.fragile.conclusion }}"

  release:
    needs: [build, test]
    runs-on: ubuntu-latest
    env:
      VERSION: ${{ needs.build.outputs.version }}
    steps:
      - uses: actions/checkout@v4
      - name: Say where this runs
        run: ./where.sh
      - name: Use another job's output
        run: |
          echo "releasing version $VERSION of $GITHUB_REPOSITORY"
          test "$VERSION" = "$(cat VERSION)"
"""

WHERE = """\
#!/bin/sh
# What only this machine can say about itself.
echo "boot-id $(cat /proc/sys/kernel/random/boot_id)"
echo "machine-id $(cat /etc/machine-id)"
echo "kernel $(uname -sr), up for $(cut -d ' ' -f 1 /proc/uptime) s"
"""

README = "A repository for `make demo`; every demo adds a commit and pushes it, so to speak.\n"


def make(path: Path, *, stamp: str, warn: Callable[[str], None] = lambda sentence: None) -> None:
    """Make the repository, or add a commit to it; `stamp` makes this commit differ from the last.

    A repository that git cannot use any more is made anew. Raises `GitError`.
    """
    import trio

    from runnerd.git.process import GitError

    try:
        _write(path, stamp)
        trio.run(_commit, path, stamp)
    except GitError as error:
        if not (path / ".git").exists():
            raise
        warn(f"{path} is made anew: {error}")
        shutil.rmtree(path)
        _write(path, stamp)
        trio.run(_commit, path, stamp)


def _write(path: Path, stamp: str) -> None:
    files = {
        ".github/workflows/hello.yml": WORKFLOW,
        "where.sh": WHERE,
        "README.md": README,
        "VERSION": VERSION + "\n",
        "STAMP": stamp + "\n",
    }
    for name, text in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
    (path / "where.sh").chmod(0o755)


async def _commit(path: Path, stamp: str) -> None:
    from runnerd.git.process import Git

    git = Git(os.environ)
    author = {"GIT_AUTHOR_NAME": "Demo", "GIT_AUTHOR_EMAIL": "demo@example.com"}
    author |= {name.replace("AUTHOR", "COMMITTER"): value for name, value in author.items()}
    for arguments in (
        ("init", "--quiet", f"--initial-branch={BRANCH}"),
        ("add", "--all"),
        ("commit", "--quiet", "--no-gpg-sign", "--message", f"Say hello at {stamp}"),
    ):
        await git.run(*arguments, cwd=path, timeout=30, extra=author)
