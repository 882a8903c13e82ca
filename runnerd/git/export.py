"""A work tree with its `.git`, as actions/checkout leaves it, packed as one tar file on the host.

Nothing of the repository is run for it: there is no filter, hook or submodule. What a tree may unpack to is
bounded before anything is written.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import trio

from runnerd.git import names, process
from runnerd.git.objects import Objects
from runnerd.git.process import Git, GitError

OWNER = 1001
"""uid and gid of every file in the tar: the user steps run as."""

_TIMEOUT = 120.0
_COMMIT_BYTES = 1 << 20
_LISTING_BYTES = 128 << 20
_SCRATCH = {"core.fsync": "none"}
"""What is made here is packed and thrown away: the disk need not be waited for."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a checkout may unpack to; a few kilobytes of git can describe terabytes."""

    files: int = 500_000
    size: int = 8 << 30
    """Bytes of all files together."""
    commits: int = 10_000
    """Commits of a shallow history, `fetch-depth` over 1."""


DEFAULTS = Limits()


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """What is checked out, and how it is called."""

    sha: str
    ref: str = ""
    """The full ref it was reached by: a branch becomes the current one, else HEAD is left detached."""
    target: str = ""
    """The tag object behind `ref`, for an annotated tag."""
    url: str = ""
    """The public address that `origin` gets; never holds a token."""
    depth: int = 1
    """Commits of history; 0 is all of it."""
    refs: Mapping[str, str] = {}
    """More branches and tags (`refs/heads/…`, `refs/tags/…`) to have, with the objects they name."""


async def pack_work_tree(
    git: Git, objects: Objects, repository: Path, source: Source, into: Path, *, limits: Limits = DEFAULTS
) -> None:
    """Write the tar of a commit's files and its `.git`.

    `repository` is a bare repository or a `.git`; it is only read. Raises `GitError` when the commit
    cannot be checked out here, or is larger than the limits.
    """
    names.sha(source.sha)
    scratch = Path(await trio.to_thread.run_sync(lambda: tempfile.mkdtemp(dir=into.parent, prefix=".tree-")))
    try:
        tree = scratch / "tree"
        tree.mkdir()
        border = await _border(objects, source, limits)
        _write_git_folder(tree / ".git", source, border)
        await _measure(git, repository, source.sha, limits)
        await _pack(git, repository, tree / ".git", source, border)
        await _fill(git, repository, tree, source.sha)
        await tar(git, into, ("-C", tree, "."))
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(lambda: shutil.rmtree(scratch, ignore_errors=True))


async def pack_git_folder(
    git: Git, objects: Objects, repository: Path, source: Source, into: Path, *, limits: Limits = DEFAULTS
) -> None:
    """Write the folder `.git` alone, with the commit's tree as its index and no file checked out."""
    names.sha(source.sha)
    border = await _border(objects, source, limits)
    _write_git_folder(into, source, border)
    await _pack(git, repository, into, source, border)
    await git.run("read-tree", source.sha, cwd=into, timeout=_TIMEOUT, extra={"GIT_DIR": str(into)})


async def tar(git: Git, into: Path, members: Sequence[str | Path], *, names_from: bytes = b"") -> None:
    """Write a tar file of what `members` (arguments of GNU tar) name, owned by `OWNER`; replaces `into`.

    `names_from` is what tar reads as its standard input.
    """
    draft = into.with_name(f".{into.name}.draft")
    command = (
        "tar",
        "--create",
        f"--file={draft}",
        "--format=pax",
        "--pax-option=delete=atime,delete=ctime",
        f"--owner={OWNER}",
        f"--group={OWNER}",
        "--numeric-owner",
        "--no-acls",
        "--no-xattrs",
        "--no-selinux",
        *members,
    )
    try:
        await process.run(command, cwd=into.parent, env=git.environment(), timeout=_TIMEOUT, stdin=names_from)
        draft.replace(into)
    finally:
        draft.unlink(missing_ok=True)


async def _border(objects: Objects, source: Source, limits: Limits) -> list[str]:
    """Return the commits where the history is cut: in it themselves, their parents not."""
    if source.depth == 0:
        return []
    seen = {source.sha}
    generation = [source.sha]
    border: list[str] = []
    for level in range(1, source.depth + 1):
        following: list[str] = []
        for sha in generation:
            parents = await _parents(objects, sha)
            if level == source.depth:
                border += [sha] if parents else []
            else:
                following += [parent for parent in dict.fromkeys(parents) if parent not in seen]
                seen.update(parents)
        if len(seen) > limits.commits:
            raise GitError(f"fetch-depth {source.depth} reaches over {limits.commits} commits; use 0 for all")
        generation = following
    return border


