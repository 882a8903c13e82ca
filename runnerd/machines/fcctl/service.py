"""The service's HTTP interface, with an answer believed only as far as it says what was asked.

The interface has no public description; it is known from the programs that call it. What it leaves open is
decided against success: an answer without an exit status, a snapshot or a machine without a name, is a fault
of the service.
"""

from __future__ import annotations

import base64
import binascii
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx
import msgspec
import trio

READY = frozenset({"running", "ready"})
FAILED = frozenset({"failed", "error", "stopped", "deleted", "terminated"})
ANSWER_LIMIT = 16 << 20
"""Bytes of one answer."""
REQUEST_SECONDS = 30.0
"""For everything but running something."""
MARGIN = 15.0
"""Seconds that an answer may take beyond the time which what it ran was given."""
TROUBLE_SHOWN = 300

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}").fullmatch

T = TypeVar("T")


class ServiceTrouble(Exception):
    """The service did not do what it was asked, or did not say so; whether it did is not known."""


class ServiceDenied(ServiceTrouble):
    """The service refuses this token; asking again is of no use."""


class NotThere(ServiceTrouble):
    """The service knows no such machine or snapshot."""


class Machine(msgspec.Struct, frozen=True):
    """A machine as the service describes it; some of its versions call the name `vm_id`."""

    id: str = ""
    vm_id: str = ""
    label: str = msgspec.field(default="", name="name")
    """What it was asked to be called, or what the service made of that."""
    status: str = ""

    @property
    def name(self) -> str:
        """What it is asked for by; never empty in what `Service` returns."""
        return self.id or self.vm_id

    @property
    def ready(self) -> bool:
        """Its monitor runs. That is no promise that anything in it answers yet."""
        return self.status.lower() in READY

    @property
    def failed(self) -> bool:
        """It will not become ready."""
        return self.status.lower() in FAILED


class Usage(msgspec.Struct, frozen=True):
    """How much of its quota this token uses."""

    at_capacity: bool = False
    current_vms: int = 0
    max_vms: int = 0


class Machines(msgspec.Struct, frozen=True):
    """All machines of this token."""

    vms: tuple[Machine, ...] = ()
    usage: Usage = Usage()


class Ran(msgspec.Struct, frozen=True):
    """What came of running a shell text; `exit_code` None when the service did not say."""

    exit_code: int | None = None
    stdout: str = ""
    stderr: str = ""
    error: str | None = None


class _Snapshot(msgspec.Struct, frozen=True):
    snapshot_id: str = ""
    id: str = ""


