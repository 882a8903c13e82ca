"""The kinds of machine that can be asked for, and the operator's limits for all of them."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from runnerd.machines import pool
from runnerd.machines.driver import Size


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of machine that can be asked for; what is None is as the pool's rules say."""

    size: Size
    image: str = ""
    """The built image it boots from; empty: the one of its own name."""
    min_idle: int | None = None
    max_total: int = 0
    """Machines of this kind at once; 0 sets no limit of its own."""
    max_idle_age: float | None = None


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """The operator's limits for the pool, before the driver's overhead is known. MiB and seconds."""

    min_idle: int = 1
    max_total: int = 0
    max_idle_age: float = 1200.0
    memory: int
    vcpus: int = 0
    """Processors that may be promised to all machines together; 0 sets no limit."""
    builders: int = 1


def limits(kinds: Mapping[str, Kind], rules: Rules, *, overhead: int) -> pool.Rules:
    """Return the limits of every kind, when a machine costs `overhead` MiB beside its memory."""
    return pool.Rules(
        shelves=tuple(
            pool.Shelf(
                image=name,
                memory=kind.size.memory + overhead,
                vcpus=kind.size.vcpus,
                min_idle=rules.min_idle if kind.min_idle is None else kind.min_idle,
                max_total=kind.max_total,
                max_idle_age=rules.max_idle_age if kind.max_idle_age is None else kind.max_idle_age,
            )
            for name, kind in kinds.items()
        ),
        max_total=rules.max_total,
        memory=rules.memory,
        vcpus=rules.vcpus,
        builders=rules.builders,
    )
