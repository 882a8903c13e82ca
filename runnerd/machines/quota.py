"""How much of jobs' machines is kept, and which go first: of the repository that has the most. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from runnerd.machines.driver import NotKept


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much is kept, of all jobs together, and of one machine."""

    count: int = 20
    age: float = 604800.0
    """Seconds."""
    disk: int = 10240 << 20
    """Bytes of all."""
    limit: int = 8 << 30
    """Bytes of one."""


class Entry(Protocol):
    """One machine that is kept."""

    @property
    def folder(self) -> Path:
        """Where; no two have the same."""
        ...

    @property
    def repository(self) -> str:
        """Whose job it was of."""
        ...

    @property
    def job(self) -> int:
        """The job's number."""
        ...

    @property
    def at(self) -> float:
        """Since when, in seconds since the epoch."""
        ...

    @property
    def bytes(self) -> int:
        """How large it is."""
        ...


E = TypeVar("E", bound=Entry)


def excess(kept: Iterable[E], now: float, limits: Limits, stays: Collection[Path] = ()) -> tuple[E, ...]:
    """Return what is to be removed so that the limits hold; what `stays` does so, and counts.

    It is what is too old, and then, one by one, the oldest of the repository that has the most of what
    there is too much of.
    """
    ordered = sorted(kept, key=lambda each: (each.at, each.folder))
    held = [each for each in ordered if each.folder in stays]
    free = [each for each in ordered if each.folder not in stays]
    gone = [each for each in free if now - each.at > limits.age]
    del free[: len(gone)]
    counts, sizes = Counter[str](), Counter[str]()
    for each in (*held, *free):
        counts[each.repository] += 1
        sizes[each.repository] += each.bytes
    while free and (counts.total() > limits.count or sizes.total() > limits.disk):
        most = sizes if sizes.total() > limits.disk else counts
        next_ = max(free, key=lambda each: most[each.repository])  # of equals the first, which is the oldest
        free.remove(next_)
        gone.append(next_)
        counts[next_.repository] -= 1
        sizes[next_.repository] -= next_.bytes
    return tuple(gone)


def room(kept: Iterable[E], limits: Limits, *, job: int, repository: str, stays: Collection[Path]) -> int:
    """Return how many bytes one more machine of this job may have.

    What other repositories have stays, up to an equal share of the limits for each, and so does what must
    not be removed (`stays`) of any job but this. Raises NotKept where that leaves nothing.
    """
    of: dict[str, list[E]] = {repository: []}
    for each in kept:
        of.setdefault(each.repository, []).append(each)
    count, size = limits.count, limits.disk
    for whose, machines in of.items():
        held = [each for each in machines if each.folder in stays and each.job != job]
        own = whose == repository
        count -= max(len(held), 0 if own else min(len(machines), limits.count // len(of)))
        size -= max(_size(held), 0 if own else min(_size(machines), limits.disk // len(of)))
    if count <= 0 or size <= 0:
        raise NotKept("as many are kept and in use as [snapshots] allows")
    return min(limits.limit, size)


def _size(machines: Iterable[Entry]) -> int:
    return sum(each.bytes for each in machines)
