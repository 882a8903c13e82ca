"""A reply reaches who asked exactly once, and is taken back when nobody waits any more."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from runnerd.supervise.reply import Reply


async def test_the_asker_gets_the_value():
    """What is given is what `wait` returns."""
    reply: Reply[int] = Reply()
    assert reply.give(7)
    assert await reply.wait() == 7


async def test_a_refusal_raises_in_the_asker():
    """A refused request raises the given error where it was asked."""
    reply: Reply[int] = Reply()
    assert reply.refuse(LookupError("no such machine"))
    with pytest.raises(LookupError, match="no such machine"):
        await reply.wait()


async def test_only_the_first_answer_counts():
    """A second answer is not accepted and changes nothing."""
    reply: Reply[int] = Reply()
    assert reply.give(1)
    assert not reply.give(2)
    assert not reply.refuse(LookupError())
    assert await reply.wait() == 1


async def test_none_is_an_answer():
    """None can be given like any other value."""
    reply: Reply[None] = Reply()
    assert reply.give(None)
    assert await reply.wait() is None


async def test_an_abandoned_request_is_not_answered():
    """Once the asker was cancelled, `give` says False, so the value stays with the giver."""
    reply: Reply[int] = Reply()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reply.wait)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert reply.abandoned
    assert not reply.give(1)


async def test_a_value_given_to_a_cancelled_asker_is_taken_back():
    """A value given in the same instant as the cancellation goes to `take_back`."""
    reply: Reply[str] = Reply()
    returned: list[str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reply.wait, returned.append)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        given = reply.give("machine")
    assert given == (returned == ["machine"])
