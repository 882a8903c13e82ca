"""The identity of a GitHub App: signs for itself, and has a token for each installation, always fresh.

Tokens live for an hour and are replaced ahead of their end; jobs get narrowed ones of their own. What was
given out for this process is revoked when it ends. PyJWT and cryptography are loaded by the first signature.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import TypeVar
from urllib.parse import quote

import msgspec
import trio

from runnerd import log

from .permissions import of_workflow
from .protocol import ForgeDenied, ForgeUnavailable, Gone, Token
from .rest import ATTEMPTS, Credential, Doubt, Rest, repository_path

SKEW = 60.0
"""Seconds our clock may be ahead of the forge's: a signature is dated back by so much."""
SIGNATURE_LIFE = 540.0
"""Seconds a signature holds from now on; GitHub takes at most ten minutes from its date on."""
AHEAD = 600.0
"""Seconds before its end in which a token is replaced: the longest a git fetch with it may take."""
GOODBYE = 5.0
"""Seconds for revoking at the end."""

_log = log.get(__name__)
T = TypeVar("T")


class _Installation(msgspec.Struct):
    id: int


class _Granted(msgspec.Struct):
    token: str
    expires_at: datetime.datetime
    permissions: dict[str, str] = {}


class AppFacts(msgspec.Struct):
    """What GitHub says about the App itself."""

    id: int
    slug: str
    permissions: dict[str, str] = {}
    events: list[str] = []


