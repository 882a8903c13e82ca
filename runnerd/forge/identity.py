"""In whose name the daemon speaks at a forge: an identity gives a credential for each repository."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from .protocol import Token
from .rest import Credential, Rest

OF_INSTALLATION = "ghs_"
"""What GitHub's tokens of installations begin with."""


class Identity(Protocol):
    """Who we are. Methods that ask the forge may raise `ForgeDenied` or `ForgeUnavailable`."""

    async def credential(self, repository: str) -> Credential:
        """What a request about this repository goes with; for "" what one about ourselves goes with."""
        ...

    def refused(self, credential: Credential) -> bool:
        """The forge answered 401 to it; whether a fresh one may be had and tried."""
        ...

    async def login(self) -> str:
        """The account our comments are written by; empty where the forge does not say. May raise `Doubt`."""
        ...

    async def permissions(self, repository: str) -> Mapping[str, str] | None:
        """What we may there, by the API's names; None where the forge does not say."""
        ...

    async def job_token(self, repository: str, permissions: Mapping[str, str]) -> Token | None:
        """See `Forge.job_token`."""
        ...

    async def revoke(self, token: Token) -> None:
        """See `Forge.revoke`."""
        ...

    async def close(self) -> None:
        """Give back what is good only for this process; safe twice, never raises."""
        ...


class _User(msgspec.Struct):
    login: str


class PersonalToken:
    """The reduced mode: one token for everything. It cannot write check runs, and no job ever gets it."""

    def __init__(self, rest: Rest, token: str, *, scheme: str = "Bearer") -> None:
        self._rest = rest
        self._credential = Credential(value=token, scheme=scheme, account="token")
        self._login: str | None = None

    async def credential(self, repository: str) -> Credential:
        """The token, whatever it is about."""
        return self._credential

    def refused(self, credential: Credential) -> bool:
        """There is no other."""
        return False

    async def login(self) -> str:
        """The token's owner. An installation's token, given as a personal one, has none.

        A refusal is not taken for an answer: comments that are not known as ours would be written again.
        """
        if self._login is None and self._credential.value.startswith(OF_INSTALLATION):
            self._login = ""
        if self._login is None:
            answer = await self._rest.send(
                "GET",
                "/user",
                endpoint="GET user",
                permission="to read its own account",
                credential=self._credential,
            )
            self._login = answer.decode(_User).login
        return self._login

    async def permissions(self, repository: str) -> Mapping[str, str] | None:
        """GitHub tells nobody what a personal token may."""
        return None

    async def job_token(self, repository: str, permissions: Mapping[str, str]) -> Token | None:
        """A personal token cannot be narrowed, so that jobs do without."""
        return None

    async def revoke(self, token: Token) -> None:
        """Nothing was given."""

    async def close(self) -> None:
        """Nothing to give back."""
