"""Pool decisions: who gets a machine, what is built, what is retired, within memory."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from runnerd.machines.pool import (
    STAGES,
    Build,
    Failing,
    Lease,
    Prepare,
    Refuse,
    Restore,
    Retire,
    Rules,
    Shelf,
    Slot,
    Stage,
    State,
    Waiting,
    backoff,
    capacity,
    decide,
    hindrance,
    wake_at,
)


def limits(*images: str, memory=1000, builders=2, max_total=0, **shelf) -> Rules:
    """Rules for machines of 100 MiB each; the images named are kept warm, others are only known."""
    known = [*images, *(name for name in ("default", "other") if name not in images)]
    shelves = (
        Shelf(**({"image": name, "memory": 100, "min_idle": int(name in images)} | shelf)) for name in known
    )
    return Rules(memory=memory, builders=builders, max_total=max_total, shelves=tuple(shelves))


RULES = limits("default")


def warm(machine: str, image: str = "default", since: float = 0.0) -> Slot:
    return Slot(machine, image, Stage.WARM, since)


def test_an_empty_pool_builds_its_minimum():
    """With nothing alive and nobody waiting, `min_idle` machines are built."""
    assert decide(State(), RULES, 0.0) == (Build("default"),)


def test_who_waits_gets_the_oldest_warm_machine_and_it_is_replaced():
    """The oldest warm machine is leased, and another is built in its place."""
    state = State(
        slots=(warm("young", since=5.0), warm("old", since=1.0)),
        waiting=(Waiting(1, "default", 6.0), Waiting(2, "default", 6.0)),
    )
    assert decide(state, RULES, 7.0) == (Lease(1, "old"), Lease(2, "young"), Build("default"))


def test_nobody_is_served_before_who_came_first():
    """Tickets are served in the order of arrival."""
    state = State(slots=(warm("a"),), waiting=(Waiting(9, "default", 1.0), Waiting(3, "default", 2.0)))
    assert Lease(9, "a") in decide(state, RULES, 3.0)
    assert not any(isinstance(a, Lease) and a.ticket == 3 for a in decide(state, RULES, 3.0))


def test_machines_are_built_for_each_who_waits_within_the_builders():
    """Never more are built at once than there are builders."""
    state = State(waiting=tuple(Waiting(n, "default", 0.0) for n in range(5)))
    assert decide(state, RULES, 0.0) == (Build("default"), Build("default"))


def test_a_machine_being_built_counts_for_who_waits():
    """A build under way is not ordered a second time."""
    state = State(slots=(Slot("b1", "default", Stage.BUILDING, 0.0),), waiting=(Waiting(1, "default", 0.0),))
    assert decide(state, limits(), 0.0) == ()


def test_memory_is_never_overcommitted():
    """No build is ordered beyond what memory holds, however many wait."""
    rules = limits(memory=250, builders=8)
    state = State(
        slots=(Slot("l", "default", Stage.LEASED, 0.0),),
        waiting=tuple(Waiting(n, "default", 0.0) for n in range(5)),
    )
    assert decide(state, rules, 0.0) == (Build("default"),)


def test_a_machine_that_is_leaving_still_holds_its_memory():
    """Room is free only when a destroyed machine is really gone."""
    rules = limits(memory=100)
    state = State(slots=(Slot("x", "default", Stage.LEAVING, 0.0),), waiting=(Waiting(1, "default", 0.0),))
    assert decide(state, rules, 0.0) == ()


def test_a_machine_too_large_for_the_host_is_refused_with_the_numbers():
    """Where not one machine fits, who waits is told so at once."""
    rules = limits(memory=64)
    (action,) = decide(State(waiting=(Waiting(1, "default", 0.0),)), rules, 0.0)
    assert isinstance(action, Refuse)
    assert "100 MiB" in action.reason


def test_processors_are_promised_up_to_the_limit_and_named():
    """Beside memory, the vCPUs of what is alive bound what is built; who waits learns which it was."""
    shelf = Shelf(image="default", memory=1, vcpus=2, min_idle=0)
    rules = Rules(memory=1000, vcpus=5, builders=8, shelves=(shelf,))
    state = State(waiting=tuple(Waiting(n, "default", 0.0) for n in range(5)))
    assert decide(state, rules, 0.0) == (Build("default"), Build("default"))
    two = (warm("a"), warm("b"))
    assert hindrance(two, rules, "default") == (
        "a machine needs 2 vCPUs and 1 of the 5 that [pool] cpu_ratio allows are free"
    )
    assert capacity(rules) == 2


def test_a_machine_with_more_processors_than_may_be_promised_is_refused_with_the_numbers():
    """It would wait for ever: who asks is told which setting to change."""
    rules = Rules(memory=1000, vcpus=3, shelves=(Shelf(image="default", memory=1, vcpus=4, min_idle=0),))
    (action,) = decide(State(waiting=(Waiting(1, "default", 0.0),)), rules, 0.0)
    assert isinstance(action, Refuse)
    assert "needs 4 vCPUs and the pool may promise 3" in action.reason
    assert "cpu_ratio" in action.reason


def test_failed_builds_back_off_and_then_recover():
    """After a failure nothing is built until its time, and then again."""
    state = State(failing=(Failing("default", 1, 10.0, "no"),))
    assert decide(state, RULES, 9.0) == ()
    assert decide(state, RULES, 10.0) == (Build("default"),)
    assert wake_at(state, RULES, 9.0) == 10.0


def test_who_waits_on_a_broken_image_is_told_why_and_the_pool_goes_on_trying():
    """Waiters are refused with the reason; who asks when a build is due again waits for that, also where
    none is kept warm: an image that was mended is used without a restart.
    """
    state = State(
        failing=(Failing("default", 3, 10.0, "kernel panic"),),
        waiting=(Waiting(1, "default", 0.0),),
    )
    assert decide(state, RULES, 9.0) == (Refuse(1, "kernel panic"),)
    assert decide(state, RULES, 11.0) == (Build("default"), Build("default"))
    [shelf] = [msgspec.structs.replace(each, min_idle=0) for each in RULES.shelves if each.image == "default"]
    cold = msgspec.structs.replace(RULES, shelves=(shelf,))
    assert decide(state, cold, 9.0) == (Refuse(1, "kernel panic"),)
    assert decide(state, cold, 11.0) == (Build("default"),)


def test_an_old_warm_machine_is_replaced():
    """A warm machine past `max_idle_age` is retired and another is built."""
    rules = limits("default", max_idle_age=60.0)
    state = State(slots=(warm("old"),))
    assert decide(state, rules, 61.0) == (
        Retire("old", "older than max_idle_age"),
        Build("default"),
    )
    assert wake_at(state, rules, 10.0) == 60.0


def test_draining_retires_the_warm_and_builds_only_for_who_waits():
    """A draining pool keeps nothing warm but still serves who already waits."""
    state = State(slots=(warm("a"),), draining=True)
    assert decide(state, RULES, 1.0) == (Retire("a", "draining"),)
    state = State(waiting=(Waiting(1, "default", 0.0),), draining=True)
    assert decide(state, RULES, 1.0) == (Build("default"),)


def test_a_paused_pool_leaves_everybody_waiting():
    """Nobody is served, refused or built for; what is too old still goes, and is not replaced."""
    state = State(
        slots=(warm("a"),),
        waiting=(Waiting(1, "default", 0.0), Waiting(2, "other", 0.0)),
        failing=(Failing("other", 3, 0.0, "kernel panic"),),
        paused=True,
    )
    assert decide(state, limits("default", "other", builders=9), 1.0) == ()
    assert decide(state, RULES, 1e6) == (Retire("a", "older than max_idle_age"),)


def test_an_idle_machine_makes_room_for_another_image():
    """When every place is taken, a warm machine nobody wants goes first."""
    rules = limits("other", memory=100)
    state = State(slots=(warm("a", "other"),), waiting=(Waiting(1, "default", 0.0),))
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
            Waiting,
            ticket=st.integers(1, 1000),
            image=st.sampled_from(["a", "b"]),
            since=st.floats(0, 9),
            kept=st.booleans(),
        ),
        max_size=5,
        unique_by=lambda w: w.ticket,
    ).map(tuple),
    draining=st.booleans(),
    paused=st.booleans(),
)


def shelves(image: str, memory: int, vcpus: int):
    """An image whose machines take so much, with any limits."""
    return st.builds(
        Shelf,
        image=st.just(image),
        memory=st.just(memory),
        vcpus=st.just(vcpus),
        min_idle=st.integers(0, 2),
        ready=st.integers(0, 3),
        max_total=st.integers(0, 3),
        max_idle_age=st.just(50.0),
    )


rules = st.builds(
    Rules,
    memory=st.integers(0, 900),
    vcpus=st.integers(0, 12),
    shelves=st.tuples(shelves("a", 100, 3), shelves("b", 250, 2)),
    max_total=st.integers(0, 5),
    builders=st.integers(1, 3),
)


@given(states, rules, st.floats(0, 200))
@settings(deadline=None)
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
    assert not state.paused or all(isinstance(a, Retire) for a in actions)
    tickets = [a.ticket for a in actions if isinstance(a, Lease | Refuse | Restore)]
    assert len(tickets) == len(set(tickets))
    asked = {who.ticket: who for who in state.waiting}
    alive = list(state.slots)
    for action in actions:
        if isinstance(action, Build | Restore):
            image = action.image if isinstance(action, Build) else asked[action.ticket].image
            assert hindrance(alive, rules, image) is None
            alive.append(Slot("new", image, Stage.BUILDING, now))
        if isinstance(action, Lease | Restore):
            assert asked[action.ticket].kept == isinstance(action, Restore)
            mine = asked[action.ticket]
            before = state.waiting[: state.waiting.index(mine)]
            alike = [who.ticket for who in before if (who.image, who.kept) == (mine.image, mine.kept)]
            assert all(tickets.index(ticket) < tickets.index(action.ticket) for ticket in alike)
    builds = [a.image for a in actions if isinstance(a, Build)]
    already = sum(s.stage is Stage.BUILDING for s in state.slots)
    assert not builds or already + len(builds) <= rules.builders


steps = st.lists(
    st.sampled_from(["ask a", "ask b", "back a", "back b", "end", "built", "broken", "gone", "later"]),
    max_size=40,
)


class World:
    """Performs decisions on plain data, and checks at every step what must always hold."""

    def __init__(self, rules: Rules) -> None:
        self.rules, self.now, self.count = rules, 0.0, 0
        self.slots: dict[str, Slot] = {}
        self.waiting: list[Waiting] = []
        self.failing: dict[str, Failing] = {}
        self.leased: set[str] = set()

    def act(self) -> None:
        state = State(
            slots=tuple(self.slots.values()),
            waiting=tuple(self.waiting),
            failing=tuple(self.failing.values()),
        )
        for action in decide(state, self.rules, self.now):
            match action:
                case Build(image):
                    self.count += 1
                    name = f"m{self.count}"
                    self.slots[name] = Slot(name, image, Stage.BUILDING, self.now)
                case Lease(ticket, machine):
                    self.enter(machine, Stage.LEASED)
                    self.leased.add(machine)
                    self.waiting = [who for who in self.waiting if who.ticket != ticket]
                case Restore(ticket):
                    (who,) = (who for who in self.waiting if who.ticket == ticket)
                    name = f"k{ticket}"
                    self.slots[name] = Slot(name, who.image, Stage.LEASED, self.now)
                    self.leased.add(name)
                    self.waiting.remove(who)
                case Retire(machine):
                    assert machine not in self.leased
                    self.enter(machine, Stage.LEAVING)
                case Refuse(ticket):
                    self.waiting = [who for who in self.waiting if who.ticket != ticket]
        there = list(self.slots.values())
        for who in self.waiting:  # as if all who came first had theirs
            assert not who.kept or hindrance(there, self.rules, who.image) is not None
            there.append(Slot("", who.image, Stage.LEASED, self.now))
        taken = sum(self.rules.shelf(slot.image).memory for slot in self.slots.values())
        assert taken <= self.rules.memory
        promised = sum(self.rules.shelf(slot.image).vcpus for slot in self.slots.values())
        assert not self.rules.vcpus or promised <= self.rules.vcpus

    def enter(self, machine: str, stage: Stage) -> None:
        slot = self.slots[machine]
        assert stage in STAGES[slot.stage]
        self.slots[machine] = Slot(machine, slot.image, stage, self.now)

    def oldest(self, stage: Stage) -> Slot | None:
        return next((slot for slot in self.slots.values() if slot.stage is stage), None)

    def happen(self, step: str) -> None:
        self.now += 1.0
        if step.startswith(("ask", "back")):
            self.count += 1
            self.waiting.append(Waiting(self.count, step[-1], self.now, kept=step.startswith("back")))
        elif step == "later":
            self.now += 60.0
        elif step == "end" and (slot := self.oldest(Stage.LEASED)):
            self.leased.discard(slot.machine)
            self.enter(slot.machine, Stage.LEAVING)
        elif step == "gone" and (slot := self.oldest(Stage.LEAVING)):
            del self.slots[slot.machine]
        elif step == "built" and (slot := self.oldest(Stage.BUILDING)):
            self.failing.pop(slot.image, None)
            self.enter(slot.machine, Stage.WARM)
        elif step == "broken" and (slot := self.oldest(Stage.BUILDING)):
            del self.slots[slot.machine]
            count = self.failing[slot.image].count + 1 if slot.image in self.failing else 1
            self.failing[slot.image] = Failing(slot.image, count, self.now + backoff(count), "broken")
        self.act()


@given(rules, steps)
@settings(deadline=None)
def test_whatever_happens_nobody_waits_for_ever_and_the_minimum_comes_back(rules, steps):
    """When jobs end and builds work again, everybody is served or refused, and `min_idle` is warm."""
    world = World(rules)
    for step in steps:
        world.happen(step)
    for _ in range(80):
        if world.oldest(Stage.BUILDING) or world.oldest(Stage.LEASED) or world.oldest(Stage.LEAVING):
            for step in ("built", "end", "gone"):
                world.happen(step)
        elif world.failing:
            world.happen("later")
        else:
            world.act()
        if world.now > 1000:  # ages would replace machines for ever
            break
    assert not world.waiting
    for _ in range(12):
        world.happen("built")
        world.happen("gone")
    for shelf in rules.shelves:
        warm = sum(s.image == shelf.image for s in world.slots.values())
        assert warm >= shelf.min_idle or hindrance(tuple(world.slots.values()), rules, shelf.image)


def test_a_small_machine_does_not_take_the_room_a_large_one_waits_for():
    """Memory goes in the order of arrival, and idle machines make the room, the oldest first."""
    rules = Rules(
        memory=300,
        builders=4,
        shelves=(
            Shelf(image="small", memory=100, min_idle=3),
            Shelf(image="large", memory=200, min_idle=0),
        ),
    )
    idle = tuple(warm(f"m{n}", "small", float(n)) for n in range(3))
    state = State(slots=idle, waiting=(Waiting(1, "large", 0.0),))
    room = "makes room for another image"
    assert decide(state, rules, 9.0) == (Retire("m0", room), Retire("m1", room))
    leaving = tuple(Slot(s.machine, s.image, Stage.LEAVING, 9.0) for s in idle[:2])
    assert decide(State(slots=(*leaving, idle[2]), waiting=state.waiting), rules, 9.0) == ()
    assert decide(State(slots=(idle[2],), waiting=state.waiting), rules, 9.0) == (Build("large"),)


def test_an_image_at_its_own_limit_holds_up_nobody_else():
    """`max_total` of one image leaves memory to those who wait for another."""
    rules = Rules(
        memory=1000,
        shelves=(
            Shelf(image="a", memory=100, min_idle=0, max_total=1),
            Shelf(image="b", memory=100, min_idle=0),
        ),
    )
    state = State(
        slots=(Slot("l", "a", Stage.LEASED, 0.0),), waiting=(Waiting(1, "a", 0.0), Waiting(2, "b", 1.0))
    )
    assert decide(state, rules, 2.0) == (Build("b"),)
    assert "image a" in (hindrance(state.slots, rules, "a") or "")


def test_builders_that_are_left_make_templates():
    """One for each image that has none and is not being tried; who waits and `min_idle` come first."""
    cold = State(cold=("default", "other"))
    assert decide(cold, limits("default"), 0.0) == (Build("default"), Prepare("other"))
    assert decide(cold, limits("default", builders=1), 0.0) == (Build("default"),)
    assert decide(cold, limits("default", memory=150), 0.0) == (Build("default"),)
    making = State(cold=("other",), slots=(Slot("t1", "other", Stage.PREPARING, 0.0),))
    assert decide(making, limits(), 0.0) == ()
    broken = State(cold=("other",), failing=(Failing("other", 1, 5.0, "no kernel"),))
    assert decide(broken, limits(), 0.0) == ()
    assert decide(broken, limits(), 5.0) == (Prepare("other"),)


def test_a_template_that_is_being_made_is_nobodys_machine():
    """Who waits has a machine built all the same, where there is room."""
    slots = (Slot("t1", "default", Stage.PREPARING, 0.0),)
    state = State(slots=slots, waiting=(Waiting(1, "default", 0.0),), cold=("default",))
    assert decide(state, limits(), 0.0) == (Build("default"),)
    assert decide(state, limits(memory=100), 0.0) == ()
