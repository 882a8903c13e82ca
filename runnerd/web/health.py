"""`/livez`, `/readyz` and `/metrics`, for whoever watches the daemon."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import msgspec
import trio
from quart import Response
from quart_trio import QuartTrio

from runnerd import metrics

from .errors import answer_in_json

READY_TIMEOUT = 8.0
"""Seconds after which a check that does not answer counts as a problem itself."""


class Problem(msgspec.Struct, frozen=True):
    """One reason why the daemon is not ready: what is not, and a sentence."""

    name: str
    sentence: str


Ready = Callable[[], Awaitable[Sequence[Problem]]]


def app(ready: Ready) -> QuartTrio:
    """Build the application. `/livez` says that the loop turns; `/readyz` asks `ready` for problems."""
    quart = QuartTrio(__name__, static_folder=None)
    answer_in_json(quart)

    @quart.get("/livez")
    async def live() -> Response:
        return _json(200, {"status": "live"})

    @quart.get("/readyz")
    async def readiness() -> Response:
        problems: Sequence[Problem] = (Problem("check", f"no answer within {READY_TIMEOUT:g} seconds"),)
        with trio.move_on_after(READY_TIMEOUT):
            problems = await ready()
        if problems:
            return _json(503, {"status": "not ready", "problems": problems})
        return _json(200, {"status": "ready"})

    @quart.get("/metrics")
    async def exposition() -> Response:
        return Response(metrics.render(), content_type=metrics.CONTENT_TYPE)

    return quart


def _json(status: int, body: object) -> Response:
    return Response(msgspec.json.encode(body), status, content_type="application/json")
