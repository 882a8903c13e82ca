"""The kinds of machine that can be asked for, and the operator's limits for all of them."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from runnerd.machines import demand, pool
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
    max_idle: int = 0
    """Idle machines of a kind, where the last hours needed more than its `min_idle`; -1: as room allows."""
    builders: int = 1
    cores: int = 0
    """See `pool.Rules.cores`."""
    canary_leases: int = 3
    """Jobs that a new generation of an image must have served well before it takes over."""


def limits(
    kinds: Mapping[str, Kind],
    rules: Rules,
    *,
    overhead: int,
    shared: int = 0,
    remote: bool = False,
    wanted: Mapping[str, int] | None = None,
) -> pool.Rules:
    """Return the limits of every kind, when a machine costs `overhead` MiB beside its memory.

    `shared` MiB are taken by templates. Nothing of this host limits machines that are `remote`. `wanted` are
    idle machines of each kind that the last hours speak for.
    """
    bounds = pool.Rules(
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
        memory=None if remote else rules.memory,
        shared=shared,
        vcpus=0 if remote else rules.vcpus,
        max_idle=rules.max_idle,
        builders=rules.builders,
        cores=0 if remote else rules.cores,
    )
    if not wanted or not rules.max_idle:
        return bounds
    ready = demand.ready(bounds, wanted)
    shelves = (msgspec.structs.replace(shelf, ready=ready[shelf.image]) for shelf in bounds.shelves)
    return msgspec.structs.replace(bounds, shelves=tuple(shelves))
