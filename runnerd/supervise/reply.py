"""A one-shot answer to a request that crosses a channel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import trio

T = TypeVar("T")


class Reply(Generic[T]):
    """A slot for one answer or one error.

    Who asks awaits `wait()`; who answers calls `give` or `refuse`, which say False when nobody waits any
    more, so that what was to be handed over can be taken back.
    """

    def __init__(self) -> None:
        self._ready = trio.Event()
        self._answer: tuple[T] | None = None
        self._error: Exception | None = None
        self._abandoned = False

    @property
    def abandoned(self) -> bool:
        """Whether the one who asked has gone away."""
        return self._abandoned

    def give(self, value: T) -> bool:
        """Answer; False when it came too late or somebody answered before."""
        if self._abandoned or self._ready.is_set():
            return False
        self._answer = (value,)
        self._ready.set()
        return True

    def refuse(self, error: Exception) -> bool:
        """Raise `error` in the one who asked; False as for `give`."""
        if self._abandoned or self._ready.is_set():
            return False
        self._error = error
        self._ready.set()
        return True

    async def wait(self, take_back: Callable[[T], object] | None = None) -> T:
        """Wait for the answer.

        When the waiting task is cancelled after the answer was given, `take_back` gets the value, so
        that nothing handed over is lost between the two.
        """
        try:
            await self._ready.wait()
        except trio.Cancelled:
            self._abandoned = True
            if self._answer is not None and take_back is not None:
                take_back(self._answer[0])
            raise
        if self._error is not None:
            raise self._error
        assert self._answer is not None
        return self._answer[0]
