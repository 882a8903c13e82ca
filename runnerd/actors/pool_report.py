"""What the pool says of itself to whoever asks: its machines, who waits and for what, and what is wrong."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from runnerd.machines import pool
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
    pause: Pause | None,
) -> PoolDescription:
    """Say all of a pool in this state; `jobs` are those of machines, `asked` those of tickets."""
    return PoolDescription(
        driver=driver.name,
        isolated=driver.capabilities.isolated,
        emulated=driver.capabilities.emulated,
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
        waiting=tuple(
            WaitingLine(
                job=asked[who.ticket],
                image=who.image,
                age=now - who.since,
                why=_why(who, state, rules, pause),
            )
            for who in state.waiting
        ),
        trouble=tuple(
            f"image {f.image}: {f.count} builds failed in a row, next in "
            f"{max(0.0, f.retry_at - now):.0f} s: {f.reason}"
            for f in state.failing
        ),
        ready=pause is not None or _able(state, rules),
        paused=None if pause is None else _said(pause),
    )


def _able(state: pool.State, rules: pool.Rules) -> bool:
    """Whether the machines of any image come up."""
    wanting: Collection[str] = {*state.cold, *(f.image for f in state.failing)}
    return any(shelf.image not in wanting for shelf in rules.shelves)


def _why(who: pool.Waiting, state: pool.State, rules: pool.Rules, pause: Pause | None) -> str:
    if pause is not None:
        return _said(pause)
    if not who.kept:
        for trouble in state.failing:
            if trouble.image == who.image:
                return trouble.reason
        if any(slot.image == who.image and slot.stage is pool.Stage.BUILDING for slot in state.slots):
            return "a machine is being made"
    return pool.hindrance(state.slots, rules, who.image) or "those who came first are served first"


def _said(pause: Pause) -> str:
    return f"the pool is paused{f': {pause.reason}' if pause.reason else ''} (`runnerd resume` ends it)"
