"""The commit at which an event happens, found in the mirror: a ref's tip, or a pull request's merge commit.

GitHub makes the merge commit in the background and leaves an older one where there is a conflict. So it is
taken only if its parents are the head and the base the event is about; whether there is a conflict, git
says here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from runnerd.forge.places import PLACES, Spot
from runnerd.git.mirror import Mirrors
from runnerd.git.process import GitError
from runnerd.model import Event

FILES_SHOWN = 10

Nudge = Callable[[str, int], Awaitable[None]]
"""Asks the forge about pull request N of a repository, which makes it look whether it can be merged."""

_STARTING = frozenset({"opened", "synchronize", "reopened"})


class Passed(Exception):
    """What the event is about is over: nothing is to be started for it. The sentence says why."""


class Absent(Exception):
    """The remote does not have the event's ref, not yet or not any more."""


class NotMerged(Exception):
    """The forge has not made the merge commit yet, and there is no conflict."""

    def __init__(self, sentence: str, event: Event) -> None:
        super().__init__(sentence)
        self.event = event
        """With its head in `sha` and `report_sha`."""


class Conflict(Exception):
    """The pull request cannot be merged: `event` is it at its head, the sentence names the files."""

    def __init__(self, sentence: str, event: Event) -> None:
        super().__init__(sentence)
        self.event = event


async def locate(event: Event, mirrors: Mirrors, *, merges: bool, nudge: Nudge | None = None) -> Event:
    """Fetch what an event needs and return it with `sha`, `report_sha` and, of a pull request, its message.

    `merges` says that the remote makes merge commits of pull requests; where it does not and has none, the
    head is built. Raises `Passed`, `Absent`, `NotMerged`, `Conflict`, and `GitError` when the remote cannot
    be asked.
    """
    spot = PLACES[event.name].runs_on if event.name in PLACES else Spot.PUSHED
    if spot is Spot.MERGE and not event.sha:
        return await _pull_request(event, mirrors, merges=merges, nudge=nudge)
    if spot is Spot.DEPLOYED:
        return await _deployment(event, mirrors)
    repository = event.repository
    await mirrors.fetch(repository, event.sha or event.ref)
    sha = event.sha or await mirrors.resolve(repository, event.ref)
    if not sha:
        raise Absent(f"{repository.full_name} has no {event.ref}")
    return msgspec.structs.replace(event, sha=sha, report_sha=event.report_sha or sha)


async def _deployment(event: Event, mirrors: Mirrors) -> Event:
    """The payload has a short name: a branch that has the commit, else a tag of it, else none.

    Who deploys names commit and ref apart: a branch's name is not had for a commit that is not on it.
    """
    short = event.ref.removeprefix("refs/heads/")
    if short == event.ref:
        await mirrors.fetch(event.repository, event.sha)
        return event
    branch, tag = f"refs/heads/{short}", f"refs/tags/{short}"
    await mirrors.fetch(event.repository, event.sha, branch, tag)
    tip, tagged = [await mirrors.resolve(event.repository, ref) for ref in (branch, tag)]
    if tip and await mirrors.is_ancestor(event.repository, event.sha, tip):
        return msgspec.structs.replace(event, ref=branch)
    return msgspec.structs.replace(event, ref=tag if tagged == event.sha else "")


async def _pull_request(event: Event, mirrors: Mirrors, *, merges: bool, nudge: Nudge | None) -> Event:
    repository = event.repository
    newest_ref, base_ref = f"refs/pull/{event.number}/head", f"refs/heads/{event.base_ref}"
    wanted = [event.ref, newest_ref, *([base_ref] if event.base_ref else [])]
    await mirrors.fetch(repository, *wanted, *([event.report_sha] if event.report_sha else []))
    newest = await mirrors.resolve(repository, newest_ref)
    head = event.report_sha or newest
    if newest and head != newest:
        if event.name == "pull_request" and event.action in _STARTING:
            raise Passed(
                f"{newest_ref} is {newest} by now: {head} was superseded, and its push comes by itself"
            )
        head = newest  # a label, a review: they are about the pull request as it is
    if not head or not await mirrors.has(repository, head):
        raise Absent(f"{repository.full_name} has no {head or newest_ref}")
    message = (await mirrors.commit(repository, head)).message
    at_head = msgspec.structs.replace(event, sha=head, report_sha=head, message=event.message or message)
    base = await mirrors.resolve(repository, base_ref) if event.base_ref else None
    merge = await mirrors.resolve(repository, event.ref)
    if merge is not None and await _is_merge_of(mirrors, at_head, merge, base):
        return msgspec.structs.replace(at_head, sha=merge)
    if event.action == "closed":
        return at_head  # nobody makes a merge commit of it any more
    base = base or (event.base_sha if await _has(mirrors, event) else None)
    if base and (files := await mirrors.conflicts(repository, base, head)):
        raise Conflict(_sentence(event, base, files), at_head)
    if merge is None and not merges:
        return at_head
    if nudge is not None and event.number is not None:
        await nudge(repository.full_name, event.number)
    raise NotMerged(
        f"the forge has not merged {head[:12]} into {event.base_ref or 'its base'} for {event.ref} yet",
        at_head,
    )


async def _has(mirrors: Mirrors, event: Event) -> bool:
    return bool(event.base_sha) and await mirrors.has(event.repository, event.base_sha)


async def _is_merge_of(mirrors: Mirrors, event: Event, merge: str, base: str | None) -> bool:
    """Whether a merge commit is one of the event's head with a commit of its base branch."""
    try:
        parents = (await mirrors.commit(event.repository, merge)).parents
    except GitError:
        return False
    if len(parents) != 2 or parents[1] != event.report_sha:
        return False
    if not event.base_sha or parents[0] in (event.base_sha, base):
        return True
    # The branch moved on after the payload was written, or has since the merge commit was made.
    pairs = ((event.base_sha, parents[0]), (parents[0], event.base_sha))
    return any([await mirrors.is_ancestor(event.repository, old, new) for old, new in pairs])


def _sentence(event: Event, base: str, files: tuple[str, ...]) -> str:
    more = len(files) - FILES_SHOWN
    shown = [*files[:FILES_SHOWN], *([f"and {more} more"] if more > 0 else [])]
    return "\n".join(
        [
            f"The pull request conflicts with its base branch {event.base_ref} ({base[:12]}): there is no "
            "merge commit to build. Merge or rebase, and push. In conflict:",
            *shown,
        ]
    )
