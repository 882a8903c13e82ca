"""A mailbox is bounded, drains when closed, and keeps its messages through a reader's crash."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from runnerd.supervise.mailbox import Mailbox


async def test_messages_come_in_order():
    """Readers get each message once, oldest first."""
    mailbox: Mailbox[int] = Mailbox(3)
    for number in range(3):
        await mailbox.send(number)
    assert mailbox.depth == 3
    assert [await mailbox.receive() for _ in range(3)] == [0, 1, 2]
    assert mailbox.depth == 0


async def test_offer_never_waits():
    """A full mailbox refuses an offer at once and keeps what it has."""
    mailbox: Mailbox[int] = Mailbox(1)
    assert mailbox.offer(1)
    assert not mailbox.offer(2)
    assert await mailbox.receive() == 1


async def test_send_waits_for_a_place(nursery):
    """A sender is held back while the mailbox is full."""
    mailbox: Mailbox[int] = Mailbox(1)
    await mailbox.send(1)
    nursery.start_soon(mailbox.send, 2)
    await wait_all_tasks_blocked()
    assert mailbox.depth == 1
    assert await mailbox.receive() == 1
    assert await mailbox.receive() == 2


async def test_closing_lets_readers_finish():
    """After close what is queued is still read; then reading ends, and putting in is refused."""
    mailbox: Mailbox[int] = Mailbox(2)
    await mailbox.send(1)
    await mailbox.send(2)
    mailbox.close()
    mailbox.close()
    assert not mailbox.offer(3)
    with pytest.raises(trio.ClosedResourceError):
        await mailbox.send(3)
    assert [number async for number in mailbox] == [1, 2]
    with pytest.raises(trio.EndOfChannel):
        await mailbox.receive()


async def test_closing_wakes_a_waiting_reader(autojump_clock):
    """A reader that waits on an empty mailbox ends when it is closed."""
    mailbox: Mailbox[int] = Mailbox(1)
    read: list[int] = []

    async def reader() -> None:
        async for number in mailbox:
            read.append(number)

    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader)
            await wait_all_tasks_blocked()
            mailbox.close()
    assert read == []


async def test_a_crashed_reader_leaves_the_rest():
    """The next reader goes on after the message its predecessor crashed at."""
    mailbox: Mailbox[int] = Mailbox(3)
    for number in range(3):
        await mailbox.send(number)

    async def crash_at_first() -> None:
        async for number in mailbox:
            raise ValueError(number)

    with pytest.raises(ValueError, match="0"):
        await crash_at_first()
    mailbox.close()
    assert [number async for number in mailbox] == [1, 2]


async def test_several_readers_share_the_work():
    """Equal actors on one mailbox read every message exactly once between them."""
    mailbox: Mailbox[int] = Mailbox(100)
    read: list[int] = []

    async def reader() -> None:
        async for number in mailbox:
            read.append(number)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(reader)
        for number in range(50):
            await mailbox.send(number)
        mailbox.close()
    assert sorted(read) == list(range(50))