async def _parents(objects: Objects, sha: str) -> list[str]:
    answer = await objects.read(sha, limit=_COMMIT_BYTES)
    if answer is None or answer[0].kind != "commit":
        raise GitError(f"commit {sha} is not in the mirror")
    header = answer[1].partition(b"\n\n")[0]
    return [
        names.sha(line[7:].decode(errors="replace"))
        for line in header.split(b"\n")
        if line.startswith(b"parent ")
    ]


async def _measure(git: Git, repository: Path, sha: str, limits: Limits) -> None:
    """Raise `GitError` when the files of a commit are too many or too large together."""
    listing = await git.run(
        "ls-tree",
        "-r",
        "-z",
        "-l",
        "--full-tree",
        sha,
        cwd=repository,
        timeout=_TIMEOUT,
        limit=_LISTING_BYTES,
    )
    files, size = await trio.to_thread.run_sync(_count, listing)
    if files > limits.files or size > limits.size:
        raise GitError(
            f"commit {sha} has {files} files of {size >> 20} MiB; "
            f"at most {limits.files} files of {limits.size >> 20} MiB are checked out"
        )


def _count(listing: bytes) -> tuple[int, int]:
    sizes = [line.partition(b"\t")[0].rpartition(b" ")[2] for line in listing.split(b"\0") if line]
    return len(sizes), sum(int(size) for size in sizes if size != b"-")


def _write_git_folder(folder: Path, source: Source, border: Sequence[str]) -> None:
    for name in ("objects/info", "objects/pack", "refs/heads", "refs/tags", "info"):
        (folder / name).mkdir(parents=True)
    branch = source.ref.removeprefix("refs/heads/") if source.ref.startswith("refs/heads/") else ""
    refs = {_tracking(names.ref(name)): names.sha(sha) for name, sha in source.refs.items()}
    config = (
        "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n"
        "\tlogallrefupdates = true\n[gc]\n\tauto = 0\n"
    )
    if source.url:
        config += f'[remote "origin"]\n\turl = {_quoted(source.url)}\n'
        config += "\tfetch = +refs/heads/*:refs/remotes/origin/*\n"
    if source.ref:
        names.ref(source.ref)
        refs[_tracking(source.ref)] = source.target or source.sha
    if branch:
        refs[source.ref] = source.sha
        if source.url:
            merge = _quoted(source.ref)
            config += f"[branch {_quoted(branch)}]\n\tremote = origin\n\tmerge = {merge}\n"
    (folder / "config").write_text(config)
    (folder / "HEAD").write_text(f"ref: {source.ref}\n" if branch else f"{source.sha}\n")
    lines = [f"{sha} {name}\n" for name, sha in sorted(refs.items())]
    (folder / "packed-refs").write_text("# pack-refs with: sorted \n" + "".join(lines))
    if border:
        (folder / "shallow").write_text("".join(f"{sha}\n" for sha in sorted(border)))


def _tracking(ref: str) -> str:
    """Where actions/checkout keeps a remote's ref: branches under origin, pull requests beside it."""
    for prefix, place in (("refs/heads/", "refs/remotes/origin/"), ("refs/pull/", "refs/remotes/pull/")):
        if ref.startswith(prefix):
            return place + ref.removeprefix(prefix)
    return ref


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    if not escaped.isprintable():
        raise GitError(f"{text!r} cannot be written into git's configuration")
    return f'"{escaped}"'


async def _pack(git: Git, repository: Path, folder: Path, source: Source, border: Sequence[str]) -> None:
    """Write the objects of the history between the commit and its border as one pack."""
    tips = dict.fromkeys([source.sha, source.target or source.sha, *source.refs.values()])
    wanted = [f"--shallow {sha}" for sha in border] + [names.sha(tip) for tip in tips]
    await git.run(
        "pack-objects",
        "--quiet",
        "--revs",
        *(["--shallow"] if border else []),
        "--delta-base-offset",
        # Deltas that are there are kept; looking for new ones costs more than it saves on one host.
        "--window=0",
        "--threads=1",
        folder / "objects" / "pack" / "pack",
        cwd=repository,
        timeout=_TIMEOUT,
        stdin="".join(f"{line}\n" for line in wanted).encode(),
        settings=_SCRATCH,
    )


async def _fill(git: Git, repository: Path, tree: Path, sha: str) -> None:
    """Check a commit's files out, with an index that agrees."""
    await git.run(
        "read-tree",
        "--reset",
        "-u",
        sha,
        cwd=tree,
        timeout=_TIMEOUT,
        settings=_SCRATCH,
        extra={"GIT_DIR": str(tree / ".git"), "GIT_WORK_TREE": str(tree)},
    )
