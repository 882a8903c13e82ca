"""GitHub as the daemon's forge: as an App in full, or with a personal token in the reduced mode."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import httpx
import trio

from .app import GitHubApp
from .check_runs import CheckRuns
from .comments import Comments
from .identity import Identity, PersonalToken
from .permissions import CHECKS
from .protocol import CheckReport, Reply, Token
from .rest import Rest
from .speaker import Speaker
from .statuses import Status, Statuses

__all__ = ["GitHub", "open_github"]


@asynccontextmanager
async def open_github(
    api: str,
    token: str = "",
    *,
    app: str = "",
    private_key: str = "",
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], Awaitable[object]] = trio.sleep,
    jitter: Callable[[], float] = random.random,
) -> AsyncIterator[GitHub]:
    """Open a client of GitHub's API at the address `api` (GitHub Enterprise Server: `https://HOST/api/v3`).

    As the App with this id and key, or else with the token. `jitter` gives numbers from 0 to 1.
    """
    timeout = httpx.Timeout(10.0, connect=5.0)
    async with httpx.AsyncClient(timeout=timeout, follow_redirects=False) as http:
        rest = Rest(http, api, clock=clock, sleep=sleep, jitter=jitter)
        identity: Identity = GitHubApp(rest, app, private_key) if app else PersonalToken(rest, token)
        try:
            yield GitHub(Speaker(rest, identity))
        finally:
            await identity.close()


class GitHub:
    """`Forge` over GitHub's REST API. Writes go one after the other, as GitHub asks."""

    def __init__(self, speaker: Speaker) -> None:
        self.identity = speaker.identity
        self._speaker = speaker
        self._statuses = Statuses(speaker)
        self._comments = Comments(speaker)
        self._checks = CheckRuns(speaker)

    async def has_checks(self, repository: str) -> bool:
        """See `Forge`: only an App may write check runs, and only where it was allowed to."""
        granted = await self.identity.permissions(repository)
        if granted is None:
            return False
        if not (met := CHECKS.met(granted)):
            self._speaker.name_lack(repository, CHECKS.title)
        return met

    async def set_status(
        self, repository: str, sha: str, context: str, state: str, description: str, target_url: str
    ) -> None:
        """See `Forge`; needs the permission "Commit statuses: write"."""
        wanted = Status(context, state, description=description, target_url=target_url or None)
        await self._statuses.set(repository, sha, wanted)

    async def set_check(self, repository: str, sha: str, report: CheckReport) -> None:
        """See `Forge`; needs the permission "Checks: write"."""
        await self._checks.set(repository, sha, report)

    async def upsert_comment(self, repository: str, number: int, marker: str, body: str) -> None:
        """See `Forge`; needs "Issues: write" or "Pull requests: write"."""
        await self._comments.upsert(repository, number, marker, body)

    async def credential(self, repository: str) -> tuple[str, str] | None:
        """The token, under the user name that GitHub takes with any token."""
        return ("x-access-token", (await self.identity.credential(repository)).value)

    async def job_token(self, repository: str, permissions: Mapping[str, str]) -> Token | None:
        """See `Forge`."""
        return await self.identity.job_token(repository, permissions)

    async def revoke(self, token: Token) -> None:
        """See `Forge`."""
        await self.identity.revoke(token)

    async def ask(
        self, method: str, path: str, *, repository: str = "", permission: str = "", body: object = None
    ) -> Reply:
        """See `Forge`."""
        return await self._speaker.ask(method, path, repository, permission, body)