class GitHubApp:
    """`Identity` of an App. `id` is its number or client id, `private_key` its PEM text."""

    def __init__(self, rest: Rest, id: str, private_key: str) -> None:
        self._rest = rest
        self._id = id
        self._private_key = private_key
        self._signature = Credential(value="", account="app")
        self._signed_until = 0.0
        self._facts: AppFacts | None = None
        self._installations: dict[str, int] = {}
        self._tokens: dict[int, Token] = {}
        self._turns: dict[str, trio.Lock] = {}
        self._named: set[tuple[str, str]] = set()

    async def credential(self, repository: str) -> Credential:
        """The token of the installation that this repository belongs to; for "" the App's signature."""
        if not repository:
            return self._sign()
        async with self._turn(repository):
            installation = await self._installation(repository)
            return _as_credential(await self._token(installation), installation)

    def refused(self, credential: Credential) -> bool:
        """Forget a credential that the forge does not know any more: the next one is fresh."""
        self._signed_until = 0.0
        for installation, token in list(self._tokens.items()):
            if token.value == credential.value:
                del self._tokens[installation]
        self._installations = {name: id for name, id in self._installations.items() if id in self._tokens}
        return True

    async def login(self) -> str:
        """The App's own account."""
        return f"{(await self.facts()).slug}[bot]"

    async def facts(self) -> AppFacts:
        """What the App is; asked once."""
        if self._facts is None:
            permission = "a valid App id and private key"
            self._facts = await self._ask("GET", "/app", "GET app", permission, AppFacts)
        return self._facts

    async def permissions(self, repository: str) -> Mapping[str, str] | None:
        """What the installation's owner agreed to."""
        async with self._turn(repository):
            return (await self._token(await self._installation(repository))).permissions

    async def job_token(self, repository: str, permissions: Mapping[str, str]) -> Token | None:
        """See `Forge.job_token`."""
        ours = await self.permissions(repository) or {}
        wanted, missing = of_workflow(permissions, ours)
        for name in missing:
            if (repository, name) not in self._named:
                self._named.add((repository, name))
                _log.warning(
                    "permission_missing",
                    repository=repository,
                    permission=name,
                    costs="a workflow asks for it, and its jobs' tokens come without",
                )
        async with self._turn(repository):
            installation = await self._installation(repository)
        # The name alone would do; it is one of the installation's, so that it names one repository.
        body = {"repositories": [repository.partition("/")[2]], "permissions": wanted}
        return await self._create(installation, body)

    async def revoke(self, token: Token) -> None:
        """See `Forge.revoke`; a token that has ended by itself needs nothing."""
        if token.expires <= self._rest.clock():
            return
        credential = Credential(value=token.value, account="job")
        for attempt in range(ATTEMPTS):
            try:
                await self._rest.send(
                    "DELETE", "/installation/token", endpoint="DELETE token", permission="",
                    credential=credential,
                )  # fmt: skip
                return
            except Doubt as doubt:
                await self._rest.again(attempt, doubt)
            except ForgeDenied:  # the forge does not know it any more
                return

    async def close(self) -> None:
        """Revoke the installations' tokens, as far as that goes within some seconds."""
        tokens = list(self._tokens.values())
        self._tokens.clear()
        with trio.move_on_after(GOODBYE, shield=True):
            for token in tokens:
                try:
                    await self.revoke(token)
                except ForgeUnavailable as problem:  # it ends by itself within the hour
                    _log.info("token_not_revoked", problem=str(problem))
                    return

    def _turn(self, repository: str) -> trio.Lock:
        """So that two who want a repository's token do not fetch two."""
        return self._turns.setdefault(repository.partition("/")[0].lower(), trio.Lock())

    async def _installation(self, repository: str) -> int:
        if repository not in self._installations:
            path = f"{repository_path(repository)}/installation"
            try:
                found = await self._ask("GET", path, "GET installation", "a valid App", _Installation)
            except Gone as gone:
                raise Gone(
                    f"the GitHub App is not installed on {repository}, or not for that repository: "
                    f"install it at the App's page ({gone})"
                ) from gone
            self._installations[repository] = found.id
        return self._installations[repository]

    async def _token(self, installation: int) -> Token:
        token = self._tokens.get(installation)
        if token is None or token.expires - AHEAD <= self._rest.clock():
            token = self._tokens[installation] = await self._create(installation, {})
        return token

    async def _create(self, installation: int, body: object) -> Token:
        path = f"/app/installations/{quote(str(installation), safe='')}/access_tokens"
        try:
            return await self._granted(path, body)
        except Gone:  # the App was taken off, and perhaps installed anew: look again next time
            self._installations = {name: id for name, id in self._installations.items() if id != installation}
            raise

    async def _granted(self, path: str, body: object) -> Token:
        granted = await self._ask(
            "POST", path, "POST access_tokens", "what the token shall have", _Granted, body
        )
        return Token(
            value=granted.token, expires=granted.expires_at.timestamp(), permissions=granted.permissions
        )

    async def _ask(
        self, method: str, path: str, endpoint: str, permission: str, kind: type[T], body: object = None
    ) -> T:
        """Ask in the App's own name, again where nobody knows: a token nobody heard of ends by itself."""
        for attempt in range(ATTEMPTS):
            try:
                answer = await self._rest.send(
                    method, path, endpoint=endpoint, permission=permission, credential=self._sign(), body=body
                )
                return answer.decode(kind)
            except Doubt as doubt:
                await self._rest.again(attempt, doubt)
        raise AssertionError("the last attempt raises")

    def _sign(self) -> Credential:
        """The App's signature: a JWT of some minutes, made anew before it ends."""
        now = self._rest.clock()
        if now >= self._signed_until:
            try:
                import jwt
            except ImportError as error:
                raise ForgeDenied("a GitHub App needs the library PyJWT with cryptography") from error
            claims = {"iat": int(now - SKEW), "exp": int(now + SIGNATURE_LIFE), "iss": self._id}
            try:
                value = jwt.encode(claims, self._private_key, algorithm="RS256")
            except Exception as error:  # cryptography raises several kinds for a broken key
                raise ForgeDenied(
                    f"the App's private key cannot sign ({type(error).__name__}): [forge] app_private_key "
                    "is the whole PEM text that GitHub gave for download"
                ) from None
            self._signature = Credential(value=value, account="app")
            self._signed_until = now + SIGNATURE_LIFE - SKEW
        return self._signature


def _as_credential(token: Token, installation: int) -> Credential:
    return Credential(value=token.value, account=f"installation {installation}")
