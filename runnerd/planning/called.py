"""The reusable workflows that a file calls, found and pinned: each with its text and its commit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from fnmatch import fnmatchcase

import msgspec

from runnerd.git import names as git_names
from runnerd.git.mirror import Mirrors, Refused
from runnerd.git.process import GitError
from runnerd.model import Event, Repository
from runnerd.reading.process import Reader
from runnerd.store.changes import NewCalled
from runnerd.trust.grants import strangers
from runnerd.workflow.model import Limits, Workflow, WorkflowErrors
from runnerd.workflow.reader.reusable import Named, names, parts

Find = Callable[[str], Awaitable[NewCalled]]
"""The workflow of a name; raises LookupError with a sentence where there is none, or none for us."""

FOLDER = ".github/workflows"
_LIMITS = Limits()


class Gathered(msgspec.Struct, frozen=True):
    """What a file calls, directly and through others, by name, and why some of it is not there."""

    files: dict[str, NewCalled]
    missing: dict[str, str]


async def gather(workflow: Workflow, find: Find, reader: Reader) -> Gathered:
    """Find all that a file calls. What is more than the language allows is left out; reading says so."""
    files: dict[str, NewCalled] = {}
    missing: dict[str, str] = {}
    waiting = [(name, 1) for name in names(workflow)]
    while waiting and len(files) + len(missing) <= _LIMITS.files:
        name, depth = waiting.pop(0)
        if name in files or name in missing:
            continue
        try:
            files[name] = await find(name)
        except LookupError as problem:
            missing[name] = str(problem.args[0])
            continue
        if depth < _LIMITS.calls:
            try:
                called = await reader.load(files[name].text, name)
            except WorkflowErrors:
                continue  # reading the whole says what is wrong with it
            waiting += [(inner, depth + 1) for inner in names(called, name)]
    return Gathered(files, missing)


class Finder:
    """Finds the reusable workflows of one event in the mirrors; a ref that is named twice is one commit.

    `sha` is the commit the calling file is from; `shared` are the patterns of repositories whose workflows
    anybody may call (`owner/name`, `owner/*`). `last`: what cannot be asked now is missing for good.
    """

    def __init__(
        self, mirrors: Mirrors, event: Event, sha: str, *, shared: tuple[str, ...] = (), last: bool = False
    ) -> None:
        self._mirrors, self._event, self._sha = mirrors, event, sha
        self._shared, self._last = shared, last
        self._commits: dict[tuple[str, str], str] = {}

    async def find(self, name: str) -> NewCalled:
        """See `Find`; raises `GitError` where the remote cannot be asked and this is not the last try."""
        wanted = parts(name)
        if not wanted.repository:
            text = await self._text(self._event.repository, self._sha, wanted)
            return self._called(name, wanted, self._event.repository, self._event.ref, self._sha, text)
        repository = self._allowed(wanted.repository)
        try:
            sha = await self._commit(repository, wanted.ref)
            text = await self._text(repository, sha, wanted)
        except GitError as problem:
            if not self._last:
                raise
            raise LookupError(f"{wanted.repository} could not be read: {problem}") from problem
        return self._called(name, wanted, repository, wanted.ref, sha, text)

    def _allowed(self, full_name: str) -> Repository:
        """The repository, if the calling one may see its workflows."""
        own = self._event.repository
        if full_name.casefold() == own.full_name.casefold():
            return own
        owner = full_name.partition("/")[0]
        shared = any(fnmatchcase(full_name.casefold(), each.casefold()) for each in self._shared)
        if strangers(self._event) and not shared:
            # What we may read there, the author of these files may not: not even whether it exists.
            raise LookupError(
                "a pull request from a fork may call workflows of its base repository, and of repositories "
                "that the operator of runnerd named ([parser] shared_workflows)"
            )
        if owner.casefold() != own.owner.casefold() and not shared:
            raise LookupError(
                f"{own.full_name} may call workflows of its own owner and of repositories that the operator "
                f"of runnerd named ([parser] shared_workflows), and {full_name} is neither"
            )
        return Repository(id=0, full_name=full_name)

    async def _commit(self, repository: Repository, ref: str) -> str:
        known = (repository.full_name.casefold(), ref)
        if known not in self._commits:
            self._commits[known] = await self._resolved(repository, ref)
        return self._commits[known]

    async def _resolved(self, repository: Repository, ref: str) -> str:
        """The commit that a ref names: by its id, else a tag, else a branch, as GitHub looks."""
        if git_names.is_sha(ref):
            await self._mirrors.fetch(repository, ref)
            if await self._mirrors.has(repository, ref):
                return ref
        candidates = [ref] if ref.startswith("refs/") else [f"refs/tags/{ref}", f"refs/heads/{ref}"]
        try:
            candidates = [git_names.ref(each) for each in candidates]
        except GitError as wrong:
            raise LookupError(str(wrong)) from wrong
        await self._mirrors.fetch(repository, *candidates)
        for candidate in candidates:
            if sha := await self._mirrors.resolve(repository, candidate):
                return sha
        raise LookupError(f"{repository.full_name} has no tag, branch or commit {ref[:200]!r}")

    async def _text(self, repository: Repository, sha: str, wanted: Named) -> str:
        found = (await self._mirrors.workflow_files(repository, sha, FOLDER)).get(wanted.path)
        if found is None:
            raise LookupError(f"{repository.full_name} has no {wanted.path[:200]} at {sha[:12]}")
        if isinstance(found, Refused):
            raise LookupError(found.reason)
        return found.decode("utf-8", "replace")

    def _called(
        self, name: str, wanted: Named, repository: Repository, ref: str, sha: str, text: str
    ) -> NewCalled:
        return NewCalled(
            name=name, text=text, repository=repository.full_name, path=wanted.path, ref=ref, sha=sha
        )
