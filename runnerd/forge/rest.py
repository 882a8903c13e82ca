"""One connection to a forge's REST API: sends a request in somebody's name and judges the answer.

Limits are kept for each account by itself, as the forge counts them; a request that a limit forbids is not
sent at all. The credential goes to the API's own origin alone, redirects included.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, urljoin, urlsplit

import httpx
import msgspec
import trio

from runnerd import __version__, log, metrics

from . import limits, pace
from .protocol import ForgeDenied, ForgeUnavailable, Gone

USER_AGENT = f"runnerd/{__version__}"
API_VERSION = "2022-11-28"
ATTEMPTS = 3
"""Tries of one request before the caller's outbox takes over."""
ANSWER_LIMIT = 32 << 20
"""Bytes of one answer; a page of a hundred comments has at most some seven million, a delivery 25 MiB."""
TIMEOUT = 30.0
"""Seconds for one request and its answer as a whole."""
REDIRECTS = 3

_log = log.get(__name__)
T = TypeVar("T")


class Credential(msgspec.Struct, frozen=True, kw_only=True):
    """In whose name a request goes; does not show itself."""

    value: str
    scheme: str = "Bearer"
    account: str = ""
    """Whose limits count: `token`, `app`, `installation 5`."""

    def __repr__(self) -> str:
        return f"Credential(***, account={self.account!r})"


class Doubt(Exception):
    """Nobody knows whether the request was done: look before doing it again."""


class Unauthorized(ForgeDenied):
    """The forge does not know the credential, or not any more."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A request that was done: `Reply`."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    base: str = ""
    """The API's address, under which the next page must lie."""

    def decode(self, kind: type[T]) -> T:
        """Read the body as JSON of this type; raises `Doubt` for any other."""
        try:
            return msgspec.json.decode(self.body, type=kind)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise Doubt("the forge's answer is not what its documentation says") from error

    def json(self) -> Any:
        """See `Reply`."""
        try:
            return self.decode(object) if self.body.strip() else None
        except Doubt as error:
            raise ForgeUnavailable(str(error), 0.0, "report") from error

    @property
    def next_page(self) -> str:
        """See `Reply`."""
        for part in self.headers.get("link", "").split(","):
            match = re.fullmatch(r'\s*<([^<>]+)>\s*;.*\brel="?next"?.*', part)
            if match and match[1].startswith(f"{self.base}/"):
                return match[1].removeprefix(self.base)
        return ""


