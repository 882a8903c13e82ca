"""Fills a machine's workspace: the tree is made on the host, and no token enters the machine."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import trio

from runnerd.git import names
from runnerd.git.mirror import Mirrors
from runnerd.git.process import GitError
from runnerd.git.working_tree import WorkingTree, pack_working_tree
from runnerd.model import Repository

NO_COMMIT = "0" * 40
"""How events name the commit of a branch that has none yet."""


class Unpacks(Protocol):
    """What of a machine a checkout needs."""

    async def unpack(self, archive: Path, into: str, *, user: int = 1001) -> None:
        """Unpack a tar file of the host's into a folder of the machine."""
        ...


class CheckedOut(NamedTuple):
    """What now lies in the workspace."""

    sha: str
    ref: str


class MirrorCheckout:
    """Checks out commits of a repository's mirror, which is asked for what it does not have yet."""

    def __init__(self, mirrors: Mirrors, folder: Path) -> None:
        self._mirrors = mirrors
        self._folder = folder

    async def checkout(
        self, machine: Unpacks, *, repository: Repository, ref: str, sha: str, into: str, depth: int, url: str
    ) -> CheckedOut:
        """Unpack a commit into the folder `into` of the machine, and say which it was.

        Without `sha` it is what `ref` names now: a full ref, a branch or a tag, in this order. Raises
        `GitError` when there is no such commit, or it cannot be had.
        """
        if sha:
            if not await self._mirrors.has(repository, sha):
                await self._mirrors.fetch(repository, sha, *([ref] if ref.startswith("refs/") else []))
            if not await self._mirrors.has(repository, sha):
                raise GitError(f"{repository.full_name} has no commit {sha}; was it force-pushed away?")
        else:
            ref, sha = await self._find(repository, ref)
        if depth == 0:
            await self._mirrors.fetch_all(repository)
        async with _parcel(self._folder) as parcel:
            await self._mirrors.export(repository, sha, ref=ref, into=parcel, depth=depth, url=url)
            await machine.unpack(parcel, into)
        return CheckedOut(sha, ref)

    async def _find(self, repository: Repository, name: str) -> tuple[str, str]:
        candidates = [name] if name.startswith("refs/") else [f"refs/heads/{name}", f"refs/tags/{name}"]
        await self._mirrors.fetch(repository, *candidates)
        for ref in candidates:
            if found := await self._mirrors.resolve(repository, ref):
                return ref, found
        raise GitError(f"{repository.full_name} has no branch or tag {name!r}")


class WorkingTreeCheckout:
    """Checks out a folder of this host as it stands, for `runnerd run`, and nothing else."""

    def __init__(self, tree: WorkingTree, folder: Path, *, environ: Mapping[str, str]) -> None:
        self._tree = tree
        self._folder = folder
        self._environ = environ

    async def checkout(
        self, machine: Unpacks, *, repository: Repository, ref: str, sha: str, into: str, depth: int, url: str
    ) -> CheckedOut:
        """Unpack the working tree into the folder `into` of the machine; its history is one commit deep.

        Raises `GitError` when another commit or branch than the one at hand is asked for.
        """
        at_hand = self._tree.sha or NO_COMMIT
        short = self._tree.ref.removeprefix("refs/heads/")
        if (sha and names.sha(sha) != at_hand) or (not sha and ref not in (self._tree.ref, short)):
            raise GitError(
                f"only the working tree in {self._tree.root} can be checked out here, not {sha or ref!r}; "
                "a commit of a repository is run by the daemon"
            )
        async with _parcel(self._folder) as parcel:
            await pack_working_tree(self._tree, parcel, environ=self._environ, url=url)
            await machine.unpack(parcel, into)
        return CheckedOut(self._tree.sha, self._tree.ref)


@asynccontextmanager
async def _parcel(folder: Path) -> AsyncIterator[Path]:
    """A path for a tar file that is gone afterwards."""
    place = Path(await trio.to_thread.run_sync(lambda: tempfile.mkdtemp(dir=folder, prefix="checkout-")))
    try:
        yield place / "tree.tar"
    finally:
        shutil.rmtree(place, ignore_errors=True)
