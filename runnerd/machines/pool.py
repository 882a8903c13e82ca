"""What a pool of machines should do next, decided from its state alone; `actors/pool` does it.

One shelf per image. A machine goes building, warm, leased, gone, and never back: it serves one job.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Collection, Sequence

import msgspec


class Stage(enum.StrEnum):
    """Where a machine of the pool is in its life."""

    BUILDING = "building"
    WARM = "warm"
    LEASED = "leased"
    LEAVING = "leaving"
    """Being destroyed; its memory is not free yet."""
    PREPARING = "preparing"
    """No machine for anybody: its image's template is being made in one that ends with it."""


STAGES: dict[Stage, frozenset[Stage]] = {
    Stage.BUILDING: frozenset({Stage.WARM, Stage.LEAVING}),
    Stage.WARM: frozenset({Stage.LEASED, Stage.LEAVING}),
    Stage.LEASED: frozenset({Stage.LEAVING}),
    Stage.LEAVING: frozenset(),
    Stage.PREPARING: frozenset(),
}
"""Which stage may follow which; a leased machine is only ever destroyed."""


class Slot(msgspec.Struct, frozen=True):
    """One machine as the pool sees it; `since` is when it entered its stage, in seconds."""

    machine: str
    image: str
    stage: Stage
    since: float
    generation: str = ""
    """The generation of its image that it is made from; empty where that is not known or not counted."""


class Waiting(msgspec.Struct, frozen=True):
    """Somebody who waits for a machine, in the order of arrival."""

    ticket: int
    image: str
    since: float
    kept: bool = False
    """No warm machine will do: one that was kept in a folder is to be brought back."""


