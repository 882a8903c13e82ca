"""What an API's answer says about asking again: allowed, denied, wait until, or nobody knows.

GitHub's rules ("Best practices for using the REST API", "Rate limits for the REST API"): `retry-after`
first, then `x-ratelimit-reset` when nothing remains, else a minute and longer each time.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

MINUTE = 60.0
HOUR = 3600.0


class Fine(msgspec.Struct, frozen=True):
    """The request was done."""


class Uncertain(msgspec.Struct, frozen=True):
    """The server failed: a write may have been applied or not."""


class Denied(msgspec.Struct, frozen=True):
    """Asking again will not help."""


class Wait(msgspec.Struct, frozen=True):
    """A rate limit: ask nothing before `until`, in seconds since the epoch."""

    until: float


Verdict = Fine | Uncertain | Denied | Wait


def judge(status: int, headers: Mapping[str, str], message: str, *, now: float, hits: int) -> Verdict:
    """Judge an answer; `headers` in lower case, `hits` counts limits without a time met in a row before."""
    if status < 300:
        return Fine()
    if status in (403, 429):
        return _limited(status, headers, message, now, hits) or Denied()
    return Uncertain() if status >= 500 or status == 408 else Denied()


def blocked_until(headers: Mapping[str, str]) -> float | None:
    """Return when the next request is allowed if this answer used up the last one."""
    reset = _number(headers.get("x-ratelimit-reset"))
    return reset if headers.get("x-ratelimit-remaining") == "0" and reset is not None else None


def _limited(status: int, headers: Mapping[str, str], message: str, now: float, hits: int) -> Wait | None:
    after = _number(headers.get("retry-after"))
    if after is not None:
        return Wait(now + min(after, HOUR))
    if (reset := blocked_until(headers)) is not None:
        # A reset in the past is a clock that differs from ours; one beyond an hour is no reset of GitHub's.
        return Wait(now + min(max(reset - now, 1.0), HOUR))
    if status == 429 or "rate limit" in message.lower() or "abuse" in message.lower():
        return Wait(now + min(MINUTE * 2.0 ** min(hits, 10), HOUR))
    return None


def _number(text: str | None) -> float | None:
    """Read a count of seconds; a date or anything else is not one."""
    return float(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 12 else None
