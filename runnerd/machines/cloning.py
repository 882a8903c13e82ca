"""A clone that does not get ready is tried once more, and what went wrong with both is said."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from typing import TypeVar

from runnerd import log
from runnerd.machines.driver import NoMachine

_log = log.get(__name__)

TRIES = 2

Clone = TypeVar("Clone")


async def tried_twice(
    clone: Callable[[], Awaitable[Clone]], *, image: str, trouble: tuple[type[Exception], ...]
) -> Clone:
    """Return a clone of an image; raises NoMachine when `trouble` came both times, and all else at once."""
    troubles = []
    for _ in range(TRIES):
        try:
            return await clone()
        except trouble as error:
            reason = _said(error)
            _log.warning("a clone did not get ready", image=image, reason=reason)
            troubles.append(reason)
    raise NoMachine(f"no clone of the image {image!r} got ready: {'; then: '.join(dict.fromkeys(troubles))}")


def _said(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "no space is left where the state directory is: free some"
    return str(error)
