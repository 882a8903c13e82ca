"""What a pool of machines should do next, decided from its state alone; `actors/pool` does it.

One shelf per image. A machine goes building, warm, leased, gone, and never back: it serves one job.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import msgspec


class Stage(enum.StrEnum):
    """Where a machine of the pool is in its life."""

    BUILDING = "building"
    WARM = "warm"
    LEASED = "leased"
    LEAVING = "leaving"
    """Being destroyed; its memory is not free yet."""


STAGES: dict[Stage, frozenset[Stage]] = {
    Stage.BUILDING: frozenset({Stage.WARM, Stage.LEAVING}),
    Stage.WARM: frozenset({Stage.LEASED, Stage.LEAVING}),
    Stage.LEASED: frozenset({Stage.LEAVING}),
    Stage.LEAVING: frozenset(),
}
"""Which stage may follow which; a leased machine is only ever destroyed."""


class Slot(msgspec.Struct, frozen=True):
    """One machine as the pool sees it; `since` is when it entered its stage, in seconds."""

    machine: str
    image: str
    stage: Stage
    since: float


class Waiting(msgspec.Struct, frozen=True):
    """Somebody who waits for a machine, in the order of arrival."""

    ticket: int
    image: str
    since: float


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """The operator's limits. Memory in MiB, times in seconds."""

    min_idle: int = 1
    max_total: int = 0
    """Machines alive at once; 0 leaves it to memory alone."""
    max_idle_age: float = 1200.0
    memory: int
    """What all machines together may take, guest memory and the monitor's own."""
    machine_memory: int
    """What one machine takes of it. Memory is never overcommitted."""
    builders: int = 1
    """Machines built at once: more than one per core only makes each later."""
    give_up_after: int = 3
    """Failed builds in a row after which those who wait are told why instead of waiting on."""


class Failing(msgspec.Struct, frozen=True):
    """Builds of an image that failed in a row, and when the next may be tried."""

    image: str
    count: int
    retry_at: float
    reason: str


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a decision depends on but the clock."""

    slots: tuple[Slot, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    failing: tuple[Failing, ...] = ()
    images: tuple[str, ...] = ()
    """Images to keep warm, the first most wanted."""
    draining: bool = False


class Build(msgspec.Struct, frozen=True):
    """Clone one more machine of this image."""

    image: str


class Lease(msgspec.Struct, frozen=True):
    """Give this warm machine to who waits with this ticket."""

    ticket: int
    machine: str


class Retire(msgspec.Struct, frozen=True):
    """Destroy this warm machine, for this reason."""

    machine: str
    reason: str


class Refuse(msgspec.Struct, frozen=True):
    """Tell who waits with this ticket that there will be no machine, and why."""

    ticket: int
    reason: str


Action = Build | Lease | Retire | Refuse


def backoff(failures: int) -> float:
    """Seconds to wait after so many failed builds in a row: 0.5 s doubling, at most a minute."""
    return min(60.0, 0.5 * 2.0 ** min(failures - 1, 10))


def capacity(rules: Rules) -> int:
    """How many machines may be alive at once."""
    by_memory = max(0, rules.memory // rules.machine_memory)
    return min(by_memory, rules.max_total) if rules.max_total else by_memory


def decide(state: State, rules: Rules, now: float) -> tuple[Action, ...]:
    """Say what to do now; the same state and time give the same actions.

    Who waits is served in the order of arrival, oldest warm machine first. A leased machine is never
    touched. A machine is built for each who waits and is not served yet, then to keep `min_idle` warm,
    within capacity and the number of builders. A warm machine past its age is replaced by a younger one.
    """
    actions: list[Action] = []
    room = capacity(rules)
    warm = sorted((s for s in state.slots if s.stage is Stage.WARM), key=lambda s: s.since)
    building = [s.image for s in state.slots if s.stage is Stage.BUILDING]
    failing = {f.image: f for f in state.failing}

    unserved: list[str] = []
    for who in state.waiting:
        slot = next((s for s in warm if s.image == who.image), None)
        trouble = failing.get(who.image)
        if slot is not None:
            warm.remove(slot)
            actions.append(Lease(who.ticket, slot.machine))
        elif room == 0:
            actions.append(Refuse(who.ticket, _too_small(rules)))
        elif trouble is not None and trouble.count >= rules.give_up_after:
            actions.append(Refuse(who.ticket, trouble.reason))
        else:
            unserved.append(who.image)

    for slot in [s for s in warm if now - s.since > rules.max_idle_age or state.draining]:
        warm.remove(slot)
        actions.append(Retire(slot.machine, "draining" if state.draining else "older than max_idle_age"))

    # A slot being retired keeps its memory until the actor reports it gone.
    alive = len(state.slots)
    wanted = _missing(unserved, building)
    if not state.draining:
        idle = [s.image for s in warm] + _surplus(building, unserved)
        for image in state.images:
            wanted += [image] * (rules.min_idle - idle.count(image))
    if alive >= room and unserved and not building:
        # Somebody waits and every place is taken: an idle machine of another image makes room.
        spare = next((s for s in warm if s.image not in unserved), None)
        if spare is not None and not any(s.stage is Stage.LEAVING for s in state.slots):
            actions.append(Retire(spare.machine, "makes room for another image"))
    for image in wanted:
        trouble = failing.get(image)
        if alive >= room or len(building) >= rules.builders:
            break
        if trouble is not None and now < trouble.retry_at:
            continue
        alive += 1
        building.append(image)
        actions.append(Build(image))
    return tuple(actions)


def wake_at(state: State, rules: Rules, now: float) -> float | None:
    """When `decide` may say something new although nothing happened, or None."""
    ages = [s.since + rules.max_idle_age for s in state.slots if s.stage is Stage.WARM]
    times = [t for t in (*ages, *(f.retry_at for f in state.failing)) if t > now]
    return min(times, default=None)


def _missing(unserved: Sequence[str], building: Sequence[str]) -> list[str]:
    """The images that somebody waits for and nobody builds yet."""
    coming = list(building)
    missing = []
    for image in unserved:
        if image in coming:
            coming.remove(image)
        else:
            missing.append(image)
    return missing


def _surplus(building: Sequence[str], unserved: Sequence[str]) -> list[str]:
    """The machines being built that nobody waits for."""
    left = list(building)
    for image in unserved:
        if image in left:
            left.remove(image)
    return left


def _too_small(rules: Rules) -> str:
    return (
        f"a machine needs {rules.machine_memory} MiB and the pool may use {rules.memory} MiB: "
        "make [machines] memory smaller or [pool] memory_reserve lower"
    )