class Shelf(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator allows for one image. Memory in MiB, times in seconds."""

    image: str
    memory: int
    """What one of its machines takes: guest memory and the monitor's own. Never overcommitted."""
    vcpus: int = 1
    min_idle: int = 1
    ready: int = 0
    """Idle machines that what the last hours needed speaks for, `min_idle` among them."""
    max_total: int = 0
    """Machines of it alive at once; 0 sets no limit of its own."""
    max_idle_age: float = 1200.0


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """The operator's limits. Memory in MiB."""

    shelves: tuple[Shelf, ...]
    """Every image there is, the first kept warm first."""
    max_total: int = 0
    """Machines alive at once; 0 leaves it to memory alone."""
    memory: int | None
    """What all machines together may take; None where they are on another host, whose matter it is."""
    shared: int = 0
    """What templates take of that now. A machine that is alone is not kept from starting by it."""
    vcpus: int = 0
    """Processors that may be promised to all machines together; 0 sets no limit."""
    max_idle: int = 0
    """Idle machines of an image, where the last hours needed more than its `min_idle`; -1: as room allows."""
    builders: int = 1
    """Machines built at once: more than one per core only makes each later."""
    cores: int = 0
    """Those of this host: nothing beyond `min_idle` is built while jobs may need them all; 0: never mind."""
    give_up_after: int = 3
    """Failed builds in a row after which those who wait are told why, until one more is due to be tried."""

    def shelf(self, image: str) -> Shelf:
        """The limits of an image; raises LookupError for one there is not."""
        for shelf in self.shelves:
            if shelf.image == image:
                return shelf
        raise LookupError(image)


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
    draining: bool = False
    paused: bool = False
    """Nothing is built, leased or refused; what is leased goes on."""
    cold: tuple[str, ...] = ()
    """Images without a template, whose first machine would be long in coming."""
    canaries: tuple[str, ...] = ()
    """Images whose next machine is to be of the generation on trial, wanted or not."""
    outdated: frozenset[str] = frozenset()
    """Warm machines of generations that no job is to get any more."""


class Build(msgspec.Struct, frozen=True):
    """Clone one more machine of this image; a canary is of the generation on trial."""

    image: str
    canary: bool = False


class Prepare(msgspec.Struct, frozen=True):
    """Make this image's template, for whoever asks later."""

    image: str


class Lease(msgspec.Struct, frozen=True):
    """Give this warm machine to who waits with this ticket."""

    ticket: int
    machine: str


class Restore(msgspec.Struct, frozen=True):
    """Bring back the kept machine that who waits with this ticket asked for; it is leased from the start."""

    ticket: int


class Retire(msgspec.Struct, frozen=True):
    """Destroy this warm machine, for this reason."""

    machine: str
    reason: str


class Refuse(msgspec.Struct, frozen=True):
    """Tell who waits with this ticket that there will be no machine, and why."""

    ticket: int
    reason: str


Action = Build | Prepare | Lease | Restore | Retire | Refuse


def backoff(failures: int) -> float:
    """Seconds to wait after so many failed builds in a row: 0.5 s doubling, at most a minute."""
    return min(60.0, 0.5 * 2.0 ** min(failures - 1, 10))


def capacity(rules: Rules) -> int | None:
    """How many machines may be alive at once if all were of the largest kind; None: nothing limits them."""
    largest = max((shelf.memory for shelf in rules.shelves), default=1)
    widest = max((shelf.vcpus for shelf in rules.shelves), default=1)
    limits = []
    if rules.memory is not None:
        limits.append(max((rules.memory - rules.shared) // largest, int(rules.memory >= largest)))
    if rules.vcpus:
        limits.append(rules.vcpus // widest)
    if rules.max_total:
        limits.append(rules.max_total)
    return min(limits, default=None)


def hindrance(slots: Sequence[Slot], rules: Rules, image: str) -> str | None:
    """Say why no further machine of this image may be alive beside these, or None when it may.

    A machine that is leaving keeps its memory until it is reported gone.
    """
    shelf = rules.shelf(image)
    if shelf.max_total and sum(s.image == image for s in slots) >= shelf.max_total:
        return _all_taken(shelf.max_total, f"image {image}")
    if rules.max_total and len(slots) >= rules.max_total:
        return _all_taken(rules.max_total, "the pool")
    shared = rules.shared if slots else 0
    free = (rules.memory or 0) - shared - sum(rules.shelf(s.image).memory for s in slots)
    if rules.memory is not None and shelf.memory > free:
        return f"a machine needs {shelf.memory} MiB and {max(0, free)} MiB of {rules.memory} MiB are free"
    promised = sum(rules.shelf(s.image).vcpus for s in slots)
    if rules.vcpus and shelf.vcpus + promised > rules.vcpus:
        left = max(0, rules.vcpus - promised)
        return (
            f"a machine needs {shelf.vcpus} vCPUs and {left} of the {rules.vcpus} that "
            "[pool] cpu_ratio allows are free"
        )
    return None


def _all_taken(count: int, who: str) -> str:
    if count == 1:
        return f"the one machine that {who} may have is taken"
    return f"all {count} machines that {who} may have are taken"


def decide(state: State, rules: Rules, now: float) -> tuple[Action, ...]:
    """Say what to do now; the same state and time give the same actions.

    Who waits is served in the order of arrival, oldest warm machine first. A leased machine is never
    touched. A machine is built for each who waits and is not served yet, then to keep `min_idle` warm, and
    then `ready` while there are cores that no job may need, within memory, processors, the limits and the
    number of builders. Who came first also gets room first: a small machine is not built where a larger one
    waits. A kept machine is brought back as soon as there is room for one more, whatever the builders do. A
    warm machine past its age is replaced. Builders that are left make the canaries that are wanted, and the
    templates of images that have none. A machine of an outdated generation is given to nobody.
    While paused, who waits goes on waiting, and only warm machines that are to go anyway are touched.
    """
    actions: list[Action] = []
    warm = sorted((s for s in state.slots if s.stage is Stage.WARM), key=lambda s: s.since)
    stale = [s for s in warm if s.machine in state.outdated]
    warm = [s for s in warm if s.machine not in state.outdated]
    canaries = set(state.canaries)
    building = [s.image for s in state.slots if s.stage is Stage.BUILDING]
    preparing = [s.image for s in state.slots if s.stage is Stage.PREPARING]
    failing = {f.image: f for f in state.failing}

    unserved: list[Waiting] = []
    for who in () if state.paused else state.waiting:
        slot = None if who.kept else next((s for s in warm if s.image == who.image), None)
        trouble = None if who.kept else failing.get(who.image)
        if slot is not None:
            warm.remove(slot)
            actions.append(Lease(who.ticket, slot.machine))
        elif reason := _too_small(rules, who.image):
            actions.append(Refuse(who.ticket, reason))
        elif trouble is not None and trouble.count >= rules.give_up_after and now < trouble.retry_at:
            actions.append(Refuse(who.ticket, trouble.reason))
        else:
            unserved.append(who)

    leaving = {s.machine for s in state.slots if s.stage is Stage.LEAVING}
    for slot in stale:
        leaving.add(slot.machine)
        actions.append(Retire(slot.machine, "another generation of its image serves"))
    for slot in list(warm):
        # Put as in `wake_at`, so that it holds at the very time it names.
        if state.draining or now >= slot.since + rules.shelf(slot.image).max_idle_age:
            warm.remove(slot)
            leaving.add(slot.machine)
            actions.append(Retire(slot.machine, "draining" if state.draining else "older than max_idle_age"))

    if state.paused:
        return tuple(actions)

    def tried_later(image: str) -> bool:
        return image in failing and now < failing[image].retry_at

    alive = list(state.slots)

    def busy() -> bool:
        return len(building) + len(preparing) >= rules.builders

    def order(image: str, restore: Restore | None = None) -> None:
        stage = Stage.BUILDING if restore is None else Stage.LEASED
        alive.append(Slot(f"ordered-{len(alive)}", image, stage, now))
        if restore is None:
            building.append(image)
        actions.append(Build(image, canary=image in canaries) if restore is None else restore)
        if restore is None:
            canaries.discard(image)

    idle = [s.image for s in warm] + _surplus(building, unserved)
    promised = False  # room to who waits for a builder: a kept machine needs none, and may not take it
    for who in _missing(unserved, building):
        image = who.image
        if not who.kept and tried_later(image) and image not in canaries:
            continue  # what others wait for does not hang on this one
        shelf = rules.shelf(image)
        if shelf.max_total and sum(s.image == image for s in alive) >= shelf.max_total:
            its_own = [s for s in warm if who.kept and s.image == image and s.machine not in leaving]
            for machine in _spare(alive, its_own, leaving, rules, image):
                leaving.add(machine)
                actions.append(Retire(machine, "makes room for a kept machine"))
            continue
        if hindrance(alive, rules, image) is not None:
            if promised and not who.kept:
                return tuple(actions)
            idlers = [s for s in warm if s.machine not in leaving]
            reason = f"makes room for {'a kept machine' if who.kept else 'another image'}"
            for machine in _spare(alive, idlers, leaving, rules, image):
                actions.append(Retire(machine, reason))
            return tuple(actions)
        if who.kept:
            order(image, Restore(who.ticket))
        elif busy():
            promised = True
            alive.append(Slot(f"promised-{len(alive)}", image, Stage.BUILDING, now))
        else:
            order(image)
    if promised:
        return tuple(actions)
    # Every image's minimum comes before what only the last hours speak for, also where that stands already.
    floors = [(shelf.image, shelf.min_idle) for shelf in rules.shelves]
    wanted = [(shelf.image, shelf.ready) for shelf in rules.shelves]
    for image, number in (*floors, *wanted) if not state.draining else ():
        for _ in range(number - idle.count(image)):
            beyond = number > rules.shelf(image).min_idle
            if busy() or tried_later(image) or (beyond and _cores_taken(alive, rules)):
                break
            if hindrance(alive, rules, image) is not None:
                spare = _beyond_minimum(warm, leaving, rules) if number <= rules.shelf(image).min_idle else []
                for machine in _spare(alive, spare, leaving, rules, image):
                    leaving.add(machine)
                    actions.append(Retire(machine, "makes room for the min_idle of another image"))
                break
            order(image)
            idle.append(image)
    for image in state.canaries if not state.draining else ():
        if image in canaries and not busy() and hindrance(alive, rules, image) is None:
            order(image)
    for image in state.cold if not state.draining else ():
        if image in building or image in preparing or busy() or tried_later(image):
            continue
        if hindrance(alive, rules, image) is None:
            alive.append(Slot(f"ordered-{len(alive)}", image, Stage.PREPARING, now))
            preparing.append(image)
            actions.append(Prepare(image))
    return tuple(actions)


def _cores_taken(alive: Sequence[Slot], rules: Rules) -> bool:
    """Whether a machine for later would slow down those that work, or the next: one core is left to it."""
    working = sum(rules.shelf(s.image).vcpus for s in alive if s.stage is Stage.LEASED)
    making = sum(s.stage in (Stage.BUILDING, Stage.PREPARING) for s in alive)
    return bool(rules.cores) and working + making >= max(1, rules.cores - 1)


def _beyond_minimum(warm: Sequence[Slot], leaving: Collection[str], rules: Rules) -> list[Slot]:
    """The idle machines, oldest first, that could go and leave each image its `min_idle`."""
    left = [slot for slot in warm if slot.machine not in leaving]
    over = Counter(slot.image for slot in left)
    over.subtract({shelf.image: shelf.min_idle for shelf in rules.shelves})
    found = []
    for slot in left:
        if over[slot.image] > 0:
            over[slot.image] -= 1
            found.append(slot)
    return found


def _spare(
    alive: Sequence[Slot], warm: Sequence[Slot], leaving: set[str], rules: Rules, image: str
) -> list[str]:
    """The fewest idle machines, oldest first, whose going makes room for one of this image.

    None when room is coming anyway, and none when all of them together would not make it.
    """
    left = [s for s in alive if s.machine not in leaving]
    going: list[str] = []
    for slot in warm:
        if hindrance(left, rules, image) is None:
            return going
        left.remove(slot)
        going.append(slot.machine)
    return going if hindrance(left, rules, image) is None else []


def wake_at(state: State, rules: Rules, now: float) -> float | None:
    """When `decide` may say something new although nothing happened, or None."""
    ages = [s.since + rules.shelf(s.image).max_idle_age for s in state.slots if s.stage is Stage.WARM]
    times = [t for t in (*ages, *(f.retry_at for f in state.failing)) if t > now]
    return min(times, default=None)


def _missing(unserved: Sequence[Waiting], building: Sequence[str]) -> list[Waiting]:
    """Those for whom no machine is on its way yet."""
    coming = list(building)
    missing = []
    for who in unserved:
        if not who.kept and who.image in coming:
            coming.remove(who.image)
        else:
            missing.append(who)
    return missing


def _surplus(building: Sequence[str], unserved: Sequence[Waiting]) -> list[str]:
    """The machines being built that nobody waits for."""
    left = list(building)
    for who in unserved:
        if not who.kept and who.image in left:
            left.remove(who.image)
    return left


def _too_small(rules: Rules, image: str) -> str:
    """Why not one machine of this image fits into an empty pool; empty when one does."""
    shelf = rules.shelf(image)
    if rules.memory is not None and shelf.memory > rules.memory:
        return (
            f"a machine of image {image} needs {shelf.memory} MiB and the pool may use "
            f"{rules.memory} MiB: make its memory smaller or [pool] memory_reserve lower"
        )
    if rules.vcpus and shelf.vcpus > rules.vcpus:
        return (
            f"a machine of image {image} needs {shelf.vcpus} vCPUs and the pool may promise "
            f"{rules.vcpus}: make its vcpus fewer or [pool] cpu_ratio higher"
        )
    return ""
