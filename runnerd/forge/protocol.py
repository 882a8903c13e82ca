"""What the daemon asks of a forge, and the two ways in which one says no; light to import."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import msgspec

Scope = Literal["forge", "repository", "report"]
"""Whom an unavailability concerns: everything at this forge, one repository, or this one report."""


class ForgeDenied(Exception):
    """The forge refuses for good; the sentence names the permission that is missing, or what is wrong."""

    def __init__(self, sentence: str, permission: str = "") -> None:
        super().__init__(sentence)
        self.permission = permission
        """The permission that is missing, where that is the reason: `Commit statuses: write`."""


class ForgeUnavailable(Exception):
    """The forge cannot be asked now; not before `retry_at`, in seconds since the epoch."""

    def __init__(self, sentence: str, retry_at: float, scope: Scope = "forge") -> None:
        super().__init__(sentence)
        self.retry_at = retry_at
        self.scope = scope


class Gone(ForgeDenied):
    """What the request is about does not exist, or we are not let see it."""


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A token with an end; it does not show itself. Its length and form are the forge's business."""

    value: str
    expires: float
    """Seconds since the epoch."""
    permissions: Mapping[str, str] = msgspec.field(default_factory=dict)
    """What it may, by the API's names: `{"contents": "read"}`."""

    def __repr__(self) -> str:
        return f"Token(***, expires={self.expires:.0f}, permissions={dict(self.permissions)})"


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    """A check run as GitHub's API takes it, but for the annotations, which go in batches."""

    name: str
    external_id: str
    """Ours and unique: by it the check run is found again."""
    status: Literal["queued", "in_progress", "completed"]
    conclusion: str = ""
    """GitHub's word for how it ended; empty until it did."""
    started_at: str = ""
    """ISO 8601; empty where it has not begun."""
    completed_at: str = ""
    title: str
    summary: str
    text: str = ""
    details_url: str = ""
    annotations: tuple[Mapping[str, Any], ...] = ()
    actions: tuple[Mapping[str, str], ...] = ()


class Forge(Protocol):
    """What the daemon asks of a forge. Every asynchronous method may raise `ForgeDenied` (of which
    `Gone` is one kind) or `ForgeUnavailable`."""

    async def has_checks(self, repository: str) -> bool:
        """Whether results are told as check runs there; otherwise as commit statuses."""
        ...

    async def set_status(
        self, repository: str, sha: str, context: str, state: str, description: str, target_url: str
    ) -> None:
        """Make the newest status of a commit in this context say this; safe to repeat."""
        ...

    async def set_check(self, repository: str, sha: str, report: CheckReport) -> None:
        """Make the one check run with the report's `external_id` say this; safe to repeat."""
        ...

    async def upsert_comment(self, repository: str, number: int, marker: str, body: str) -> None:
        """Make our one comment that starts with `marker` say this; safe to repeat."""
        ...

    async def credential(self, repository: str) -> tuple[str, str] | None:
        """User and password with which git reads a repository, or None for anonymous reading."""
        ...

    async def job_token(self, repository: str, permissions: Mapping[str, str]) -> Token | None:
        """A token for one job: it opens this repository alone, with at most these permissions.

        `permissions` are those of a workflow (`{"contents": "read", "pull-requests": "write"}`); what we
        do not have ourselves is left out, as `Token.permissions` says. None where the forge cannot narrow
        a token: the daemon's own is never given to a job. `revoke` it when the job has ended.
        """
        ...

    async def revoke(self, token: Token) -> None:
        """End a token's life; safe to repeat, and done where it was over already."""
        ...

    async def ask(
        self,
        method: str,
        path: str,
        *,
        repository: str = "",
        permission: str = "",
        body: object = None,
    ) -> Reply:
        """Ask anything else of the API: `path` from the root of it, with its query.

        In a repository's name, or for "" as whoever we are in all (an App by itself, the token's owner).
        `permission` is named in the refusal. A GET is repeated when its answer is lost, nothing else is.
        """
        ...


class Reply(Protocol):
    """An answer of the API."""

    @property
    def status(self) -> int:
        """The HTTP status, 2xx or 304."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """By names in lower case."""
        ...

    def json(self) -> Any:
        """The body as plain data, None where there is none; raises `ForgeUnavailable` for no JSON."""
        ...

    @property
    def next_page(self) -> str:
        """The path of the next page, for `ask`; empty on the last one."""
        ...
