"""Behaviour of runnerd.forge.limits."""

from __future__ import annotations

import pytest

from runnerd.forge.limits import Denied, Fine, Uncertain, Wait, blocked_until, judge

NOW = 1_000_000.0


@pytest.mark.parametrize(
    ("status", "headers", "message", "hits", "verdict"),
    [
        (201, {}, "", 0, Fine()),
        (500, {}, "", 0, Uncertain()),
        (502, {}, "", 0, Uncertain()),
        (408, {}, "", 0, Uncertain()),
        (422, {}, "", 0, Denied()),
        (404, {}, "", 0, Denied()),
        (401, {}, "rate limit", 0, Denied()),
        (403, {}, "Resource not accessible", 0, Denied()),
        (403, {"x-ratelimit-remaining": "4000", "x-ratelimit-reset": "1000009"}, "no", 0, Denied()),
        (
            403,
            {"retry-after": "5", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "1000099"},
            "",
            0,
            Wait(NOW + 5),
        ),
        (429, {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, "", 0, Wait(NOW + 60)),
        (429, {"retry-after": "-5"}, "", 0, Wait(NOW + 60)),
        (429, {"retry-after": "99999999"}, "", 0, Wait(NOW + 3600)),
        (403, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1"}, "", 0, Wait(NOW + 1)),
        (403, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "9999999999"}, "", 0, Wait(NOW + 3600)),
        (403, {}, "You have exceeded a secondary rate limit", 0, Wait(NOW + 60)),
        (403, {}, "You have exceeded a secondary rate limit", 3, Wait(NOW + 480)),
        (403, {}, "You have triggered an abuse detection mechanism", 50, Wait(NOW + 3600)),
    ],
)
def test_every_answer_has_a_verdict(status, headers, message, hits, verdict):
    """A limit is told from a permission, a wait is bounded, and only a server's failure is uncertain."""
    assert judge(status, headers, message, now=NOW, hits=hits) == verdict


def test_the_last_answer_of_a_window_blocks_until_its_end():
    """Zero remaining names the reset; anything else blocks nothing."""
    assert blocked_until({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "12"}) == 12.0
    assert blocked_until({"x-ratelimit-remaining": "1", "x-ratelimit-reset": "12"}) is None
    assert blocked_until({"x-ratelimit-remaining": "0"}) is None
