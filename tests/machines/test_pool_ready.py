"""Each image's minimum comes before what the last hours needed of any."""

import msgspec

from runnerd.machines.pool import Build, Retire, Rules, Shelf, Slot, Stage, State, decide


def warm(machine: str, image: str, since: float) -> Slot:
    return Slot(machine, image, Stage.WARM, since)


def ready_and_least(memory: int) -> Rules:
    """Three machines of one image are wanted by the last hours, and one of another is the least."""
    return Rules(
        shelves=(
            Shelf(image="busy", memory=100, min_idle=1, ready=3),
            Shelf(image="rare", memory=100, min_idle=1),
        ),
        memory=memory,
        builders=9,
    )


def test_what_the_last_hours_needed_comes_after_every_minimum():
    """Minimums are built first, and what is wanted beyond them as far as there is room."""
    least, more = [Build("busy"), Build("rare")], [Build("busy")] * 2
    assert decide(State(), ready_and_least(1000), 0.0) == (*least, *more)
    assert decide(State(), ready_and_least(300), 0.0) == (*least, *more[:1])
    assert decide(State(draining=True), ready_and_least(1000), 0.0) == ()


def test_nothing_beyond_the_minimum_is_made_while_jobs_need_the_cores():
    """What the next jobs may want does not slow down those that run; minimums are made all the same."""
    rules = msgspec.structs.replace(ready_and_least(1000), cores=3)
    leased = [Slot(name, "busy", Stage.LEASED, 0.0) for name in "ab"]
    least = (Build("busy"), Build("rare"))
    assert decide(State(slots=tuple(leased)), rules, 0.0) == least
    idle = (warm("c", "busy", 1.0), warm("d", "rare", 1.0))
    assert decide(State(slots=(*leased, *idle)), rules, 2.0) == ()
    assert decide(State(slots=(*leased[:1], *idle)), rules, 2.0) == (Build("busy"),)
    assert decide(State(slots=idle), rules, 2.0) == (Build("busy"),) * 2


def test_a_machine_beyond_the_minimum_makes_room_for_a_minimum():
    """The oldest goes where another image lacks its least, once; none that its own image's least needs."""
    busy = tuple(warm(name, "busy", since) for name, since in (("c", 3.0), ("a", 1.0), ("b", 2.0)))
    away = Retire("a", "makes room for the min_idle of another image")
    assert decide(State(slots=busy), ready_and_least(300), 5.0) == (away,)
    going = (*busy[:1], *busy[2:], Slot("a", "busy", Stage.LEAVING, 5.0))
    assert decide(State(slots=going), ready_and_least(300), 5.0) == ()
    assert decide(State(slots=busy[:1]), ready_and_least(100), 5.0) == ()
