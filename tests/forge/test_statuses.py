"""Behaviour of runnerd.forge.statuses, against a GitHub that checks every request."""

from __future__ import annotations

import pytest
import trio

REPOSITORY, SHA = "octo-org/hello", "b" * 40
CONTEXT = "runnerd / CI / build (ubuntu, 3.12)"
MARKER = "<!-- runnerd:v1 repository=1 pull=7 -->"


async def test_a_status_is_set_once(site):
    """The same status again asks nothing of the forge; a change is one write."""
    for _ in range(3):
        await site.status("pending", "Queued")
    await site.status()
    assert site.server.newest(REPOSITORY, SHA) == {CONTEXT: ("success", "Successful in 12s")}
    assert len(site.server.writes()) == 2


async def test_a_restart_does_not_repeat_what_is_there(site):
    """A new client looks before it writes: what the forge already says is not said again."""
    await site.status()
    async with site.client(site.address) as other:
        await other.set_status(REPOSITORY, SHA, CONTEXT.upper(), "success", "Successful in 12s", "")
    assert len(site.server.writes()) == 1


async def test_many_contexts_of_one_commit_are_read_once(site):
    """One look at a commit serves all its jobs, over as many pages as there are."""
    site.server.statuses[REPOSITORY, SHA] = [
        {"id": n, "context": f"c{n}", "state": "success", "description": "d", "target_url": None}
        for n in range(150)
    ]
    for n in (0, 149):
        await site.status("success", "d", context=f"c{n}")
    await site.status("success", "d", context="new")
    assert [request.method for request in site.server.requests] == ["GET", "GET", "POST"]


@pytest.mark.parametrize("kind", ["before", "after", "hangup", "garbage"])
async def test_an_uncertain_status_is_looked_up_before_it_is_written_again(site, kind):
    """Whether the lost write was applied or not, the status stands there exactly once."""
    site.fail(kind, method="POST")
    await site.status()
    assert len(site.server.statuses[REPOSITORY, SHA]) == 1
    assert site.slept == [0.75]


async def test_cancelling_a_write_leaves_the_client_usable(site):
    """A write cancelled in the middle is looked up the next time."""
    site.fail("slow", method="POST", seconds=0.5)
    with trio.move_on_after(0.1):
        await site.status()
    await trio.sleep(0.6)
    await site.status()
    assert len(site.server.statuses[REPOSITORY, SHA]) <= 2
