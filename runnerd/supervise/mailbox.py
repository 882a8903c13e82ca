"""A bounded queue of messages that outlives the actor that reads it."""

from __future__ import annotations

from typing import Generic, TypeVar

import trio

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Messages to one actor, or to several equal ones, each read once and in the order they came.

    A message that an actor took before it crashed is gone: actors re-read the ledger when they start.
    """

    def __init__(self, capacity: int) -> None:
        self._put, self._take = trio.open_memory_channel[T](capacity)

    async def send(self, message: T) -> None:
        """Put a message in, waiting for a place. Raises trio.ClosedResourceError after `close`."""
        await self._put.send(message)

    def offer(self, message: T) -> bool:
        """Put a message in if there is a place; False when the mailbox is full or closed."""
        try:
            self._put.send_nowait(message)
        except (trio.WouldBlock, trio.ClosedResourceError):
            return False
        return True

    async def receive(self) -> T:
        """Take the oldest message. Raises trio.EndOfChannel when the mailbox is closed and empty."""
        return await self._take.receive()

    def close(self) -> None:
        """Take no more messages: readers get what is queued and then end. Safe to call twice."""
        self._put.close()

    @property
    def depth(self) -> int:
        """How many messages wait."""
        return self._take.statistics().current_buffer_used

    def __aiter__(self) -> Mailbox[T]:
        return self

    async def __anext__(self) -> T:
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None
