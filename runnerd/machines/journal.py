"""What a driver tells about its machines before it acts, so that none outlives the daemon unseen."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec


class MachineNote(msgspec.Struct, frozen=True, kw_only=True):
    """One machine as it is about to be."""

    id: str
    driver: str
    image: str
    state: str
    """`starting` before its process exists, `running` once it does, `gone` when all of it is gone."""
    pid: int | None = None
    uid: int | None = None
    started: float = 0.0
    """The process's start, in seconds since the host booted: with the pid it names the process for ever."""
    why: str = ""
    """What it is for, where no job will have it."""


Journal = Callable[[MachineNote], Awaitable[None]]
"""Returns when the note is durable."""


FOR_TEMPLATE = "it was started to make a template"


async def unwritten(note: MachineNote) -> None:
    """A journal for those who keep none: one run of the command line, and tests."""
