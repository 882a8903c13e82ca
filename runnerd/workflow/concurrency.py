"""Concurrency groups, decided: who of a group goes on, who waits, and who is called off. Pure.

One goes on and one waits; who comes later takes the place of who waits, and with `cancel-in-progress` asks
the one that goes on to stop. With `queue: max` up to `QUEUE` wait, and the oldest of them follows.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import msgspec

QUEUE = 100
"""How many may wait in a group with `queue: max`."""


class Standing(enum.StrEnum):
    """How one in a group stands."""

    WAITING = "waiting"
    HOLDING = "holding"
    """May go on, or does."""
    STOPPING = "stopping"
    """Goes on but was asked to stop: others follow once it has ended."""
    DISPLACED = "displaced"
    """Was called off while it waited, and never begins."""
    OVER = "over"
    """Ended, by itself or before its turn came."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One run, job or call in a group."""

    id: int
    """Counts in the order of arrival."""
    who: str
    """As people are told of it."""
    standing: Standing = Standing.WAITING
    cancels: bool = False
    """`cancel-in-progress` held when it came."""
    queue: str = "single"


class Move(msgspec.Struct, frozen=True):
    """A new standing of an entry, and why, for people."""

    id: int
    standing: Standing
    reason: str = ""


def key_of(group: str) -> str:
    """What two names have in common that mean the same group: case does not matter."""
    return group.strip().casefold()


def arrive(entries: Sequence[Entry], newcomer: Entry) -> tuple[Move, ...]:
    """What changes when somebody comes to a group with these entries; its own standing is among it."""
    holders = [each for each in entries if each.standing in (Standing.HOLDING, Standing.STOPPING)]
    waiting = [each for each in entries if each.standing is Standing.WAITING]
    if not holders and not waiting:
        return (Move(newcomer.id, Standing.HOLDING),)
    if newcomer.queue == "max" and len(waiting) >= QUEUE:
        reason = f"{QUEUE} wait in its concurrency group already"
        return (Move(newcomer.id, Standing.DISPLACED, reason),)
    moves: list[Move] = []
    if newcomer.queue != "max":
        reason = f"{newcomer.who} came to wait in its place in its concurrency group"
        moves += [Move(each.id, Standing.DISPLACED, reason) for each in waiting]
    if newcomer.cancels:
        reason = f"{newcomer.who} came to its concurrency group and has cancel-in-progress"
        moves += [Move(each.id, Standing.STOPPING, reason) for each in holders]
    ahead = (holders or waiting)[0]
    return (*moves, Move(newcomer.id, Standing.WAITING, f"waits for {ahead.who} in its concurrency group"))


def leave(entries: Sequence[Entry], gone: int) -> tuple[Move, ...]:
    """What changes when one of a group has ended: the oldest that waits may go on, if nobody else does."""
    left = [each for each in entries if each.id != gone]
    moves = [Move(gone, Standing.OVER)]
    if not any(each.standing in (Standing.HOLDING, Standing.STOPPING) for each in left):
        waiting = [each for each in left if each.standing is Standing.WAITING]
        if waiting:
            moves.append(Move(min(waiting, key=lambda each: each.id).id, Standing.HOLDING))
    return tuple(moves)
