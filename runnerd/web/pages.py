"""What the links of a report lead to: a run or a job as plain text, for whoever has its address.

A page is text and nothing else, whatever a workflow printed: no browser runs, frames or keeps it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from quart import Response
from quart_trio import QuartTrio

from .errors import json_error

Page = Callable[[int, int | None, str], Awaitable[str | None]]
"""The text of a run or, with the second number, of a job; None when the seal, the third, is not theirs."""

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
}


def add(quart: QuartTrio, page: Page) -> None:
    """Serve pages beside what the application serves already."""

    async def answer(run: int, job: int | None, seal: str) -> Response:
        text = await page(run, job, seal)
        if text is None:
            return json_error(404, "there is no such page: follow a link of a report")
        return Response(text, content_type="text/plain; charset=utf-8", headers=HEADERS)

    @quart.get("/runs/<int:run>/<seal>")
    async def of_run(run: int, seal: str) -> Response:
        return await answer(run, None, seal)

    @quart.get("/runs/<int:run>/jobs/<int:job>/<seal>")
    async def of_job(run: int, job: int, seal: str) -> Response:
        return await answer(run, job, seal)
