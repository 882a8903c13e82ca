"""What the daemon asks of a forge, and the two ways in which one says no; light to import."""

from __future__ import annotations

from typing import Protocol


class ForgeDenied(Exception):
    """The forge refuses for good; the sentence names the permission that is missing, or what is wrong."""


class ForgeUnavailable(Exception):
    """The forge cannot be asked now; not before `retry_at`, in seconds since the epoch."""

    def __init__(self, sentence: str, retry_at: float) -> None:
        super().__init__(sentence)
        self.retry_at = retry_at


class Forge(Protocol):
    """What the daemon asks of a forge. Every method may raise `ForgeDenied` or `ForgeUnavailable`."""

    async def set_status(
        self, repository: str, sha: str, context: str, state: str, description: str, target_url: str
    ) -> None:
        """Make the newest status of a commit in this context say this; safe to repeat."""
        ...

    async def upsert_comment(self, repository: str, number: int, marker: str, body: str) -> None:
        """Make our one comment that starts with `marker` say this; safe to repeat."""
        ...

    def credential(self, repository: str) -> tuple[str, str] | None:
        """User and password with which git reads a repository, or None for anonymous reading."""
        ...
