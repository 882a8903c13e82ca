"""Pool decisions: who gets a machine, what is built, what is retired, within memory."""

from hypothesis import given
from hypothesis import strategies as st

from runnerd.machines.pool import (
    STAGES,
    Build,
    Failing,
    Lease,
    Refuse,
    Retire,
    Rules,
    Slot,
    Stage,
    State,
    Waiting,
    backoff,
    capacity,
    decide,
    wake_at,
)

RULES = Rules(memory=1000, machine_memory=100, min_idle=1, builders=2)


def warm(machine: str, image: str = "default", since: float = 0.0) -> Slot:
    return Slot(machine, image, Stage.WARM, since)


def test_an_empty_pool_builds_its_minimum():
    """With nothing alive and nobody waiting, `min_idle` machines are built."""
    assert decide(State(images=("default",)), RULES, 0.0) == (Build("default"),)


def test_who_waits_gets_the_oldest_warm_machine_and_it_is_replaced():
    """The oldest warm machine is leased, and another is built in its place."""
    state = State(
        slots=(warm("young", since=5.0), warm("old", since=1.0)),
        waiting=(Waiting(1, "default", 6.0), Waiting(2, "default", 6.0)),
        images=("default",),
    )
    assert decide(state, RULES, 7.0) == (Lease(1, "old"), Lease(2, "young"), Build("default"))


def test_nobody_is_served_before_who_came_first():
    """Tickets are served in the order of arrival."""
    state = State(slots=(warm("a"),), waiting=(Waiting(9, "default", 1.0), Waiting(3, "default", 2.0)))
    assert Lease(9, "a") in decide(state, RULES, 3.0)
    assert not any(isinstance(a, Lease) and a.ticket == 3 for a in decide(state, RULES, 3.0))


def test_machines_are_built_for_each_who_waits_within_the_builders():
    """Never more are built at once than there are builders."""
    state = State(waiting=tuple(Waiting(n, "default", 0.0) for n in range(5)), images=("default",))
    assert decide(state, RULES, 0.0) == (Build("default"), Build("default"))


def test_a_machine_being_built_counts_for_who_waits():
    """A build under way is not ordered a second time."""
    state = State(
        slots=(Slot("b1", "default", Stage.BUILDING, 0.0),), waiting=(Waiting(1, "default", 0.0),), images=()
    )
    assert decide(state, RULES, 0.0) == ()


def test_memory_is_never_overcommitted():
    """No build is ordered beyond what memory holds, however many wait."""
    rules = Rules(memory=250, machine_memory=100, builders=8)
    state = State(
        slots=(Slot("l", "default", Stage.LEASED, 0.0),),
        waiting=tuple(Waiting(n, "default", 0.0) for n in range(5)),
    )
    assert decide(state, rules, 0.0) == (Build("default"),)


def test_a_machine_that_is_leaving_still_holds_its_memory():
    """Room is free only when a destroyed machine is really gone."""
    rules = Rules(memory=100, machine_memory=100)
    state = State(slots=(Slot("x", "default", Stage.LEAVING, 0.0),), waiting=(Waiting(1, "default", 0.0),))
    assert decide(state, rules, 0.0) == ()


def test_a_machine_too_large_for_the_host_is_refused_with_the_numbers():
    """Where not one machine fits, who waits is told so at once."""
    rules = Rules(memory=64, machine_memory=100)
    (action,) = decide(State(waiting=(Waiting(1, "default", 0.0),)), rules, 0.0)
    assert isinstance(action, Refuse)
    assert "100 MiB" in action.reason


def test_failed_builds_back_off_and_then_recover():
    """After a failure nothing is built until its time, and then again."""
    state = State(failing=(Failing("default", 1, 10.0, "no"),), images=("default",))
    assert decide(state, RULES, 9.0) == ()
    assert decide(state, RULES, 10.0) == (Build("default"),)
    assert wake_at(state, RULES, 9.0) == 10.0


