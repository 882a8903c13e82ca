"""Behaviour of runnerd.web.health."""

from __future__ import annotations

import trio

from runnerd.web import health
from runnerd.web.health import Problem


async def nothing():
    return []


async def test_live_and_ready():
    """Without a problem both say so with 200."""
    client = health.app(nothing).test_client()
    for path, status in (("/livez", "live"), ("/readyz", "ready")):
        answer = await client.get(path)
        assert (answer.status_code, await answer.get_json()) == (200, {"status": status})


async def test_problems_make_it_not_ready_and_leave_it_live():
    """Each problem is named with its sentence."""

    async def ready():
        return [Problem("ledger", "the disk is full")]

    client = health.app(ready).test_client()
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert (await answer.get_json())["problems"] == [{"name": "ledger", "sentence": "the disk is full"}]
    assert (await client.get("/livez")).status_code == 200


async def test_a_check_that_hangs_is_a_problem(autojump_clock):
    """Whoever watches gets an answer in bounded time."""
    client = health.app(trio.sleep_forever).test_client()
    started = trio.current_time()
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert trio.current_time() - started <= health.READY_TIMEOUT + 1


async def test_metrics_are_in_prometheus_text():
    """The exposition carries the daemon's own names and its content type."""
    answer = await health.app(nothing).test_client().get("/metrics")
    assert answer.status_code == 200
    assert answer.content_type.startswith("text/plain")
    assert b"runnerd_build_info" in await answer.get_data()


async def test_other_paths_are_unknown_in_json():
    """There is nothing else here."""
    answer = await health.app(nothing).test_client().get("/webhook")
    assert answer.status_code == 404
    assert (await answer.get_json())["error"]
