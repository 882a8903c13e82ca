"""Speaks to a forge's API in an identity's name: fresh credentials, pages, and each lack named once."""

from __future__ import annotations

from typing import TypeVar

import trio

from runnerd import log

from .identity import Identity
from .permissions import cost_of
from .protocol import ForgeDenied, ForgeUnavailable
from .rest import ATTEMPTS, Answer, Doubt, Rest, Unauthorized

PAGES = 30
PER_PAGE = 100

_log = log.get(__name__)
T = TypeVar("T")


class Speaker:
    """A REST API and who we are there; `page_size` names the query's parameter (`per_page`, `limit`)."""

    def __init__(self, rest: Rest, identity: Identity, *, page_size: str = "per_page") -> None:
        self.rest = rest
        self.identity = identity
        self.turn = trio.Lock()
        """Writes go one after the other, as GitHub asks."""
        self._page_size = page_size
        self._named: set[tuple[str, str]] = set()

    async def once(
        self,
        method: str,
        path: str,
        endpoint: str,
        permission: str,
        repository: str,
        body: object = None,
    ) -> Answer:
        """Send one request about a repository ("" for one about ourselves); raises as `Rest.send` does.

        A credential that ended meanwhile is replaced, and the request sent once more.
        """
        credential = await self.identity.credential(repository)
        for last in (False, True):
            try:
                return await self.rest.send(
                    method, path, endpoint=endpoint, permission=permission, credential=credential, body=body
                )
            except Unauthorized:
                if last or not self.identity.refused(credential):
                    raise
                credential = await self.identity.credential(repository)
            except ForgeDenied as denied:
                self.name_lack(repository, denied.permission)
                raise
        raise AssertionError("the second refusal raises")

    async def page(
        self, path: str, number: int, endpoint: str, permission: str, repository: str, kind: type[T]
    ) -> T:
        """One page of a list, from 1 on; the last is the first that holds less than `PER_PAGE`."""
        sign = "&" if "?" in path else "?"
        query = f"{sign}{self._page_size}={PER_PAGE}&page={number}"
        return (await self.once("GET", path + query, endpoint, permission, repository)).decode(kind)

    async def ask(self, method: str, path: str, repository: str, permission: str, body: object) -> Answer:
        """See `Forge.ask`."""
        for attempt in range(ATTEMPTS):
            try:
                return await self.once(method, path, "ask", permission, repository, body)
            except Doubt as doubt:
                if method != "GET":
                    raise ForgeUnavailable(str(doubt), self.rest.clock() + 10.0, "report") from doubt
                await self.rest.again(attempt, doubt)
        raise AssertionError("the last attempt raises")

    def name_lack(self, repository: str, permission: str) -> None:
        """Say once, for each repository, that a permission is missing and what that costs."""
        if permission and (repository, permission) not in self._named:
            self._named.add((repository, permission))
            _log.error(
                "permission_missing",
                repository=repository,
                permission=permission,
                costs=cost_of(permission) or "what it is for is not done",
            )
