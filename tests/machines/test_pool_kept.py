"""Kept machines that are brought back: when, and in whose turn."""

import msgspec

from runnerd.machines.pool import (
    Build,
    Failing,
    Lease,
    Refuse,
    Restore,
    Retire,
    Slot,
    Stage,
    State,
    Waiting,
    decide,
)
from runnerd.machines.waits import reasons

from .test_pool import limits, warm


def kept(ticket: int, image: str = "default", since: float = 0.0) -> Waiting:
    return Waiting(ticket, image, since, kept=True)


def test_who_wants_a_kept_machine_takes_no_warm_one_and_waits_for_no_builder():
    """It is brought back beside what is warm; who came after it still gets the warm one."""
    building = tuple(Slot(f"b{n}", "other", Stage.BUILDING, 0.0) for n in range(2))
    state = State(slots=(warm("a"), *building), waiting=(kept(1), Waiting(2, "default", 0.0)))
    assert decide(state, limits(builders=2), 1.0) == (Lease(2, "a"), Restore(1))


def test_a_kept_machine_comes_back_whatever_builds_of_its_image_do():
    """It is not built, so neither failed builds nor one under way have to do with it."""
    state = State(
        slots=(Slot("b", "default", Stage.BUILDING, 0.0),),
        waiting=(kept(1),),
        failing=(Failing("default", 3, 10.0, "kernel panic"),),
    )
    assert decide(state, limits(), 1.0) == (Restore(1),)


def test_a_kept_machine_waits_for_room_in_its_turn():
    """Idle machines make the room; who came later gets none of it, and who came first is served first."""
    rules = limits("other", memory=200)
    taken = Slot("l", "default", Stage.LEASED, 0.0)
    state = State(slots=(taken, warm("a", "other")), waiting=(kept(1), Waiting(2, "default", 0.0)))
    assert decide(state, rules, 1.0) == (Retire("a", "makes room for a kept machine"),)
    leaving = Slot("a", "other", Stage.LEAVING, 1.0)
    assert decide(State(slots=(taken, leaving), waiting=state.waiting), rules, 1.0) == ()
    assert decide(State(slots=(taken,), waiting=state.waiting), rules, 1.0) == (Restore(1),)
    first = State(slots=(taken,), waiting=(Waiting(2, "default", 0.0), kept(3)))
    assert decide(first, rules, 1.0) == (Build("default"),)


def test_a_kept_machine_goes_before_an_idle_one_where_its_image_may_have_no_more():
    """An idle machine it cannot use does not keep it waiting for ever; a second one stays."""
    rules = limits("default", max_total=0, builders=9)
    rules = msgspec.structs.replace(
        rules, shelves=tuple(msgspec.structs.replace(s, max_total=2, min_idle=2) for s in rules.shelves[:1])
    )
    state = State(slots=(warm("a"), warm("b", since=1.0)), waiting=(kept(1),))
    assert decide(state, rules, 2.0) == (Retire("a", "makes room for a kept machine"),)
    state = State(slots=(Slot("a", "default", Stage.LEAVING, 2.0), warm("b")), waiting=(kept(1),))
    assert decide(state, rules, 2.0) == ()
    assert decide(State(slots=(warm("b"),), waiting=(kept(1),)), rules, 2.0) == (Restore(1),)


def test_a_kept_machine_waits_while_the_pool_is_paused_and_comes_while_it_drains():
    """As a build for somebody who waits does; one that can never fit is refused with the numbers."""
    assert decide(State(waiting=(kept(1),), paused=True), limits(), 0.0) == ()
    assert decide(State(waiting=(kept(1),), draining=True), limits(), 0.0) == (Restore(1),)
    (action,) = decide(State(waiting=(kept(1),)), limits(memory=64), 0.0)
    assert isinstance(action, Refuse)
    assert "100 MiB" in action.reason


def test_a_kept_machine_waits_for_no_builder():
    """It comes back while who came first waits for one, beside the room that they will need."""
    slots = (Slot("b1", "default", Stage.BUILDING, 0.0),)
    waiting = (Waiting(1, "default", 0.0), Waiting(2, "default", 1.0), Waiting(3, "default", 2.0, kept=True))
    state = State(slots=slots, waiting=waiting)
    rules = limits(memory=300, builders=1)
    assert decide(state, rules, 3.0) == (Restore(3),)
    assert reasons(state, rules, 3.0)[3] == "it is about to get the machine that was kept for it"
    rules = limits(memory=200, builders=1)
    assert decide(state, rules, 3.0) == ()
    assert "100 MiB and 0 MiB of 200 MiB are free" in reasons(state, rules, 3.0)[3]
