"""Commit statuses, each set so that twice is as once.

Before a write the forge is asked what is there, unless that is known: a lost answer, a restart or a second
sender then changes nothing, and nothing that is already said is said again.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any
from urllib.parse import quote

import msgspec

from .permissions import STATUSES
from .rest import ATTEMPTS, Doubt, repository_path
from .speaker import PAGES, PER_PAGE, Speaker

REMEMBERED = 1000
"""Commits of which is known what they say."""


class Status(msgspec.Struct, frozen=True):
    """A status as the forge gives it back; Gitea calls its state `status`."""

    context: str
    state: str = ""
    status: str = ""
    description: str | None = None
    target_url: str | None = None

    @property
    def said(self) -> tuple[str, str, str]:
        """What makes it differ from another of its context."""
        return (self.state or self.status, self.description or "", self.target_url or "")


class _Combined(msgspec.Struct):
    statuses: list[Status] | None = None


class Statuses:
    """Sets the statuses of commits."""

    def __init__(self, speaker: Speaker) -> None:
        self._speaker = speaker
        self._known: OrderedDict[tuple[str, str], dict[str, Status]] = OrderedDict()

    async def set(self, repository: str, sha: str, wanted: Status) -> None:
        """Make the newest status of this context say this; needs "Commit statuses: write"."""
        place = (repository, sha)
        async with self._speaker.turn:
            try:
                await self._settle(place, wanted)
            except BaseException:  # cancelled in the middle of a write, say: look again next time
                self._known.pop(place, None)
                raise

    async def _settle(self, place: tuple[str, str], wanted: Status) -> None:
        repository, sha = place
        key = wanted.context.lower()  # GitHub compares contexts without regard to case
        body = {"state": wanted.state, "context": wanted.context, "description": wanted.description or ""}
        if wanted.target_url:
            body["target_url"] = wanted.target_url
        path = f"{repository_path(repository)}/statuses/{quote(sha, safe='')}"
        for attempt in range(ATTEMPTS):
            try:
                known = self._known.get(place)
                if known is None:
                    known = await self._read(repository, sha)
                    remember(self._known, place, known, REMEMBERED)
                if key in known and known[key].said == wanted.said:
                    return
                answer = await self._speaker.once(
                    "POST", path, "POST statuses", STATUSES.title, repository, body
                )
                known[key] = answer.decode(Status)
                return
            except Doubt as doubt:
                self._known.pop(place, None)
                await self._speaker.rest.again(attempt, doubt)

    async def _read(self, repository: str, sha: str) -> dict[str, Status]:
        path = f"{repository_path(repository)}/commits/{quote(sha, safe='')}/status"
        found: dict[str, Status] = {}
        for number in range(1, PAGES + 1):
            page = await self._speaker.page(path, number, "GET status", STATUSES.title, repository, _Combined)
            for status in page.statuses or ():
                found.setdefault(status.context.lower(), status)
            if len(page.statuses or ()) < PER_PAGE:
                break
        return found


def remember(cache: OrderedDict[Any, Any], key: object, value: object, limit: int) -> None:
    """Keep something as the newest of at most `limit` things."""
    cache[key] = value
    cache.move_to_end(key)
    while len(cache) > limit:
        cache.popitem(last=False)
