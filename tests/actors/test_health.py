"""Behaviour of runnerd.actors.health."""

from __future__ import annotations

import httpx
import pytest
import trio

from runnerd.actors.health import HealthActor, NotReady, pool_check
from runnerd.messages import MachineLine, PoolDescription
from runnerd.supervise.mailbox import Mailbox
from runnerd.web.health import Problem


async def fine():
    await trio.lowlevel.checkpoint()


async def broken():
    raise NotReady("the disk is full")


async def mute():
    raise ValueError


async def test_the_actor_serves_until_it_is_stopped():
    """Its listener answers, and it ends when told to."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    stop = trio.Event()

    async def listen():
        return listeners

    actor = HealthActor(listen, checks={"ledger": broken}, stop=stop)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda *, task_status: actor.run(task_status=task_status))
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                assert (await client.get("/livez")).status_code == 200
                assert (await client.get("/readyz")).status_code == 503
                assert "runnerd_" in (await client.get("/metrics")).text
            stop.set()


async def test_every_problem_is_named_in_the_order_of_the_checks():
    """One check that fails hides no other; an error without words is named by its kind."""
    actor = HealthActor(None, checks={"a": broken, "b": fine, "c": mute}, stop=trio.Event())
    assert await actor.problems() == [Problem("a", "the disk is full"), Problem("c", "ValueError")]


BUILDING = MachineLine(machine="build-1", image="default", stage="building", age=1.0)


def description(**changes):
    return PoolDescription(
        **{"driver": "fake", "isolated": True, "emulated": False, "capacity": 2, **changes}
    )


async def answering(pool, answer):
    async for message in pool:
        message.reply.give(answer)


async def test_a_pool_with_templates_and_room_is_ready(nursery):
    """Queueing is possible, so that being busy is no problem."""
    pool = Mailbox(1)
    nursery.start_soon(answering, pool, description())
    await pool_check(pool)()
    pool.close()


async def test_one_image_that_fails_leaves_the_others_ready(nursery):
    """Trouble is told by `runnerd pool`; only when there are no machines at all is the daemon not ready."""
    pool = Mailbox(1)
    nursery.start_soon(answering, pool, description(trouble=("image other: no kernel",)))
    await pool_check(pool)()
    pool.close()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ready": False, "trouble": ("image default: no kernel", "x")}, "no kernel; x"),
        ({"ready": False}, "no image has its template yet"),
        ({"ready": False, "machines": (BUILDING,)}, "the first template is being made"),
        ({"capacity": 0, "ready": False}, "no machine fits"),
    ],
)
async def test_a_pool_that_can_make_no_machine_is_not_ready(nursery, changes, words):
    """Why no image's machines come up, or that memory is too small for any, is said."""
    pool = Mailbox(1)
    nursery.start_soon(answering, pool, description(**changes))
    with pytest.raises(NotReady, match=words):
        await pool_check(pool)()
    pool.close()


async def test_a_pool_that_does_not_answer_is_not_ready(autojump_clock):
    """One that is not there reads no mailbox; a full or closed one says so at once."""
    pool = Mailbox(1)
    with pytest.raises(NotReady, match="did not answer"):
        await pool_check(pool)()
    with pytest.raises(NotReady, match="takes no questions"):
        await pool_check(pool)()
    pool.close()
    with pytest.raises(NotReady, match="takes no questions"):
        await pool_check(pool)()
