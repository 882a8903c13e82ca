"""The memory that templates hold, in the pool's decisions."""

from __future__ import annotations

import msgspec

from runnerd.machines.pool import (
    Build,
    Rules,
    Shelf,
    Slot,
    Stage,
    State,
    Waiting,
    capacity,
    decide,
    hindrance,
)


def test_what_templates_hold_is_not_given_to_machines_but_the_first():
    """Memory that templates take is not there for a further machine; a machine alone starts all the same."""
    shelf = Shelf(image="default", memory=100, min_idle=0)
    rules = Rules(shelves=(shelf,), memory=250, builders=1, shared=60)
    waiting = tuple(Waiting(n, "default", 0.0) for n in range(5))
    leased = Slot("l", "default", Stage.LEASED, 0.0)
    assert decide(State(slots=(leased,), waiting=waiting), rules, 0.0) == ()
    assert "90 MiB of 250 MiB are free" in (hindrance((leased,), rules, "default") or "")
    full = msgspec.structs.replace(rules, shared=500)
    assert decide(State(waiting=waiting), full, 0.0) == (Build("default"),)
    assert [capacity(each) for each in (msgspec.structs.replace(rules, shared=0), rules, full)] == [2, 1, 1]
