"""One bare mirror per repository: fetched from the configured remote, read without asking it again.

A commit that was fetched can be read as long as the mirror stands; nothing of it is ever run.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import trio

from runnerd.git import names
from runnerd.git.credential import login
from runnerd.git.export import DEFAULTS, Limits, Source, pack_work_tree
from runnerd.git.objects import Objects
from runnerd.git.process import Git, GitError, GitFailed
from runnerd.git.shelf import Shelf
from runnerd.git.workflow_files import Refused, read_workflow_files
from runnerd.model import Repository

CHANGED_COMMITS = 1000
"""A diff over more commits is not made: GitHub then runs the workflow whatever its path filters say."""

_DIFF_BYTES = 16 << 20
_COMMIT_BYTES = 1 << 20
_FILES_KEPT = 256
_READERS_KEPT = 8
_LOCAL_TIMEOUT = 30.0
_PACKS_BEFORE_REPACK = 40
_FETCH_ROUNDS = 8
_SLOTS_KEPT = 1000

_MERGE_TREE = ("merge-tree", "--write-tree", "--name-only", "--no-messages", "-z")

_NO_SUCH_REF = re.compile(r"couldn't find remote ref (refs/\S+)")
_NO_SUCH_COMMIT = re.compile(
    r"not our ref|unadvertised object|no such remote ref|couldn't find remote ref [0-9a-f]{40}"
)


__all__ = ["CHANGED_COMMITS", "Commit", "Mirrors", "Refused"]


class Commit(msgspec.Struct, frozen=True):
    """What is read of a commit."""

    parents: tuple[str, ...]
    message: str


async def _nobody(repository: str) -> None:
    """Nobody's name: anonymous reading."""


