"""Pool decisions about generations: who is a canary, and who is outdated."""

from hypothesis import given
from hypothesis import strategies as st

from runnerd.machines.pool import Build, Lease, Retire, Rules, Shelf, Slot, Stage, State, Waiting, decide


def limits(memory=1000, builders=2, min_idle=1, **shelf):
    shelves = (Shelf(image="default", memory=100, min_idle=min_idle, **shelf),)
    return Rules(shelves=shelves, memory=memory, builders=builders)


def warm(machine, since=0.0, generation="old"):
    return Slot(machine, "default", Stage.WARM, since, generation)


def test_a_canary_that_is_wanted_is_built_beside_the_minimum():
    """Where there is room, although nobody waits and enough are warm."""
    state = State(slots=(warm("a"),), canaries=("default",))
    assert decide(state, limits(), 0.0) == (Build("default", canary=True),)
    assert decide(state, limits(memory=100), 0.0) == ()
    assert decide(state, limits(max_total=1), 0.0) == ()
    draining = State(slots=(warm("a"),), canaries=("default",), draining=True)
    assert decide(draining, limits(), 0.0) == (Retire("a", "draining"),)


def test_the_next_machine_is_the_canary_and_only_one():
    """Whatever it is built for; the others are of the generation that serves."""
    waiting = tuple(Waiting(number, "default", 0.0) for number in range(3))
    state = State(waiting=waiting, canaries=("default",))
    assert decide(state, limits(builders=3), 0.0) == (
        Build("default", canary=True),
        Build("default"),
        Build("default"),
    )
    assert decide(State(canaries=("default",)), limits(), 0.0) == (Build("default", canary=True),)


def test_an_outdated_machine_goes_and_is_given_to_nobody():
    """Who waits has one built, although one is warm."""
    state = State(slots=(warm("a"),), waiting=(Waiting(1, "default", 0.0),), outdated=frozenset({"a"}))
    assert decide(state, limits(min_idle=0), 0.0) == (
        Retire("a", "another generation of its image serves"),
        Build("default"),
    )


@given(
    st.lists(st.sampled_from(Stage), max_size=6),
    st.integers(0, 3),
    st.booleans(),
    st.sets(st.integers(0, 5)),
    st.integers(0, 600),
)
def test_no_leased_machine_is_touched_and_memory_holds(stages, waiting, canary, outdated, memory):
    """Whatever is outdated or on trial: at most one canary, within memory, and nobody loses a machine."""
    slots = tuple(Slot(f"m{n}", "default", stage, float(n), "old") for n, stage in enumerate(stages))
    state = State(
        slots=slots,
        waiting=tuple(Waiting(n, "default", 0.0) for n in range(waiting)),
        canaries=("default",) if canary else (),
        outdated=frozenset(f"m{n}" for n in outdated),
    )
    actions = decide(state, limits(memory=memory), 10.0)
    by_name = {slot.machine: slot for slot in slots}
    retired = [action.machine for action in actions if isinstance(action, Retire)]
    leased = [action.machine for action in actions if isinstance(action, Lease)]
    built = [action for action in actions if isinstance(action, Build)]
    assert all(by_name[name].stage is Stage.WARM for name in (*retired, *leased))
    assert len(set(retired) | set(leased)) == len(retired) + len(leased)
    assert not set(leased) & state.outdated
    assert state.outdated & {s.machine for s in slots if s.stage is Stage.WARM} <= set(retired)
    assert sum(action.canary for action in built) <= int(canary)
    assert not built or (len(slots) + len(built)) * 100 <= memory