class Rest:
    """The API at one address. `clock` gives seconds since the epoch, `jitter` numbers from 0 to 1."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        api: str,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[object]],
        jitter: Callable[[], float],
        media: str = "application/vnd.github+json",
    ) -> None:
        self.api = api.rstrip("/")
        self.clock = clock
        self._http = http
        self._sleep = sleep
        self._jitter = jitter
        self._media = media
        self._blocked: dict[str, float] = {}
        self._hits: dict[str, int] = {}
        self._points: dict[str, pace.Pace] = {}

    async def again(self, attempt: int, doubt: Doubt) -> None:
        """Pause before the next try (`attempt` counts from 0), or give up and leave it to the outbox."""
        if attempt + 1 == ATTEMPTS:
            raise ForgeUnavailable(f"{doubt}, {ATTEMPTS} times", self.clock() + 10.0) from doubt
        await self._sleep(0.5 * 2.0**attempt * (1.0 + self._jitter()))

    async def send(
        self,
        method: str,
        path: str,
        *,
        endpoint: str,
        permission: str,
        credential: Credential,
        body: object = None,
    ) -> Answer:
        """Send one request and judge its answer. `endpoint` is its name in the metrics.

        Raises `Doubt` when nobody knows whether it was done, `Gone` when its object does not exist,
        `Unauthorized` for a credential the forge does not know, `ForgeDenied` when it never will be done,
        and `ForgeUnavailable`, also without asking, during a limit.
        """
        now, account = self.clock(), credential.account
        self._hold_back(now, account, method)
        status, headers, answer = await self._exchange(method, path, endpoint, credential, body)
        message = _message(answer, credential.value) if status >= 300 else ""
        what = f"{method} {path.partition('?')[0]}"
        match limits.judge(status, headers, message, now=now, hits=self._hits.get(account, 0)):
            case limits.Fine():
                self._hits.pop(account, None)
                self._blocked[account] = limits.blocked_until(headers) or 0.0
                return Answer(status=status, headers=headers, body=answer, base=self.api)
            case limits.Uncertain():
                raise Doubt(f"{what}: the forge answered {status}")
            case limits.Wait(until=until):
                self._hits[account] = self._hits.get(account, 0) + 1
                self._blocked[account] = until
                _log.warning("forge_rate_limit", seconds=round(until - now), endpoint=endpoint)
                raise ForgeUnavailable(f"{what}: the forge's rate limit is reached", until, "repository")
        if status in (404, 410):
            raise Gone(f"{what}: {status} {message}: check that the token sees the repository and has "
                       f"the permission {permission!r}")  # fmt: skip
        if status == 401:
            raise Unauthorized(
                f"{what}: the forge does not know the {credential.account or 'token'} (401 {message}): "
                "is it expired or revoked, or this host's clock wrong?"
            )
        if status == 403:
            named = _words(headers.get("x-accepted-github-permissions", ""), credential.value)[:200]
            raise ForgeDenied(
                f"{what}: 403 {message}: the token lacks the permission {named or permission!r}", permission
            )
        raise ForgeDenied(f"{what}: {status} {message}")

    def _hold_back(self, now: float, account: str, method: str) -> None:
        until = self._blocked.get(account, 0.0)
        if now < until:
            raise ForgeUnavailable("the forge's rate limit is used up", until, "repository")
        points = self._points.setdefault(account, pace.Pace(pace.POINTS))
        cost = pace.READ if method == "GET" else pace.WRITE
        if (free := points.free_at(now, cost)) > now:
            raise ForgeUnavailable(
                "as many requests were sent as the forge allows a minute", free, "repository"
            )
        points.spend(now, cost)

    async def _exchange(
        self, method: str, path: str, endpoint: str, credential: Credential, body: object
    ) -> tuple[int, dict[str, str], bytes]:
        """Send a request, following a moved repository within the same server."""
        url = self.api + path
        headers = {
            "accept": self._media,
            "authorization": f"{credential.scheme} {credential.value}",
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
            if not url.startswith(f"{_origin(self.api)}/"):
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
                            raise Doubt(
                                f"{method} {endpoint}: the answer is larger than {ANSWER_LIMIT} bytes"
                            )
                fields = {name.lower(): value for name, value in response.headers.items()}
                if fields.get("x-ratelimit-remaining", "").isdigit():
                    metrics.github_ratelimit_remaining.set(float(fields["x-ratelimit-remaining"]))
                return response.status_code, fields, bytes(answer)
            raise Doubt(f"{endpoint}: no whole answer within {TIMEOUT:g} seconds")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Doubt(f"{endpoint}: the forge cannot be reached ({type(error).__name__})") from error
        finally:
            metrics.github_requests.labels(endpoint, code).inc()


def repository_path(repository: str) -> str:
    """Return the part of the API's paths that is about a repository."""
    return f"/repos/{quote(repository, safe='/')}"


class _Message(msgspec.Struct):
    message: str = ""
    errors: Any = None


def _message(answer: bytes, secret: str) -> str:
    """Return an error's own words, shortened; an answer that is not GitHub's has none."""
    try:
        said = msgspec.json.decode(answer, type=_Message)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return "without an explanation"
    return _words(said.message if not said.errors else f"{said.message} {said.errors}", secret)[:300]


def _words(text: str, secret: str) -> str:
    """Return what the other side said in printable letters, without the token it may say back to us."""
    return re.sub(r"[^ -~]+", " ", text.replace(secret, "***"))


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _redirected(url: str, target: str) -> str:
    try:
        return urljoin(url, target)
    except ValueError:
        return ""