class Mirrors:
    """The mirrors under one folder.

    `remote_of` names the configured remote of a repository (never a URL out of a payload), `credential`
    gives (user, password) for it or None; `timeout` bounds one fetch in seconds, `limits` what is checked
    out, `shelf_size` (bytes) the finished tar files kept for the next leg of a matrix. Every method raises
    `GitError` with a sentence when git cannot do it. Open as a context, or call `close`.
    """

    def __init__(
        self,
        root: Path,
        *,
        remote_of: Callable[[str], str],
        credential: Callable[[str], Awaitable[tuple[str, str] | None]] = _nobody,
        timeout: float = 300.0,
        environ: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.time,
        limits: Limits = DEFAULTS,
        shelf_size: int = 4 << 30,
    ) -> None:
        self.git = Git(os.environ if environ is None else environ)
        self._root = root
        self._remote_of = remote_of
        self._credential = credential
        self._timeout = timeout
        self._clock = clock
        self._limits = limits
        self._shelf = Shelf(root / ".exports", size=shelf_size)
        self._locks: dict[Path, trio.Lock] = {}
        self._readers: OrderedDict[Path, Objects] = OrderedDict()
        self._files: OrderedDict[tuple[Path, str, str], dict[str, bytes | Refused]] = OrderedDict()
        self._ready: set[Path] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End every git that is kept running; safe to call twice."""
        with trio.CancelScope(shield=True):
            for objects in list(self._readers.values()):
                await objects.close()

    def folder(self, repository: Repository) -> Path:
        """Return where this repository's mirror is or will be."""
        return self._root / names.folder(repository)

    async def objects(self, repository: Repository) -> Objects:
        """Return the reader of this repository's objects."""
        folder = await self._prepare(repository)
        objects = self._readers.setdefault(folder, Objects(self.git, folder))
        self._readers.move_to_end(folder)
        idle = [reader for reader in self._readers.values() if reader.idle and reader is not objects]
        for reader in idle[: max(0, len(idle) - _READERS_KEPT)]:
            await reader.close()
        return objects

    async def has(self, repository: Repository, sha: str) -> bool:
        """Whether this commit is in the mirror."""
        found = await (await self.objects(repository)).info(names.sha(sha))
        return found is not None and found.kind == "commit"

    async def fetch(self, repository: Repository, *wanted: str) -> None:
        """Bring refs (`refs/…`) up to date, and commits (40 digits) into the mirror where they are missing.

        What the remote does not have is not an error: `resolve` gives None for such a ref and `has` is
        false for such a commit. Raises `GitError` when the remote cannot be asked.
        """
        shas = [names.sha(w) for w in wanted if not w.startswith("refs/")]
        refs = [names.ref(w) for w in wanted if w.startswith("refs/")]
        folder = await self._prepare(repository)
        async with self._lock(folder):
            missing = [sha for sha in shas if not await self.has(repository, sha)]
            await self._fetch_named(repository, folder, refs, missing)
            if any([not await self.has(repository, sha) for sha in missing]):
                # A server that gives no commit by its id may still give a branch that holds it.
                await self._fetch_all(repository, folder)
            await self._tidy(folder)

    async def fetch_all(self, repository: Repository) -> None:
        """Bring every branch and tag up to date, for `refs_of`."""
        folder = await self._prepare(repository)
        async with self._lock(folder):
            await self._fetch_all(repository, folder)
            await self._tidy(folder)

    async def refs_of(self, repository: Repository) -> dict[str, str]:
        """Return every branch and tag of the last `fetch_all`, with the object each names."""
        folder = await self._prepare(repository)
        listed = await self.git.run(
            "for-each-ref",
            "--format=%(objectname) %(refname)",
            "refs/runnerd/all/",
            cwd=folder,
            timeout=_LOCAL_TIMEOUT,
            limit=_DIFF_BYTES,
        )
        lines = (line.split(" ", 1) for line in listed.decode(errors="surrogateescape").splitlines())
        return {"refs/" + name.removeprefix("refs/runnerd/all/"): sha for sha, name in lines}

    async def resolve(self, repository: Repository, ref: str) -> str | None:
        """Return the commit this full ref named when it was last fetched, None if the remote had none."""
        found = await (await self.objects(repository)).info(_slot(names.ref(ref)) + "^{commit}")
        return found.sha if found else None

    async def target(self, repository: Repository, ref: str) -> str | None:
        """Return the object this full ref named, which is a tag object for an annotated tag."""
        found = await (await self.objects(repository)).info(_slot(names.ref(ref)))
        return found.sha if found else None

    async def commit(self, repository: Repository, sha: str) -> Commit:
        """Return what a commit in the mirror says of itself."""
        found = await (await self.objects(repository)).read(names.sha(sha), limit=_COMMIT_BYTES)
        if found is None or found[0].kind != "commit":
            raise GitError(f"commit {sha} of {repository.full_name} is not in the mirror; fetch it first")
        head, _, message = found[1].partition(b"\n\n")
        parents = [line[7:].decode() for line in head.split(b"\n") if line.startswith(b"parent ")]
        return Commit(parents=tuple(parents), message=message.decode(errors="replace"))

    async def is_ancestor(self, repository: Repository, old: str, new: str) -> bool:
        """Whether `new` has `old` in its history (or is it); False too where either is not in the mirror."""
        try:
            place = self.folder(repository)
            await self._git(place, "merge-base", "--is-ancestor", names.sha(old), names.sha(new))
        except GitFailed:
            return False
        return True

    async def conflicts(self, repository: Repository, base: str, head: str) -> tuple[str, ...]:
        """Return the files in which git cannot merge two commits of the mirror by itself."""
        try:
            await self._git(self.folder(repository), *_MERGE_TREE, names.sha(base), names.sha(head))
        except GitFailed as failure:
            if failure.status != 1 or not failure.output:
                raise
            _, *files = failure.output.decode(errors="replace").split("\0")
            return tuple(name for name in files if name)
        return ()

    async def workflow_files(
        self, repository: Repository, sha: str, folder: str = ".github/workflows"
    ) -> dict[str, bytes | Refused]:
        """Return the workflow files of a commit by path, as `read_workflow_files` does; kept for the next.

        Raises `GitError` when the commit is not in the mirror.
        """
        place = self.folder(repository)
        key = (place, names.sha(sha), names.tree_path(folder))
        if key not in self._files:
            objects = await self.objects(repository)
            if not await self.has(repository, sha):
                raise GitError(f"commit {sha} of {repository.full_name} is not in the mirror; fetch it first")
            self._files[key] = await read_workflow_files(objects, sha, key[2])
            while len(self._files) > _FILES_KEPT:
                self._files.popitem(last=False)
        self._files.move_to_end(key)
        return dict(self._files[key])

    async def changed_files(
        self, repository: Repository, base: str | None, head: str, *, merge_base: bool = False
    ) -> tuple[str, ...] | None:
        """Return the paths that differ between two commits; a renamed file counts with both names.

        With `merge_base` (pull requests) the comparison starts where the two parted. A `base` that is
        missing is fetched, for it may have been force-pushed away. None when either commit cannot be had,
        they have no common ancestor, or over 1000 commits lie between them: path filters then do not apply.
        """
        if not base or not base.strip("0") or not await self.has(repository, head):
            return None
        folder = self.folder(repository)
        if not await self.has(repository, base):
            try:
                async with self._lock(folder):
                    await self._fetch_named(repository, folder, [], [base])
            except GitError:
                return None
            if not await self.has(repository, base):
                return None
        if merge_base:
            try:
                common = await self._git(folder, "merge-base", base, head)
            except GitError:
                return None
            base = names.sha(common.decode().strip())
        count = await self._git(
            folder, "rev-list", "--count", f"--max-count={CHANGED_COMMITS + 1}", f"{base}..{head}"
        )
        if int(count) > CHANGED_COMMITS:
            return None
        listed = await self._git(
            folder, "diff-tree", "-r", "-z", "--name-only", "--no-renames", "--no-ext-diff", base, head
        )
        return tuple(name.decode(errors="replace") for name in listed.split(b"\0") if name)

    async def export(
        self,
        repository: Repository,
        sha: str,
        *,
        ref: str = "",
        into: Path,
        depth: int = 1,
        url: str = "",
    ) -> None:
        """Write the tar of a commit's work tree with its `.git`, names relative to where it is unpacked.

        `ref` is the full ref the commit was reached by, `depth` the commits of history (0 is all of it,
        with every branch and tag), `url` what the remote `origin` shall be called. Made once per commit and
        options and linked to `into` after that; `into` is the caller's to remove.
        """
        folder = await self._prepare(repository)
        if not await self.has(repository, sha):
            raise GitError(f"commit {sha} of {repository.full_name} is not in the mirror; fetch it first")
        target = await self.target(repository, ref) if ref.startswith("refs/tags/") else None
        if target and await self.resolve(repository, ref) != sha:
            target = None
        refs = {} if depth else await self.refs_of(repository)
        source = Source(sha=sha, ref=ref, target=target or "", url=url, depth=depth, refs=refs)
        objects = await self.objects(repository)

        async def make(path: Path) -> None:
            await pack_work_tree(self.git, objects, folder, source, path, limits=self._limits)

        key = msgspec.json.encode((str(folder), source), order="deterministic")
        await self._shelf.get(hashlib.sha256(key).hexdigest(), make, into)

    async def _git(self, folder: Path, *arguments: str) -> bytes:
        return await self.git.run(*arguments, cwd=folder, timeout=_LOCAL_TIMEOUT, limit=_DIFF_BYTES)

    async def _fetch_named(
        self, repository: Repository, folder: Path, refs: list[str], shas: list[str]
    ) -> None:
        specs = {ref: f"+{ref}:{_slot(ref)}" for ref in refs}
        specs |= {sha: f"+{sha}:{_slot(sha)}" for sha in shas}
        for _ in range(_FETCH_ROUNDS):
            if not specs:
                return
            try:
                await self._remote(repository, folder, *specs.values())
                return
            except GitError as error:
                # Git gives up the whole fetch for one name the remote does not have.
                absent = _NO_SUCH_REF.search(str(error))
                if absent and absent[1] in specs:
                    del specs[absent[1]]
                    await self._git(folder, "update-ref", "-d", _slot(absent[1]))
                elif _NO_SUCH_COMMIT.search(str(error)) and any(map(names.is_sha, specs)):
                    specs = {name: spec for name, spec in specs.items() if not names.is_sha(name)}
                else:
                    raise
        raise GitError(f"{repository.full_name} has fewer refs than were asked for, again and again")

    async def _fetch_all(self, repository: Repository, folder: Path) -> None:
        await self._remote(
            repository,
            folder,
            "+refs/heads/*:refs/runnerd/all/heads/*",
            "+refs/tags/*:refs/runnerd/all/tags/*",
            prune=True,
        )

    async def _remote(self, repository: Repository, folder: Path, *specs: str, prune: bool = False) -> None:
        remote = self._remote_of(repository.full_name)
        protocol = names.scheme(remote)
        arguments = ["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance"]
        if prune:
            arguments.append("--prune")
        if protocol == "file":
            # The other side of a local remote is a git of ours as well, and starts from nothing.
            arguments.append(
                "--upload-pack=git -c safe.directory=* -c uploadpack.allowAnySHA1InWant=true upload-pack"
            )
        with login(remote, await self._credential(repository.full_name)) as way_in:
            await self.git.run(
                *arguments,
                "--end-of-options",
                remote,
                *specs,
                cwd=folder,
                timeout=self._timeout,
                protocol=protocol,
                settings=way_in.settings,
                descriptors=way_in.descriptors,
            )

    async def _prepare(self, repository: Repository) -> Path:
        """Make the mirror if there is none, and clear what a killed git left in it."""
        folder = self.folder(repository)
        if folder in self._ready:
            return folder
        async with self._lock(folder, preparing=True):
            if folder not in self._ready:
                if not (folder / "HEAD").exists():
                    fresh = folder.with_name(f".{folder.name}.new")
                    await trio.to_thread.run_sync(_clear, fresh)
                    await self.git.run(
                        "init", "--bare", "--quiet", "--template=", "--initial-branch=main", ".",
                        cwd=fresh, timeout=_LOCAL_TIMEOUT,
                    )  # fmt: skip
                    os.rename(fresh, folder)
                else:
                    await trio.to_thread.run_sync(_sweep, folder, self._clock() - self._timeout)
                self._ready.add(folder)
        return folder

    async def _tidy(self, folder: Path) -> None:
        """Keep packs and slots few; no object is dropped."""
        packs = sum(name.endswith(".pack") for name in os.listdir(folder / "objects" / "pack"))
        if packs > _PACKS_BEFORE_REPACK:
            await self.git.run("repack", "-d", "-q", "--geometric=2", cwd=folder, timeout=self._timeout)
        slots = folder / "refs" / "runnerd" / "one"
        if slots.is_dir() and len(os.listdir(slots)) > _SLOTS_KEPT:
            await trio.to_thread.run_sync(_forget_oldest, slots, _SLOTS_KEPT // 2)

    def _lock(self, folder: Path, *, preparing: bool = False) -> trio.Lock:
        return self._locks.setdefault(folder / "new" if preparing else folder, trio.Lock())


def _slot(wanted: str) -> str:
    """Where a fetched ref or commit is kept. A hash, because `a` and `a/b` may follow one another."""
    return f"refs/runnerd/one/{hashlib.sha256(wanted.encode()).hexdigest()[:32]}"


def _clear(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _forget_oldest(slots: Path, keep: int) -> None:
    """Remove all but the newest slots, so that what a fetch tells the other side stays short."""
    by_age = sorted(os.scandir(slots), key=lambda entry: entry.stat().st_mtime)
    for entry in by_age[:-keep]:
        os.unlink(entry.path)


def _sweep(folder: Path, before: float) -> None:
    """Remove lock files and half packs that no living git can own."""
    for place, _, files in os.walk(folder):
        for name in files:
            path = os.path.join(place, name)
            left_over = name.endswith(".lock") or name.startswith("tmp_")
            if left_over and os.lstat(path).st_mtime < before:
                os.unlink(path)
