"""Speaks to the forge's REST API: statuses and one comment, each written so that twice is as once.

Before a write the forge is asked what is there, unless this client knows: a lost answer, a restart or a
second sender then changes nothing, and nothing that is already said is said again.
"""

from __future__ import annotations

import random
import re
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import quote, urljoin, urlsplit

import httpx
import msgspec
import trio

from runnerd import __version__, log, metrics

from . import limits
from .protocol import Forge, ForgeDenied, ForgeUnavailable

__all__ = ["Forge", "ForgeDenied", "ForgeUnavailable", "GitHub", "open_github"]

USER_AGENT = f"runnerd/{__version__}"
API_VERSION = "2022-11-28"
ATTEMPTS = 3
"""Tries of one request before the caller's outbox takes over."""
ANSWER_LIMIT = 16 << 20
"""Bytes of one answer; a page of a hundred comments has at most some seven million."""
TIMEOUT = 30.0
"""Seconds for one request and its answer as a whole."""
PAGES = 30
PER_PAGE = 100
REDIRECTS = 3
REMEMBERED = 1000

_log = log.get(__name__)
T = TypeVar("T")


class _Status(msgspec.Struct, frozen=True):
    state: str
    context: str
    description: str | None = None
    target_url: str | None = None

    def says(self, other: _Status) -> bool:
        return (self.state, self.description or "", self.target_url or "") == (
            other.state,
            other.description or "",
            other.target_url or "",
        )


class _CombinedStatus(msgspec.Struct):
    statuses: list[_Status]


class _User(msgspec.Struct):
    login: str
    type: str = ""


class _Comment(msgspec.Struct):
    id: int
    body: str = ""
    user: _User | None = None


class _Message(msgspec.Struct):
    message: str = ""
    errors: Any = None


@asynccontextmanager
async def open_github(
    api: str,
    token: str,
    *,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], Awaitable[object]] = trio.sleep,
    jitter: Callable[[], float] = random.random,
) -> AsyncIterator[GitHub]:
    """Open a client of GitHub's API at the address `api`; `jitter` gives numbers from 0 to 1."""
    timeout = httpx.Timeout(10.0, connect=5.0)
    async with httpx.AsyncClient(timeout=timeout, follow_redirects=False) as http:
        yield GitHub(http, api, token, clock=clock, sleep=sleep, jitter=jitter)


