"""One comment of ours in a pull request: found by its marker and its author, edited, never doubled."""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from . import pace
from .permissions import COMMENTS
from .protocol import ForgeUnavailable, Gone
from .rest import ATTEMPTS, Doubt, repository_path
from .speaker import PAGES, PER_PAGE, Speaker
from .statuses import remember

REMEMBERED = 1000


class _User(msgspec.Struct):
    login: str
    type: str = ""


class _Comment(msgspec.Struct):
    id: int
    body: str = ""
    user: _User | None = None


class Comments:
    """Keeps our comments; `paged` says that the forge gives long lists in pages."""

    def __init__(self, speaker: Speaker, *, paged: bool = True) -> None:
        self._speaker = speaker
        self._paged = paged
        self._pace = pace.Pace(pace.CONTENT)
        self._known: OrderedDict[tuple[str, int, str], _Comment] = OrderedDict()

    async def upsert(self, repository: str, number: int, marker: str, body: str) -> None:
        """Make our comment with this marker say this; needs "Pull requests: write" or "Issues: write"."""
        place = (repository, number, marker)
        async with self._speaker.turn:
            for attempt in range(ATTEMPTS):
                try:
                    await self._settle(place, body)
                    return
                except Doubt as doubt:
                    self._known.pop(place, None)
                    await self._speaker.rest.again(attempt, doubt)

    async def _settle(self, place: tuple[str, int, str], body: str) -> None:
        repository, number, marker = place
        known = self._known.get(place) or await self._find(repository, number, marker)
        if known is not None and known.body.replace("\r\n", "\n").rstrip() == body.rstrip():
            remember(self._known, place, known, REMEMBERED)
            return
        said: _Comment | None = None
        if known is not None:
            path = f"{repository_path(repository)}/issues/comments/{known.id}"
            try:
                said = await self._write("PATCH", path, "PATCH comment", repository, body)
            except Gone:  # somebody deleted it
                self._known.pop(place, None)
        if said is None:
            path = f"{repository_path(repository)}/issues/{number}/comments"
            said = await self._write("POST", path, "POST comments", repository, body)
        remember(self._known, place, msgspec.structs.replace(said, body=body), REMEMBERED)

    async def _write(self, method: str, path: str, endpoint: str, repository: str, body: str) -> _Comment:
        """Write, unless so much was written that people at the forge would be kept from it."""
        now = self._speaker.rest.clock()
        if (free := self._pace.free_at(now)) > now:
            raise ForgeUnavailable("as many comments were written as is fair for now", free, "report")
        self._pace.spend(now)
        answer = await self._speaker.once(method, path, endpoint, COMMENTS.title, repository, {"body": body})
        return answer.decode(_Comment)

    async def _find(self, repository: str, pull: int, marker: str) -> _Comment | None:
        """Find our comment; a stranger may have copied the marker, so that the author counts as well."""
        login = await self._speaker.identity.login()
        path = f"{repository_path(repository)}/issues/{pull}/comments"
        for number in range(1, PAGES + 1):
            page = await self._speaker.page(
                path, number, "GET comments", COMMENTS.title, repository, list[_Comment]
            )
            for comment in page:
                if comment.user is None or not comment.body.startswith(marker):
                    continue
                if comment.user.login == login or (not login and comment.user.type == "Bot"):
                    return comment
            if len(page) < PER_PAGE or not self._paged:
                break
        return None
