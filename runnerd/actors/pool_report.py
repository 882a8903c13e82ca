"""What the pool says of itself to whoever asks: its machines, who waits and for what, and what is wrong."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from runnerd.machines import pool, waits
from runnerd.machines.demand import Demand, told
from runnerd.machines.driver import Driver
from runnerd.messages import MachineLine, PoolDescription, WaitingLine
from runnerd.model import Pause


def describe(
    driver: Driver,
    state: pool.State,
    rules: pool.Rules,
    now: float,
    *,
    jobs: Mapping[str, int],
    asked: Mapping[int, int],
    there: Collection[str],
    demand: Mapping[str, Demand],
    trouble: Sequence[str],
    trials: Sequence[str],
    pause: Pause | None,
) -> PoolDescription:
    """Say all of a pool in this state.

    `jobs` are those of machines and of places for one, `asked` those of tickets; `there` are the machines
    that exist, `demand` is what was asked of each image; `trouble` and `trials`
    are sentences about the generations of images.
    """
    reasons = waits.reasons(state, rules, now)
    coming_back = (s for s in state.slots if s.stage is pool.Stage.LEASED and s.machine not in there)
    return PoolDescription(
        driver=driver.name,
        isolated=driver.capabilities.isolated,
        emulated=driver.capabilities.emulated,
        remote=driver.capabilities.remote,
        capacity=pool.capacity(rules),
        machines=tuple(
            MachineLine(
                machine=slot.machine,
                image=slot.image,
                stage=slot.stage.value,
                age=now - slot.since,
                job=jobs.get(slot.machine),
            )
            for slot in state.slots
        ),
        waiting=(
            *(
                WaitingLine(
                    job=jobs[slot.machine], image=slot.image, age=now - slot.since, why=waits.BROUGHT_BACK
                )
                for slot in coming_back
            ),
            *(
                WaitingLine(
                    job=asked[who.ticket],
                    image=who.image,
                    age=now - who.since,
                    why=reasons[who.ticket] if pause is None else _said(pause),
                )
                for who in state.waiting
            ),
        ),
        keeps=tuple(
            told(shelf.image, demand.get(shelf.image, Demand()), shelf, now) for shelf in rules.shelves
        ),
        trouble=(*(waits.failed(failing, now) for failing in state.failing), *trouble),
        trials=tuple(trials),
        ready=pause is not None or _able(state, rules),
        paused=None if pause is None else _said(pause),
    )


def _able(state: pool.State, rules: pool.Rules) -> bool:
    """Whether the machines of any image come up."""
    wanting: Collection[str] = {*state.cold, *(f.image for f in state.failing)}
    return any(shelf.image not in wanting for shelf in rules.shelves)


def _said(pause: Pause) -> str:
    return f"the pool is paused{f': {pause.reason}' if pause.reason else ''} (`runnerd resume` ends it)"