class GitHub:
    """`Forge` over GitHub's REST API with a token. Requests go one after the other, as GitHub asks."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        api: str,
        token: str,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[object]],
        jitter: Callable[[], float],
    ) -> None:
        self._http = http
        self._api = api.rstrip("/")
        self._token = token
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter
        self._turn = trio.Lock()
        self._blocked_until = 0.0
        self._limits_hit = 0
        self._login: str | None = None
        self._statuses: OrderedDict[tuple[str, str], dict[str, _Status]] = OrderedDict()
        self._comments: OrderedDict[tuple[str, int, str], _Comment] = OrderedDict()

    def credential(self, repository: str) -> tuple[str, str] | None:
        """The token, under the user name that GitHub takes with any token."""
        return ("x-access-token", self._token)

    async def set_status(
        self, repository: str, sha: str, context: str, state: str, description: str, target_url: str
    ) -> None:
        """See `Forge`; needs the permission "Commit statuses: write"."""
        wanted = _Status(state, context, description, target_url or None)
        place = (repository, sha)
        async with self._turn:
            try:
                await self._settle(place, wanted)
            except BaseException:  # cancelled in the middle of a write, say: look again next time
                self._statuses.pop(place, None)
                raise

    async def _settle(self, place: tuple[str, str], wanted: _Status) -> None:
        repository, sha = place
        key = wanted.context.lower()  # GitHub compares contexts without regard to case
        for attempt in range(ATTEMPTS):
            try:
                known = self._statuses.get(place)
                if known is None:
                    known = await self._read_statuses(repository, sha)
                    _remember(self._statuses, place, known)
                if key in known and known[key].says(wanted):
                    return
                body = {"state": wanted.state, "context": wanted.context, "description": wanted.description}
                if wanted.target_url:
                    body["target_url"] = wanted.target_url
                path = f"/repos/{_path(repository)}/statuses/{quote(sha, safe='')}"
                answer = await self._once("POST", path, "POST statuses", "Commit statuses: write", body)
                known[key] = _decode(answer, _Status)
                return
            except _Doubt as doubt:
                self._statuses.pop(place, None)
                await self._again(attempt, doubt)

    async def _read_statuses(self, repository: str, sha: str) -> dict[str, _Status]:
        path = f"/repos/{_path(repository)}/commits/{quote(sha, safe='')}/status"
        found: dict[str, _Status] = {}
        for number in range(1, PAGES + 1):
            page = await self._page(path, number, "GET status", "Commit statuses: read", _CombinedStatus)
            for status in page.statuses:
                found.setdefault(status.context.lower(), status)
            if len(page.statuses) < PER_PAGE:
                break
        return found

    async def upsert_comment(self, repository: str, number: int, marker: str, body: str) -> None:
        """See `Forge`; needs "Issues: write" or "Pull requests: write"."""
        place = (repository, number, marker)
        async with self._turn:
            for attempt in range(ATTEMPTS):
                try:
                    await self._comment(place, body)
                    return
                except _Doubt as doubt:
                    self._comments.pop(place, None)
                    await self._again(attempt, doubt)

    async def _comment(self, place: tuple[str, int, str], body: str) -> None:
        repository, number, marker = place
        permission = "Pull requests: write"
        known = self._comments.get(place) or await self._find_comment(repository, number, marker)
        if known is not None and known.body.replace("\r\n", "\n").rstrip() == body.rstrip():
            _remember(self._comments, place, known)
            return
        answer: bytes | None = None
        if known is not None:
            path = f"/repos/{_path(repository)}/issues/comments/{known.id}"
            try:
                answer = await self._once("PATCH", path, "PATCH comment", permission, {"body": body})
            except _Gone:  # somebody deleted it
                self._comments.pop(place, None)
        if answer is None:
            path = f"/repos/{_path(repository)}/issues/{number}/comments"
            answer = await self._once("POST", path, "POST comments", permission, {"body": body})
        _remember(self._comments, place, msgspec.structs.replace(_decode(answer, _Comment), body=body))

    async def _find_comment(self, repository: str, pull: int, marker: str) -> _Comment | None:
        """Find our comment; a stranger may have copied the marker, so that the author counts as well."""
        login = await self._who_am_i()
        path = f"/repos/{_path(repository)}/issues/{pull}/comments"
        for number in range(1, PAGES + 1):
            page = await self._page(path, number, "GET comments", "Pull requests: read", list[_Comment])
            for comment in page:
                if comment.user is None or not comment.body.startswith(marker):
                    continue
                if comment.user.login == login or (not login and comment.user.type == "Bot"):
                    return comment
            if len(page) < PER_PAGE:
                break
        return None

    async def _who_am_i(self) -> str:
        """Return the token's login, or nothing for an app's token, which has none."""
        if self._login is None:
            try:
                answer = await self._once("GET", "/user", "GET user", "a valid token")
                self._login = _decode(answer, _User).login
            except (_Gone, ForgeDenied):
                self._login = ""
        return self._login

    async def _page(self, path: str, number: int, endpoint: str, permission: str, kind: type[T]) -> T:
        return _decode(
            await self._once("GET", f"{path}?per_page={PER_PAGE}&page={number}", endpoint, permission), kind
        )

    async def _again(self, attempt: int, doubt: _Doubt) -> None:
        """Pause before the next try, or give up and leave it to the outbox."""
        if attempt + 1 == ATTEMPTS:
            raise ForgeUnavailable(f"{doubt}, {ATTEMPTS} times", self._clock() + 10.0) from doubt
        await self._sleep(0.5 * 2.0**attempt * (1.0 + self._jitter()))

    async def _once(
        self, method: str, path: str, endpoint: str, permission: str, body: dict[str, Any] | None = None
    ) -> bytes:
        """Send one request and judge its answer.

        Raises `_Doubt` when nobody knows whether it was done, `_Gone` when its object does not exist,
        `ForgeDenied` when it never will be, and `ForgeUnavailable`, also without asking, during a limit.
        """
        now = self._clock()
        if now < self._blocked_until:
            raise ForgeUnavailable("the forge's rate limit is used up", self._blocked_until)
        status, headers, answer = await self._exchange(method, path, endpoint, body)
        message = _message(answer, self._token) if status >= 300 else ""
        verdict = limits.judge(status, headers, message, now=now, hits=self._limits_hit)
        what = f"{method} {path.partition('?')[0]}"
        match verdict:
            case limits.Fine():
                self._limits_hit = 0
                self._blocked_until = limits.blocked_until(headers) or 0.0
                return answer
            case limits.Uncertain():
                raise _Doubt(f"{what}: the forge answered {status}")
            case limits.Wait(until=until):
                self._limits_hit += 1
                self._blocked_until = until
                _log.warning("forge_rate_limit", seconds=round(until - now), endpoint=endpoint)
                raise ForgeUnavailable(f"{what}: the forge's rate limit is reached", until)
        if status in (404, 410):
            raise _Gone(f"{what}: {status} {message}: check that the token sees the repository and has "
                        f"the permission {permission!r}")  # fmt: skip
        if status == 401:
            raise ForgeDenied(f"{what}: the forge does not know the token (401): is it expired or revoked?")
        if status == 403:
            named = _words(headers.get("x-accepted-github-permissions", ""), self._token)[:200]
            raise ForgeDenied(
                f"{what}: 403 {message}: the token lacks the permission {named or permission!r}"
            )
        raise ForgeDenied(f"{what}: {status} {message}")

    async def _exchange(
        self, method: str, path: str, endpoint: str, body: dict[str, Any] | None
    ) -> tuple[int, dict[str, str], bytes]:
        """Send a request, following a moved repository within the same server."""
        url = self._api + path
        headers = {
            "accept": "application/vnd.github+json",
            "authorization": f"Bearer {self._token}",
            "user-agent": USER_AGENT,
            "x-github-api-version": API_VERSION,
        }
        content = None
        if body is not None:
            headers["content-type"] = "application/json"
            content = msgspec.json.encode(body)
        for _ in range(REDIRECTS + 1):
            status, answered, answer = await self._send(method, url, headers, content, endpoint)
            target = answered.get("location", "")
            if status not in (301, 302, 307, 308) or not target:
                return status, answered, answer
            url = _redirected(url, target)
            if not url.startswith(f"{_origin(self._api)}/"):
                raise ForgeDenied(
                    f"{method} {path}: the forge sends us to another server; the token stays here"
                )
        raise ForgeDenied(f"{method} {path}: the forge redirects in a circle")

    async def _send(
        self, method: str, url: str, headers: dict[str, str], content: bytes | None, endpoint: str
    ) -> tuple[int, dict[str, str], bytes]:
        code = "0"
        try:
            with trio.move_on_after(TIMEOUT):
                async with self._http.stream(method, url, headers=headers, content=content) as response:
                    code = str(response.status_code)
                    answer = bytearray()
                    async for chunk in response.aiter_bytes():
                        answer += chunk
                        if len(answer) > ANSWER_LIMIT:
                            raise _Doubt(
                                f"{method} {endpoint}: the answer is larger than {ANSWER_LIMIT} bytes"
                            )
                fields = {name.lower(): value for name, value in response.headers.items()}
                if fields.get("x-ratelimit-remaining", "").isdigit():
                    metrics.github_ratelimit_remaining.set(float(fields["x-ratelimit-remaining"]))
                return response.status_code, fields, bytes(answer)
            raise _Doubt(f"{endpoint}: no whole answer within {TIMEOUT:g} seconds")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _Doubt(f"{endpoint}: the forge cannot be reached ({type(error).__name__})") from error
        finally:
            metrics.github_requests.labels(endpoint, code).inc()


class _Doubt(Exception):
    """Nobody knows whether the request was done: look before doing it again."""


class _Gone(ForgeDenied):
    """What the request is about does not exist, or the token does not see it."""


def _decode(answer: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(answer, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise _Doubt("the forge's answer is not what its documentation says") from error


def _message(answer: bytes, token: str) -> str:
    """Return an error's own words, shortened; an answer that is not GitHub's has none."""
    try:
        said = msgspec.json.decode(answer, type=_Message)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return "without an explanation"
    return _words(said.message if not said.errors else f"{said.message} {said.errors}", token)[:300]


def _words(text: str, token: str) -> str:
    """Return what the other side said in printable letters, without the token it may say back to us."""
    return re.sub(r"[^ -~]+", " ", text.replace(token, "***"))


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _redirected(url: str, target: str) -> str:
    try:
        return urljoin(url, target)
    except ValueError:
        return ""


def _path(repository: str) -> str:
    return quote(repository, safe="/")


def _remember(cache: OrderedDict[Any, Any], key: object, value: object) -> None:
    cache[key] = value
    cache.move_to_end(key)
    while len(cache) > REMEMBERED:
        cache.popitem(last=False)
