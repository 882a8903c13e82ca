"""Each who waits for a machine is told why, for every cause there is."""

import time

import pytest

from runnerd.machines.pool import Failing, Rules, Shelf, Slot, Stage, State, Waiting
from runnerd.machines.waits import failed, reasons


def shelf(image: str, memory: int = 100, **more) -> Shelf:
    return Shelf(image=image, memory=memory, **more)


def rules(**more) -> Rules:
    known = {"shelves": (shelf("small"), shelf("large", 300, vcpus=4)), "memory": 400, "builders": 2}
    return Rules(**(known | more))


def slots(*stages: Stage, image: str = "small") -> tuple[Slot, ...]:
    return tuple(Slot(f"{image}{number}", image, stage, 0.0) for number, stage in enumerate(stages))


def waiting(*images: str) -> tuple[Waiting, ...]:
    """Who waits, in the order of arrival; `kept` before an image for one that goes on in a kept machine."""
    return tuple(
        Waiting(number, image.removeprefix("kept "), 0.0, kept=image.startswith("kept "))
        for number, image in enumerate(images)
    )


LEASED, BUILDING, LEAVING, PREPARING = Stage.LEASED, Stage.BUILDING, Stage.LEAVING, Stage.PREPARING
FAILING = Failing("small", 2, 20.0, "no kernel")


@pytest.mark.parametrize(
    ("state", "limits", "why"),
    [
        ({"paused": True}, {}, "the pool is paused"),
        (
            {"failing": (FAILING,)},
            {},
            "2 builds in a row of image small failed, the next is tried in 10 s: no kernel",
        ),
        ({"slots": slots(BUILDING)}, {}, "its machine is being made"),
        (
            {"slots": slots(BUILDING), "cold": ("small",)},
            {},
            "its machine is being made, its image's template first",
        ),
        (
            {"slots": slots(LEASED, LEASED, LEASED, LEASED)},
            {},
            "a machine needs 100 MiB and 0 MiB of 400 MiB are free",
        ),
        (
            {"slots": slots(LEASED, LEASED)},
            {"vcpus": 2},
            "a machine needs 1 vCPUs and 0 of the 2 that [pool] cpu_ratio allows are free",
        ),
        (
            {"slots": slots(LEASED, LEAVING)},
            {"max_total": 2},
            "all 2 machines that the pool may have are taken; 1 of them being destroyed",
        ),
        (
            {"slots": slots(LEASED)},
            {"shelves": (shelf("small", max_total=1),)},
            "the one machine that image small may have is taken",
        ),
        (
            {"slots": slots(BUILDING, BUILDING, image="large")},
            {"memory": 4000},
            "no more than 2 machines are made at once: those who came first have them first",
        ),
        (
            {"slots": slots(PREPARING, PREPARING, image="large")},
            {"memory": 4000},
            "no more than 2 machines are made at once: those who came first have them first",
        ),
        ({}, {}, "it is about to get a machine"),
    ],
)
def test_one_who_waits_is_told_the_cause(state, limits, why):
    """Paused, failing, being made, memory, processors, both limits of number, builders, or just a moment."""
    assert reasons(State(waiting=waiting("small"), **state), rules(**limits), 10.0) == {0: why}


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (
            {"slots": slots(LEASED, LEASED, LEASED, LEASED)},
            "a machine needs 100 MiB and 0 MiB of 400 MiB are free",
        ),
        ({"slots": slots(BUILDING)}, "it is about to get the machine that was kept for it"),
        ({"failing": (FAILING,)}, "it is about to get the machine that was kept for it"),
    ],
)
def test_a_kept_machine_waits_for_room_alone(state, why):
    """Builds of its image, and that they fail, are nothing to who goes on in a machine that was kept."""
    assert reasons(State(waiting=waiting("kept small"), **state), rules(), 10.0) == {0: why}


def test_who_came_first_is_served_first():
    """A small machine waits behind a large one for which there is no room, and is told so."""
    state = State(slots=slots(LEASED, LEASED), waiting=waiting("large", "small", "kept small"))
    room = "a machine needs 300 MiB and 200 MiB of 400 MiB are free"
    behind = f"those who came first are served first, and there is no room for them: {room}"
    assert reasons(state, rules(), 0.0) == {0: room, 1: behind, 2: behind}


def test_who_cannot_come_now_holds_up_nobody():
    """An image that fails or has all it may have, and a machine that is being made, are no other's matter."""
    state = State(
        slots=slots(BUILDING, image="large"),
        waiting=waiting("small", "large", "large", "other"),
        failing=(FAILING,),
    )
    more = rules(shelves=(shelf("small"), shelf("large", 300, max_total=1), shelf("other")))
    found = reasons(state, more, 10.0)
    assert found[0].startswith("2 builds")
    assert found[1] == "its machine is being made"
    assert found[2] == "the one machine that image large may have is taken"
    assert found[3] == "it is about to get a machine"


def test_each_machine_that_is_being_made_is_somebodys():
    """Two are made and three wait: the third is told of the room."""
    state = State(slots=slots(LEASED, LEASED, BUILDING, BUILDING), waiting=waiting("small", "small", "small"))
    found = list(reasons(state, rules(), 0.0).values())
    assert found[:2] == ["its machine is being made"] * 2
    assert found[2].startswith("a machine needs 100 MiB")


def test_a_crowd_is_answered_in_a_moment():
    """The work grows with the number of those who wait, and not faster."""
    state = State(slots=slots(*[LEASED] * 200), waiting=waiting(*["small", "large"] * 2000))
    began = time.thread_time()
    assert len(reasons(state, rules(memory=20000), 0.0)) == 4000
    assert time.thread_time() - began < 5.0


def test_failing_builds_are_told():
    """One or several, and never a time that has passed."""
    assert failed(Failing("a", 1, 5.0, "no kernel"), 9.0) == (
        "a build of image a failed, the next is tried in 0 s: no kernel"
    )
