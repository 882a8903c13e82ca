"""How many machines stand ready follows from what the last hours needed, within bounds, and is forgotten."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runnerd.machines.demand import FULL, HALVES, MEMORY, MOST, WITHIN, Demand, ready, told
from runnerd.machines.pool import Build, Lease, Rules, Shelf, Slot, Stage, State, Waiting, decide, hindrance

times = st.lists(st.floats(0, 1800), min_size=1, max_size=40).map(sorted)


def asked(*times: float) -> Demand:
    demand = Demand()
    for at in times:
        demand = demand.after(at)
    return demand


def within(times, at: float, seconds: float) -> int:
    """Jobs that came in the seconds up to `at`."""
    return sum(at - seconds < time <= at for time in times)


@given(times)
def test_as_many_are_wanted_as_ever_came_at_once(times):
    """For an hour the largest number within a minute counts in full: no less, and no more."""
    most = max(within(times, at, WITHIN) for at in times)
    assert asked(*times).wanted(times[-1]) == most
    assert asked(*times).lately(times[-1]) == len(times)


def test_what_came_at_once_counts_less_and_less():
    """In full for an hour, then half as much each half hour, and in the end not at all."""
    demand = asked(*(0.1 * number for number in range(8)))
    seen = [demand.wanted(0.7 + age) for age in (0.0, FULL, FULL + HALVES, FULL + 2 * HALVES, MEMORY)]
    assert seen == [8, 8, 4, 2, 0]
    assert (demand.lately(1800.0), demand.lately(2 * FULL)) == (8, 0)


def test_a_smaller_number_counts_once_the_larger_has_faded():
    """The last hours are remembered, not their largest moment alone."""
    demand = asked(*(0.1 * number for number in range(8)), *(FULL + number for number in range(3)))
    assert [demand.wanted(at) for at in (FULL, FULL + 2 * HALVES, 2 * FULL)] == [8, 3, 3]


@given(st.lists(st.floats(0, 4 * MEMORY), max_size=400).map(sorted), st.floats(0, MEMORY))
def test_memory_is_bounded_and_nothing_wanted_is_left(times, later):
    """However many came, and once nothing came for long enough."""
    demand = asked(*times)
    assert len(demand.recent) <= MOST
    assert len(demand.peaks) <= MOST
    assert len(demand.tally) <= 10
    end = (times or [0.0])[-1] + MEMORY + later
    assert (demand.wanted(end), demand.lately(end)) == (0, 0)


def test_a_flood_is_bounded():
    """Thousands at once want no more than ever may be wanted, and cost no more memory."""
    demand = asked(*(0.001 * number for number in range(3000)))
    assert demand.wanted(3.0) == MOST
    assert len(demand.recent) == MOST
    assert len(demand.peaks) == 1


def test_one_that_is_told_late_came_with_the_last():
    """Times never go back."""
    assert asked(10.0, 5.0).recent == (10.0, 10.0)


def rules_of(*shelves: Shelf, memory=1000, **more) -> Rules:
    return Rules(shelves=shelves, memory=memory, builders=9, **more)


def shelf(image="a", memory=100, **more) -> Shelf:
    return Shelf(**({"image": image, "memory": memory, "min_idle": 1} | more))


@pytest.mark.parametrize(
    ("rules", "wanted", "expected"),
    [
        (rules_of(shelf(), max_idle=-1), {"a": 3}, {"a": 3}),
        (rules_of(shelf(), max_idle=-1), {"a": 30}, {"a": 5}),
        (rules_of(shelf(), max_idle=0), {"a": 3}, {"a": 1}),
        (rules_of(shelf(), max_idle=2), {"a": 3}, {"a": 2}),
        (rules_of(shelf(), max_idle=8), {"a": 30}, {"a": 8}),
        (rules_of(shelf(min_idle=7), max_idle=-1), {"a": 9}, {"a": 7}),
        (rules_of(shelf(max_total=2), max_idle=-1), {"a": 9}, {"a": 2}),
        (rules_of(shelf(), max_idle=-1, max_total=4), {"a": 9}, {"a": 2}),
        (rules_of(shelf(), max_idle=-1, vcpus=6), {"a": 9}, {"a": 3}),
        (rules_of(shelf(), shelf("b"), max_idle=-1), {"a": 30, "b": 2}, {"a": 3, "b": 2}),
        (rules_of(shelf(), shelf("b"), max_idle=-1), {"gone": 4}, {"a": 1, "b": 1}),
        (rules_of(shelf(memory=5), memory=None, max_idle=-1), {"a": 40}, {"a": 40}),
    ],
)
def test_what_is_wanted_has_a_ceiling(rules, wanted, expected):
    """`max_idle` of each image, or half of what the pool may hold shared out; never below min_idle."""
    assert ready(rules, wanted) == expected


shelves = st.builds(
    Shelf,
    image=st.sampled_from("ab"),
    memory=st.integers(1, 400),
    vcpus=st.integers(1, 4),
    min_idle=st.integers(0, 3),
    max_total=st.integers(0, 4),
)
any_rules = st.builds(
    Rules,
    shelves=st.lists(shelves, max_size=2, unique_by=lambda s: s.image).map(tuple),
    memory=st.integers(0, 2000) | st.none(),
    vcpus=st.integers(0, 16),
    max_total=st.integers(0, 9),
    max_idle=st.integers(-1, 6),
)


@given(any_rules, st.dictionaries(st.sampled_from("abc"), st.integers(0, 200)))
def test_the_ceiling_holds(rules, wanted):
    """Never less than min_idle; beyond that, never more than wanted and than there is room for."""
    counts = ready(rules, wanted)
    assert set(counts) == {s.image for s in rules.shelves}
    beyond = {s.image: counts[s.image] - s.min_idle for s in rules.shelves}
    assert min(beyond.values(), default=0) >= 0
    for image, more in beyond.items():
        if not more:
            continue
        assert counts[image] <= wanted[image]
        assert rules.max_idle < 0 or counts[image] <= rules.max_idle
        others = [Slot("", name, Stage.WARM, 0.0) for name, n in counts.items() for _ in range(n)]
        others.remove(Slot("", image, Stage.WARM, 0.0))
        assert hindrance(others, rules, image) is None
    assert rules.max_idle or not any(beyond.values())


@given(times, st.floats(1, WITHIN), st.floats(0, FULL - 1800))
def test_the_same_again_finds_warm_machines(times, replaced_in, pause):
    """Jobs that come as they came before each get one at once, if a machine is replaced within a minute."""
    demand = asked(*times)
    shift = times[-1] + pause - times[0]
    rules = rules_of(shelf(min_idle=0, max_idle_age=1e9), memory=None, max_idle=-1)
    bounds = msgspec.structs.replace(rules, builders=999)
    slots: dict[str, Slot] = {}
    made = 0

    def act(now: float, waiting: tuple[Waiting, ...]) -> int:
        """Decide and do; returns how many were leased."""
        nonlocal made
        for name, slot in list(slots.items()):
            if slot.stage is Stage.BUILDING and now >= slot.since + replaced_in:
                slots[name] = Slot(name, "a", Stage.WARM, now)
        keep = ready(bounds, {"a": demand.wanted(now)})["a"]
        now_rules = msgspec.structs.replace(
            bounds, shelves=(msgspec.structs.replace(rules.shelves[0], ready=keep),)
        )
        leases = 0
        for action in decide(State(slots=tuple(slots.values()), waiting=waiting), now_rules, now):
            if isinstance(action, Build):
                made += 1
                slots[f"m{made}"] = Slot(f"m{made}", "a", Stage.BUILDING, now)
            elif isinstance(action, Lease):
                del slots[action.machine]
                leases += 1
        return leases

    act(times[-1] - WITHIN, ())  # they stood ready for as long as it takes
    for number, at in enumerate(times):
        again = at + shift
        demand = demand.after(again)
        assert act(again, (Waiting(number, "a", again),)) == 1


def test_it_is_told_with_its_reason():
    """What is kept, what came, and why it is no more."""
    demand = asked(*(float(number) for number in range(5)))
    assert told("a", demand, shelf(ready=5), 10.0) == (
        "image a: keeps 5 warm: 5 jobs in the last hour, and lately up to 5 within a minute"
    )
    assert told("a", demand, shelf(ready=3), 10.0).endswith(
        "but [pool] max_idle and the pool's size allow no more"
    )
    assert told("a", asked(1.0), shelf(), 10.0) == (
        "image a: keeps 1 warm, as min_idle says; 1 job in the last hour"
    )
    assert told("a", demand, shelf(ready=2), FULL + HALVES).startswith(
        "image a: keeps 2 warm: no jobs in the last hour, and lately up to 2"
    )
