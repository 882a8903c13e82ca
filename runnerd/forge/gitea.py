"""Gitea and Forgejo as the daemon's forge: statuses and comments, with a token.

What they lack of GitHub: check runs, Apps and with them tokens for jobs. Their API lies at `/api/v1`.
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import httpx
import trio

from .comments import Comments
from .identity import PersonalToken
from .protocol import CheckReport, ForgeDenied, Reply, Token
from .rest import Rest
from .speaker import Speaker
from .statuses import Status, Statuses


@asynccontextmanager
async def open_gitea(
    api: str,
    token: str,
    *,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], Awaitable[object]] = trio.sleep,
    jitter: Callable[[], float] = random.random,
) -> AsyncIterator[Gitea]:
    """Open a client of the API at the address `api`, `https://HOST/api/v1`."""
    timeout = httpx.Timeout(10.0, connect=5.0)
    async with httpx.AsyncClient(timeout=timeout, follow_redirects=False) as http:
        rest = Rest(http, api, clock=clock, sleep=sleep, jitter=jitter, media="application/json")
        yield Gitea(Speaker(rest, PersonalToken(rest, token, scheme="token"), page_size="limit"))


class Gitea:
    """`Forge` over the REST API that Gitea and Forgejo share."""

    def __init__(self, speaker: Speaker) -> None:
        self._speaker = speaker
        self._statuses = Statuses(speaker)
        self._comments = Comments(speaker, paged=False)

    async def has_checks(self, repository: str) -> bool:
        """Never: they know statuses only."""
        return False

    async def set_status(
        self, repository: str, sha: str, context: str, state: str, description: str, target_url: str
    ) -> None:
        """See `Forge`; the token needs the scope `write:repository`."""
        wanted = Status(context, state, description=description, target_url=target_url or None)
        await self._statuses.set(repository, sha, wanted)

    async def set_check(self, repository: str, sha: str, report: CheckReport) -> None:
        """Refused: there are none."""
        raise ForgeDenied("this forge has no check runs")

    async def upsert_comment(self, repository: str, number: int, marker: str, body: str) -> None:
        """See `Forge`; the token needs the scope `write:issue`."""
        await self._comments.upsert(repository, number, marker, body)

    async def credential(self, repository: str) -> tuple[str, str] | None:
        """The token as the password; they look at no user name then."""
        return ("x-access-token", (await self._speaker.identity.credential(repository)).value)

    async def job_token(self, repository: str, permissions: Mapping[str, str]) -> Token | None:
        """None: a token of theirs cannot be narrowed."""
        return None

    async def revoke(self, token: Token) -> None:
        """Nothing was given."""

    async def ask(
        self, method: str, path: str, *, repository: str = "", permission: str = "", body: object = None
    ) -> Reply:
        """See `Forge`."""
        return await self._speaker.ask(method, path, repository, permission, body)
