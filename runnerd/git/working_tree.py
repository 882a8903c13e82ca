"""A checkout of the user's as it stands: what it is, and its files with a `.git`, packed for a machine.

For `runnerd run`. The user's files are only read.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import trio

from runnerd.git import names
from runnerd.git.export import Source, pack_git_folder, tar
from runnerd.git.objects import Objects
from runnerd.git.process import Git, GitError

_TIMEOUT = 60.0
_LISTING_BYTES = 128 << 20


class WorkingTree(msgspec.Struct, frozen=True, kw_only=True):
    """A checkout on this host."""

    root: Path
    """The folder `.git` is in."""
    git_folder: Path
    """Where its refs and objects are, also for a linked work tree."""
    sha: str = ""
    """The commit HEAD names; empty before the first commit."""
    ref: str = ""
    """The current branch as `refs/heads/…`; empty when HEAD is detached."""
    remote: str = ""
    """The address of `origin`, without any login in it."""
    full_name: str = ""
    """owner/name as the remote's address says, or `local/FOLDER`."""


async def describe(path: Path, *, environ: Mapping[str, str]) -> WorkingTree:
    """Say what checkout this path is in; raises `GitError` when it is in none."""
    git = Git(environ)
    try:
        answer = await git.run(
            "rev-parse", "--path-format=absolute", "--show-toplevel", "--git-common-dir",
            cwd=path, timeout=_TIMEOUT,
        )  # fmt: skip
    except GitError as error:
        raise GitError(f"{path} is not a git checkout: {error}; run `git init` there first") from error
    root, common = (Path(os.fsdecode(line)) for line in answer.splitlines())
    sha = await _optional(git, root, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    ref = await _optional(git, root, "symbolic-ref", "--quiet", "HEAD")
    remote = await _optional(git, root, "config", "--get", "remote.origin.url")
    return WorkingTree(
        root=root,
        git_folder=common,
        sha=sha,
        ref=ref if ref.startswith("refs/heads/") else "",
        remote=_public(remote),
        full_name=_full_name(remote) or f"local/{root.name}",
    )


async def pack_working_tree(
    tree: WorkingTree, into: Path, *, environ: Mapping[str, str], url: str = ""
) -> None:
    """Write a tar of the checkout as it is: tracked files and untracked ones that git does not ignore.

    Its `.git` has HEAD at depth 1, on the same branch, with the index of that commit: what was changed
    and not committed shows there as changed. A nested repository and a submodule stay empty.
    """
    git = Git(environ)
    listing = await git.run(
        "ls-files", "-z", "--cached", "--others", "--exclude-standard",
        cwd=tree.root, timeout=_TIMEOUT, limit=_LISTING_BYTES,
    )  # fmt: skip
    files = await trio.to_thread.run_sync(_present, tree.root, listing)
    scratch = Path(await trio.to_thread.run_sync(lambda: tempfile.mkdtemp(dir=into.parent, prefix=".tree-")))
    objects = Objects(git, tree.git_folder)
    try:
        if tree.sha:
            source = Source(sha=tree.sha, ref=tree.ref, url=url or tree.remote)
            await pack_git_folder(git, objects, tree.git_folder, source, scratch / ".git")
        else:
            await git.run(
                "init", "--quiet", "--template=", "--initial-branch=main", ".", cwd=scratch, timeout=_TIMEOUT
            )
        members = ("-C", scratch, ".git", "-C", tree.root, "--no-recursion")
        await tar(
            git, into, (*members, "--null", "--verbatim-files-from", "--files-from=-"), names_from=files
        )
    finally:
        with trio.CancelScope(shield=True):
            await objects.close()
            await trio.to_thread.run_sync(lambda: shutil.rmtree(scratch, ignore_errors=True))


def workflow_files(root: Path, folder: str = ".github/workflows") -> dict[str, bytes]:
    """Return the workflow files of a checkout as they stand, by path; links and folders are left out."""
    place = root / names.tree_path(folder)
    if not place.is_dir():
        return {}
    return {
        f"{folder}/{entry.name}": Path(entry.path).read_bytes()
        for entry in sorted(os.scandir(place), key=lambda entry: entry.name)
        if entry.name.endswith((".yml", ".yaml")) and entry.is_file(follow_symlinks=False)
    }


async def _optional(git: Git, root: Path, *arguments: str) -> str:
    try:
        return os.fsdecode(await git.run(*arguments, cwd=root, timeout=_TIMEOUT)).strip()
    except GitError:
        return ""


def _present(root: Path, listing: bytes) -> bytes:
    """Keep the files and links that are there; what is deleted or a folder (nested repository) is not."""
    kept = []
    for name in dict.fromkeys(listing.split(b"\0")):
        path = os.path.join(os.fsencode(root), name)
        if name and (os.path.islink(path) or os.path.isfile(path)):
            kept.append(name + b"\0")
    return b"".join(kept)


def _public(remote: str) -> str:
    parts = urlsplit(remote) if "://" in remote else None
    if parts is None or parts.scheme not in ("http", "https"):
        return remote if remote.isprintable() else ""
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _full_name(remote: str) -> str:
    if remote.startswith(("/", ".", "file:")) or ":" not in remote:
        return ""
    path = urlsplit(remote).path if "://" in remote else remote.partition(":")[2]
    parts = path.removesuffix(".git").strip("/").split("/")
    return "/".join(parts[-2:]) if len(parts) >= 2 else ""
