"""`POST /webhook`: bounds first, then the signature over the raw bytes, then whoever accepts deliveries.

Only this path is answered without Quart's request machinery, on the same server and behind the same
guard: it is the one that strangers reach and the one whose speed is promised. Nothing of a body that was
not proved is parsed, logged or stored.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
import trio
from quart_trio import QuartTrio

from runnerd import log, metrics

from .connection import App, Receive, Send
from .errors import answer_in_json
from .patience import Patience

PATH = "/webhook"
SMALL = 1 << 20
"""Bytes up to which a body is hashed where it is; a larger one goes to a thread."""

_SIGNATURE = "x-hub-signature-256"
_BARE_SIGNATURES = ("x-forgejo-signature", "x-gitea-signature")
"""Where Forgejo and Gitea say the same without `sha256=`; not every version of them sends GitHub's header."""
_ONCE = frozenset(
    {"content-type", "content-length", "x-github-event", "x-github-delivery", _SIGNATURE, *_BARE_SIGNATURES}
)
_UNPROVED = (401, 403, 429)
"""Answers to who did not show the secret."""

_log = log.get(__name__)


class Raw(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery whose signature fits: header names in lower case, the body as it came."""

    headers: Mapping[str, str]
    body: bytes
    peer: str = ""
    """The address it came from; empty for a Unix socket."""


class Answer(msgspec.Struct, frozen=True):
    """What the sender is told; `body` is sent as JSON."""

    status: int
    body: dict[str, Any]
    headers: tuple[tuple[str, str], ...] = ()


Accept = Callable[[Raw], Awaitable[Answer]]
"""Stores a delivery and says so; whatever it raises becomes a 500."""

Verify = Callable[[bytes, str | None], Answer | None]
"""Checks a body against `X-Hub-Signature-256`: the refusal, or None when it fits. May run in a thread."""


def refusal(status: int, error: str, *headers: tuple[str, str]) -> Answer:
    """Build an answer that says in one sentence why there is nothing else."""
    return Answer(status, {"error": error}, headers)


def app(
    accept: Accept,
    *,
    verify: Verify,
    body_limit: int = 25 << 20,
    body_timeout: float = 8.0,
    bodies_limit: int | None = None,
    patience: Patience | None = None,
) -> QuartTrio:
    """Build the application that takes deliveries.

    `body_limit` is in bytes (GitHub never sends more than 25 MiB), `body_timeout` in seconds for the whole
    body. `bodies_limit` bounds the bytes of all bodies being received at once, four of the largest where
    None; what goes beyond is answered 503. `patience` counts who brings no proof: who did so too often is
    answered 429 where there is no signature at all, and no longer logged.
    """
    quart = QuartTrio(__name__, static_folder=None)
    answer_in_json(quart)
    front = _Front(
        accept, verify, body_limit, body_timeout, 4 * body_limit if bodies_limit is None else bodies_limit,
        patience or Patience(time.monotonic), rest=quart.asgi_app,
    )  # fmt: skip
    quart.asgi_app = front  # type: ignore[method-assign, assignment]  # Quart's own place for middleware
    return quart


def _signature(headers: Mapping[str, str]) -> str | None:
    """The signature as GitHub writes it; one that says nothing counts as none."""
    given = headers.get(_SIGNATURE, "").strip()
    if given not in ("", "sha256="):
        return given
    bare = next((headers[name].strip() for name in _BARE_SIGNATURES if headers.get(name, "").strip()), "")
    return f"sha256={bare}" if bare else None


class _Refused(Exception):
    """Carries the answer to a request that goes no further."""

    def __init__(self, status: int, error: str, *headers: tuple[str, str]) -> None:
        self.answer = refusal(status, error, *headers)
        super().__init__(error)


class _Front:
    """The ASGI application in front: takes its one path and leaves the others to Quart."""

    def __init__(
        self,
        accept: Accept,
        verify: Verify,
        body_limit: int,
        body_timeout: float,
        room: int,
        patience: Patience,
        *,
        rest: App,
    ) -> None:
        self._accept = accept
        self._verify = verify
        self._limit = body_limit
        self._timeout = body_timeout
        self._room = room
        self._patience = patience
        self._rest = rest

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != PATH:
            await self._rest(scope, receive, send)
            return
        started = time.perf_counter()
        headers: dict[str, str] = {}
        try:
            answer = await self._answer(scope, headers, receive)
        except _Refused as refused:
            answer = refused.answer
        if answer is None:
            return  # the sender went away before the end of its body
        event = metrics.event_label(headers.get("x-github-event"))
        metrics.webhook_deliveries.labels(event, _result(answer)).inc()
        if answer.status == 202:
            metrics.webhook_ack_seconds.observe(time.perf_counter() - started)
        elif answer.status >= 400 and (answer.status not in _UNPROVED or self._patience.failed(_peer(scope))):
            _log.info(
                "delivery_refused", status=answer.status, reason=answer.body.get("error"), peer=_peer(scope)
            )
        await _send(answer, send)

    async def _answer(
        self, scope: dict[str, Any], headers: dict[str, str], receive: Receive
    ) -> Answer | None:
        if scope["method"] != "POST":
            raise _Refused(405, "deliveries are posted: use POST", ("allow", "POST"))
        _collect(scope["headers"], headers)
        self._check(headers)
        signature = _signature(headers)
        if signature is None:
            if self._patience.worn(_peer(scope)):
                wait = str(self._patience.wait())
                raise _Refused(429, "too many requests without a signature", ("retry-after", wait))
            # Nothing can prove the body, so that it need not be read.
            if (refused := self._verify(b"", None)) is not None:
                return refused
        body = await self._body(receive)
        if body is None:
            return None
        try:
            if len(body) <= SMALL:
                refused = self._verify(body, signature)
            else:
                refused = await trio.to_thread.run_sync(self._verify, body, signature)
            if refused is not None:
                return refused
            return await self._accept(Raw(headers=headers, body=body, peer=_peer(scope)))
        finally:
            self._room += len(body)

    def _check(self, headers: Mapping[str, str]) -> None:
        """Refuse by the headers alone what need not be read."""
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise _Refused(415, "set the webhook's content type to application/json: no other is read")
        if "content-length" in headers and "transfer-encoding" in headers:
            raise _Refused(400, "a body has a length or is chunked, never both")
        if int(headers.get("content-length", "0")) > self._limit:
            raise _Refused(413, self._too_large)
        if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise _Refused(415, "a compressed body is not accepted: send it as it was signed")

    @property
    def _too_large(self) -> str:
        return f"the body is larger than {self._limit} bytes"

    async def _body(self, receive: Receive) -> bytes | None:
        """Read the body within its size and its time; None when the sender went away.

        What it returns still counts against the room of all bodies; the caller gives that back.
        """
        chunks: list[bytes] = []
        size = 0
        try:
            with trio.move_on_after(self._timeout):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        return None
                    if chunk := message.get("body", b""):
                        size += len(chunk)
                        self._room -= len(chunk)
                        chunks.append(chunk)
                        if size > self._limit:
                            raise _Refused(413, self._too_large)
                        if self._room < 0:
                            raise _Refused(503, "too many large bodies at once", ("retry-after", "5"))
                    if not message.get("more_body", False):
                        size = 0  # counted on until it was answered
                        return b"".join(chunks)
            raise _Refused(408, f"the body did not arrive within {self._timeout:g} seconds")
        finally:
            self._room += size


def _collect(pairs: list[tuple[bytes, bytes]], into: dict[str, str]) -> None:
    """Read the headers into a mapping; one that decides something may come only once."""
    for raw_name, raw_value in pairs:
        name = raw_name.decode("latin-1").lower()
        if name in into:
            if name in _ONCE:
                raise _Refused(400, f"more than one {name} header")
            into[name] += ", " + raw_value.decode("latin-1")
        else:
            into[name] = raw_value.decode("latin-1")


async def _send(answer: Answer, send: Send) -> None:
    body = msgspec.json.encode(answer.body)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        *((name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers),
    ]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _result(answer: Answer) -> str:
    match answer.status:
        case 202:
            return "accepted"
        case 200:
            return "duplicate" if answer.body.get("status") == "duplicate" else "acknowledged"
        case 401 | 403:
            return "bad_signature"
        case 413:
            return "too_large"
        case 429:
            return "bad_signature"
        case status:
            return "overloaded" if status >= 500 else "malformed"


def _peer(scope: Mapping[str, Any]) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""