@asynccontextmanager
async def open_service(
    address: str, token: str | None, *, now: Callable[[], float] = time.time
) -> AsyncIterator[Service]:
    """A client of the service at `address`; the token goes nowhere else."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    limits = httpx.Limits(max_connections=64)
    async with httpx.AsyncClient(
        base_url=address.rstrip("/"),
        headers=headers,
        limits=limits,
        follow_redirects=False,
        trust_env=False,
    ) as http:
        yield Service(http, address, lambda: token_trouble(token, now(), ahead=0.0))


class Service:
    """One remote service. Every method raises `ServiceTrouble`, with a sentence that names the service."""

    def __init__(self, http: httpx.AsyncClient, address: str, expired: Callable[[], str]) -> None:
        """`expired` says that the token has run out, if it has: the service only says no."""
        self._http = http
        self.address = address
        self._expired = expired

    async def health(self) -> None:
        """Return when the service says that it is well."""
        found = await self._ask("GET", "/health", dict[str, Any])
        if str(found.get("status", "")).lower() not in ("healthy", "ok"):
            raise self._trouble("GET /health", f"it says it is {found.get('status')!r}")

    async def machines(self) -> Machines:
        """All machines that belong to this token, and its quota."""
        return await self._ask("GET", "/api/vms", Machines)

    async def create(self, vm_type: str, name: str) -> Machine:
        """Start a machine. Some versions of the service ignore `name` and choose one of their own."""
        found = await self._ask(
            "POST", "/api/vms", Machine, {"vm_type": vm_type, "vm_name": name, "name": name}
        )
        return self._named(found, "POST /api/vms")

    async def machine(self, name: str) -> Machine:
        """How a machine stands. Raises `NotThere`."""
        return self._named(await self._ask("GET", f"/api/vms/{name}", Machine), f"GET /api/vms/{name}")

    async def run(self, name: str, text: str, *, seconds: float) -> Ran:
        """Run a shell text in a machine, for at most `seconds`.

        The service is told the time in both of the fields that its versions look at; this side waits longer,
        so that the service's own answer is what counts. An answer with an `error` is no answer.
        """
        order = {
            "agent_id": "runnerd",
            "language": "bash",
            "code": text,
            "vm_id": name,
            "timeout_seconds": max(1, round(seconds)),
            "timeout_ms": max(1000, round(seconds * 1000)),
        }
        ran = await self._ask("POST", "/api/llm/execute", Ran, order, seconds=seconds + MARGIN)
        if ran.error:
            raise self._trouble("POST /api/llm/execute", ran.error)
        return ran

    async def snapshot(self, name: str, label: str) -> str:
        """Keep a machine as it is, and return the snapshot's name."""
        path = f"/api/vms/{name}/snapshots"
        found = await self._ask("POST", path, _Snapshot, {"name": label, "description": label}, seconds=120.0)
        snapshot = found.snapshot_id or found.id
        if not _NAME(snapshot):  # a name of our own making would be rolled back to and never found
            raise self._trouble(f"POST {path}", "it names no snapshot")
        return snapshot

    async def roll_back(self, name: str, snapshot: str) -> None:
        """Make a machine what it was when the snapshot was taken. Raises `NotThere`."""
        await self._ask("POST", f"/api/vms/{name}/rollback/{snapshot}", dict[str, Any], {}, seconds=120.0)

    async def remove(self, name: str) -> None:
        """End a machine; one that is not there is ended."""
        try:
            await self._request("DELETE", f"/api/vms/{name}", None, REQUEST_SECONDS)
        except NotThere:
            pass

    async def _ask(
        self,
        method: str,
        path: str,
        kind: type[T],
        body: dict[str, Any] | None = None,
        *,
        seconds: float = REQUEST_SECONDS,
    ) -> T:
        answer = await self._request(method, path, body, seconds)
        try:
            return msgspec.json.decode(answer, type=kind)
        except msgspec.MsgspecError as error:
            raise self._trouble(f"{method} {path}", f"its answer cannot be read: {error}") from error

    async def _request(self, method: str, path: str, body: dict[str, Any] | None, seconds: float) -> bytes:
        what = f"{method} {path}"
        answer = bytearray()
        try:
            with trio.fail_after(seconds):
                timeout = httpx.Timeout(seconds, connect=min(10.0, seconds))
                async with self._http.stream(method, path, json=body, timeout=timeout) as response:
                    async for block in response.aiter_bytes():
                        answer += block
                        if len(answer) > ANSWER_LIMIT:
                            raise self._trouble(what, f"its answer is larger than {ANSWER_LIMIT >> 20} MiB")
        except trio.TooSlowError as error:
            raise self._trouble(what, f"no answer within {seconds:g} s") from error
        except httpx.HTTPError as error:
            raise self._trouble(what, str(error) or type(error).__name__) from error
        if response.is_success:
            return bytes(answer)
        said = _said(answer)
        if response.status_code in (401, 403):
            why = self._expired() or f"{response.status_code} {said}".rstrip()
            raise ServiceDenied(f"the service at {self.address} refuses the token: {why}")
        if response.status_code == 404:
            raise NotThere(f"{what} at {self.address}: not found")
        raise self._trouble(what, f"{response.status_code} {said}".rstrip())

    def _named(self, machine: Machine, what: str) -> Machine:
        if not _NAME(machine.name):
            raise self._trouble(what, "it names no machine")
        return machine

    def _trouble(self, what: str, problem: str) -> ServiceTrouble:
        return ServiceTrouble(f"{what} at {self.address}: {problem[:TROUBLE_SHOWN]}")


def _said(answer: bytes | bytearray) -> str:
    """What a refusal says: its `error`, or else its first words."""
    try:
        found = msgspec.json.decode(answer)
    except (msgspec.MsgspecError, RecursionError):
        found = None
    error = found.get("error") or found.get("message") if isinstance(found, dict) else None
    text = error if isinstance(error, str) else answer.decode(errors="replace")
    return " ".join(text.split())[:TROUBLE_SHOWN]


def expiry(token: str) -> float | None:
    """When a token runs out, in seconds since the epoch; None for one that does not say.

    The service gives JSON Web Tokens (RFC 7519) for a week, with no way to renew them. Whether it is genuine
    is the service's to judge.
    """
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = msgspec.json.decode(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, binascii.Error, msgspec.MsgspecError, RecursionError):
        return None
    found = claims.get("exp") if isinstance(claims, dict) else None
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None


def token_trouble(token: str | None, now: float, *, ahead: float = 86400.0) -> str:
    """What is wrong with a token's time, or will be within `ahead` seconds; empty when nothing."""
    until = expiry(token) if token else None
    if until is None or until - now > ahead:
        return ""
    cure = "get a new one from the service and set FIRECRACKER_AUTH_TOKEN"
    if until <= now:
        return f"the token of the Firecracker service ran out {_span(now - until)} ago: {cure}"
    return f"the token of the Firecracker service runs out in {_span(until - now)}: {cure}"


def _span(seconds: float) -> str:
    hours = seconds / 3600
    if hours < 1:
        return f"{seconds / 60:.0f} minutes"
    return f"{hours / 24:.0f} days" if hours >= 48 else f"{hours:.1f} hours"