def test_who_waits_on_a_broken_image_is_told_why_and_the_pool_goes_on_trying():
    """A broken image cannot wedge the pool: waiters are refused with the reason."""
    state = State(
        failing=(Failing("default", 3, 10.0, "kernel panic"),),
        waiting=(Waiting(1, "default", 0.0),),
        images=("default",),
    )
    assert decide(state, RULES, 9.0) == (Refuse(1, "kernel panic"),)
    assert decide(state, RULES, 11.0) == (Refuse(1, "kernel panic"), Build("default"))


def test_an_old_warm_machine_is_replaced():
    """A warm machine past `max_idle_age` is retired and another is built."""
    rules = Rules(memory=1000, machine_memory=100, max_idle_age=60.0)
    state = State(slots=(warm("old"),), images=("default",))
    assert decide(state, rules, 61.0) == (
        Retire("old", "older than max_idle_age"),
        Build("default"),
    )
    assert wake_at(state, rules, 10.0) == 60.0


def test_draining_retires_the_warm_and_builds_only_for_who_waits():
    """A draining pool keeps nothing warm but still serves who already waits."""
    state = State(slots=(warm("a"),), images=("default",), draining=True)
    assert decide(state, RULES, 1.0) == (Retire("a", "draining"),)
    state = State(waiting=(Waiting(1, "default", 0.0),), images=("default",), draining=True)
    assert decide(state, RULES, 1.0) == (Build("default"),)


def test_an_idle_machine_makes_room_for_another_image():
    """When every place is taken, a warm machine nobody wants goes first."""
    rules = Rules(memory=100, machine_memory=100)
    state = State(slots=(warm("a", "other"),), waiting=(Waiting(1, "default", 0.0),), images=("other",))
    assert decide(state, rules, 1.0) == (Retire("a", "makes room for another image"),)


def test_backoff_doubles_up_to_a_minute():
    """Half a second, doubling, never more than a minute."""
    assert [backoff(n) for n in (1, 2, 3)] == [0.5, 1.0, 2.0]
    assert backoff(50) == 60.0


slots = st.builds(
    Slot,
    machine=st.uuids().map(str),
    image=st.sampled_from(["a", "b"]),
    stage=st.sampled_from(list(Stage)),
    since=st.floats(0, 100),
)
states = st.builds(
    State,
    slots=st.lists(slots, max_size=6).map(tuple),
    waiting=st.lists(
        st.builds(
            Waiting, ticket=st.integers(1, 1000), image=st.sampled_from(["a", "b"]), since=st.floats(0, 9)
        ),
        max_size=5,
        unique_by=lambda w: w.ticket,
    ).map(tuple),
    images=st.just(("a", "b")),
    draining=st.booleans(),
)
rules = st.builds(
    Rules,
    memory=st.integers(0, 900),
    machine_memory=st.just(100),
    min_idle=st.integers(0, 3),
    max_total=st.integers(0, 5),
    builders=st.integers(1, 3),
    max_idle_age=st.just(50.0),
)


@given(states, rules, st.floats(0, 200))
def test_no_decision_breaks_a_promise(state, rules, now):
    """Each action is legal in the state table, no machine and no ticket is used twice, capacity holds."""
    actions = decide(state, rules, now)
    stage = {s.machine: s.stage for s in state.slots}
    used = [a.machine for a in actions if isinstance(a, Lease | Retire)]
    assert len(used) == len(set(used))
    for action in actions:
        if isinstance(action, Lease):
            assert Stage.LEASED in STAGES[stage[action.machine]]
        if isinstance(action, Retire):
            assert stage[action.machine] is Stage.WARM
    tickets = [a.ticket for a in actions if isinstance(a, Lease | Refuse)]
    assert len(tickets) == len(set(tickets))
    builds = sum(isinstance(a, Build) for a in actions)
    assert not builds or len(state.slots) + builds <= capacity(rules)
    already = sum(s.stage is Stage.BUILDING for s in state.slots)
    assert not builds or already + builds <= rules.builders
