"""What a forge says about people and pull requests where it matters who may run; asked each time anew."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from runnerd.model import Actor, RunRecord

from .permissions import ADMINISTRATION
from .protocol import Forge, ForgeDenied, ForgeUnavailable
from .rest import repository_path

Setting = typing.Literal[
    "all_external_contributors", "first_time_contributors", "first_time_contributors_new_to_github"
]
SETTINGS: tuple[Setting, ...] = typing.get_args(Setting)
"""GitHub's words, the strictest first."""


BOT = "[bot]"
"""How the name of an App's account ends."""


class People:
    """Asks a forge; None is one that cannot be asked: then the strictest holds, and nobody is anybody."""

    def __init__(self, forge: Forge | None, *, as_app: bool = False) -> None:
        """`as_app`: the forge knows us as a GitHub App, which has an account of its own."""
        self._forge = forge
        self._as_app = as_app
        self._bot: str | None = None

    async def is_our_bot(self, person: Actor) -> bool:
        """Whether somebody is our App's own account, whose name no person can have.

        May raise `ForgeUnavailable`, for as long as the App's name was never heard.
        """
        if not self._as_app or not person.login.endswith(BOT):
            return False
        if self._bot is None:
            found = await self._get("", "/app", "a valid App id and private key")
            slug = found.get("slug")
            self._bot = f"{slug}{BOT}" if isinstance(slug, str) and slug else ""
        return person.login == self._bot

    async def setting(self, repository: str) -> Setting:
        """GitHub's approval setting for forks; the strictest where it cannot be read."""
        path = f"{repository_path(repository)}/actions/permissions/fork-pr-contributor-approval"
        try:
            found = (await self._get(repository, path, ADMINISTRATION.title)).get("approval_policy")
        except (ForgeDenied, ForgeUnavailable):
            return SETTINGS[0]
        return next((each for each in SETTINGS if each == found), SETTINGS[0])

    async def permission(self, repository: str, person: Actor) -> str:
        """What somebody may in a repository now; empty where the login is not this number's any more.

        May raise `ForgeUnavailable`; what the forge refuses to say is no permission.
        """
        path = f"{repository_path(repository)}/collaborators/{quote(person.login, safe='')}/permission"
        try:
            found = await self._get(repository, path, "Metadata: read")
        except ForgeDenied:
            return ""
        user = found.get("user")
        if not isinstance(user, Mapping) or user.get("id") != person.id:
            return ""
        permission = found.get("permission")
        return permission if isinstance(permission, str) else ""

    async def why_void(self, run: RunRecord) -> str:
        """Why a run's commit cannot be approved: its pull request is closed, or has moved on; else empty.

        What is about the closing itself may be approved after it.

        Empty as well where there is no forge to ask. What the forge does not say now counts as a reason.
        """
        number = run.event.number
        if self._forge is None or number is None:
            return ""
        try:
            path = f"{repository_path(run.repository)}/pulls/{number}"
            pull = await self._get(run.repository, path, "Pull requests: read")
        except (ForgeDenied, ForgeUnavailable) as problem:
            return f"the forge does not say how pull request {number} stands: {problem}"
        head = pull.get("head")
        fitting = ("open", "closed") if run.event.action == "closed" else ("open",)
        if pull.get("state") not in fitting:
            return f"pull request {number} is closed"
        if not isinstance(head, Mapping) or head.get("sha") != run.event.report_sha:
            return f"pull request {number} has newer commits than {run.event.report_sha[:12]}"
        return ""

    async def _get(self, repository: str, path: str, permission: str) -> Mapping[str, Any]:
        if self._forge is None:
            raise ForgeDenied("there is no forge to ask")
        reply = await self._forge.ask("GET", path, repository=repository, permission=permission)
        found = reply.json()
        return found if isinstance(found, Mapping) else {}
