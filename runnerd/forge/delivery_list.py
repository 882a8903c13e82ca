"""GitHub's list of what it delivered: read back to a moment, with the payload of what is missing here.

GitHub remembers deliveries for three days, its Enterprise Server for seven; it repeats none by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from .places import PLACES
from .protocol import ForgeUnavailable, Gone, Reply

T = TypeVar("T")

PAGES = 300
"""Pages of a hundred that one reading takes."""
HOOKS_READ = "Webhooks: read"
RETENTION, RETENTION_ENTERPRISE = 3 * 86400.0, 7 * 86400.0


class Source(msgspec.Struct, frozen=True):
    """One list: its name, and its path in the API."""

    name: str
    path: str
    repository: str = ""


class Attempt(msgspec.Struct, frozen=True):
    """One attempt as the list has it; those of one event share the guid, whichever hook they were for."""

    id: int
    guid: str
    delivered_at: str
    event: str
    action: str | None = None
    status: str = ""
    status_code: int = 0
    redelivery: bool = False

    @property
    def time(self) -> float:
        """Seconds since the epoch; 0 for what is no time."""
        try:
            return datetime.fromisoformat(self.delivered_at).timestamp()
        except ValueError:
            return 0.0


class Missed(msgspec.Struct, frozen=True):
    """A delivery as the forge keeps it."""

    headers: Mapping[str, str]
    body: bytes


class _Request(msgspec.Struct):
    headers: dict[str, str] | None = None
    payload: dict[str, Any] | None = None


class _Detail(msgspec.Struct):
    request: _Request


class _HookConfig(msgspec.Struct):
    url: str = ""


class _Hook(msgspec.Struct):
    id: int
    active: bool = True
    config: _HookConfig = msgspec.field(default_factory=_HookConfig)


class Asks(Protocol):
    """The part of `Forge` that is used here."""

    async def ask(
        self, method: str, path: str, *, repository: str = "", permission: str = "", body: object = None
    ) -> Reply:
        """See `Forge.ask`."""
        ...


def retention(api: str) -> float:
    """How long, in seconds, the forge at this API address remembers what it delivered."""
    return RETENTION if urlsplit(api).hostname == "api.github.com" else RETENTION_ENTERPRISE


APP = Source("app", "/app/hook/deliveries")
"""The list of everything an App was sent."""


class DeliveryList:
    """Reads the lists through the forge's client; every method may raise what `Forge.ask` raises."""

    def __init__(self, forge: Asks, *, public_url: str = "") -> None:
        self._forge = forge
        self._public_url = public_url.rstrip("/")

    async def hooks(self, repository: str) -> list[Source]:
        """The lists of a repository's own webhooks that lead to a daemon such as this one."""
        place = f"/repos/{quote(repository, safe='/')}/hooks"
        found: list[Source] = []
        path = f"{place}?per_page=100"
        for _ in range(PAGES):
            reply = await self._forge.ask("GET", path, repository=repository, permission=HOOKS_READ)
            for hook in _convert(reply.json(), list[_Hook]):
                if hook.active and self._ours(hook.config.url):
                    found.append(
                        Source(f"{repository}#{hook.id}", f"{place}/{hook.id}/deliveries", repository)
                    )
            path = reply.next_page
            if not path:
                break
        return found

    def _ours(self, url: str) -> bool:
        if self._public_url:
            return url.rstrip("/") == f"{self._public_url}/webhook"
        return urlsplit(url).path.endswith("/webhook")

    async def since(self, source: Source, moment: float) -> list[Attempt]:
        """Every attempt since a moment (seconds since the epoch), newest first."""
        found: list[Attempt] = []
        path = f"{source.path}?per_page=100"
        for _ in range(PAGES):
            reply = await self._forge.ask("GET", path, repository=source.repository, permission=HOOKS_READ)
            page = _convert(reply.json(), list[Attempt])
            found += [attempt for attempt in page if attempt.time >= moment]
            path = reply.next_page
            if not path or not page or page[-1].time < moment:
                return found
        raise ForgeUnavailable(f"the list {source.name} has more than {PAGES} pages", 0.0)

    async def payload(self, source: Source, attempt: Attempt) -> Missed | None:
        """What was sent in an attempt; None where the forge does not have it any more."""
        path = f"{source.path}/{attempt.id}"
        try:
            reply = await self._forge.ask("GET", path, repository=source.repository, permission=HOOKS_READ)
        except Gone:
            return None
        request = _convert(reply.json(), _Detail).request
        if request.payload is None:
            return None
        headers = {name.lower(): value for name, value in (request.headers or {}).items()}
        # The guid is the list's own: what else the request said it was does not matter here.
        headers |= {"x-github-delivery": attempt.guid, "x-github-event": attempt.event}
        return Missed(headers, msgspec.json.encode(request.payload))


def missing(attempts: Iterable[Attempt], unknown: Iterable[str]) -> list[Attempt]:
    """Of each delivery that is unknown here and could start something one attempt, oldest first."""
    wanted = set(unknown)
    first: dict[str, Attempt] = {}
    for attempt in attempts:
        if attempt.guid in wanted and attempt.event in PLACES:
            known = first.get(attempt.guid)
            if known is None or attempt.time < known.time:
                first[attempt.guid] = attempt
    return sorted(first.values(), key=lambda attempt: (attempt.time, attempt.id))


def gap(read_to: float, now: float, remembered: float) -> tuple[float, float] | None:
    """From when to when nobody knows what was missed: the time since the last reading that is forgotten."""
    return (read_to, now - remembered) if now - read_to > remembered else None


def sent(attempts: Sequence[Attempt], guid: str) -> bool:
    """Whether the forge says that it sent a delivery of this id."""
    return any(attempt.guid == guid for attempt in attempts)


def _convert(answer: Any, kind: type[T]) -> T:
    try:
        return msgspec.convert(answer, kind)
    except msgspec.ValidationError as error:
        raise ForgeUnavailable(f"the forge's delivery list is not as documented: {error}", 0.0) from error
