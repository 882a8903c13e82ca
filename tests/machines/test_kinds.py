"""Kinds of machine, and what becomes of the operator's limits."""

from runnerd.machines.driver import Size
from runnerd.machines.kinds import Kind, Rules, limits
from runnerd.machines.pool import Build, Shelf, Slot, Stage, State, Waiting, capacity, decide, hindrance


def test_a_kind_has_its_own_limits_or_those_of_all():
    """What is None is the pool's, and the driver's overhead counts as memory of each machine."""
    kinds = {
        "small": Kind(size=Size(vcpus=1, memory=100)),
        "large": Kind(
            size=Size(vcpus=4, memory=800), image="small", min_idle=0, max_total=2, max_idle_age=9.0
        ),
    }
    rules = limits(kinds, Rules(min_idle=3, memory=2000, vcpus=8, builders=2, max_total=5), overhead=30)
    assert rules.shelves == (
        Shelf(image="small", memory=130, vcpus=1, min_idle=3, max_idle_age=1200.0),
        Shelf(image="large", memory=830, vcpus=4, min_idle=0, max_total=2, max_idle_age=9.0),
    )
    assert (rules.memory, rules.vcpus, rules.builders, rules.max_total) == (2000, 8, 2, 5)


def test_machines_of_another_host_take_nothing_of_this_one():
    """Neither memory nor processors limit them, only how many there may be."""
    kinds = {"default": Kind(size=Size(vcpus=64, memory=1 << 20))}
    rules = limits(kinds, Rules(memory=100, vcpus=1, max_total=3), overhead=0, remote=True)
    assert [hindrance([Slot("", "default", Stage.LEASED, 0.0)] * n, rules, "default") for n in (0, 2)] == [
        None
    ] * 2
    assert capacity(rules) == 3
    rules = limits(kinds, Rules(memory=100, vcpus=1), overhead=0, remote=True)
    assert capacity(rules) is None
    assert decide(State(waiting=(Waiting(1, "default", 0.0),)), rules, 0.0) == (Build("default"),)


def test_what_the_last_hours_needed_is_kept_ready_where_that_is_allowed():
    """Up to `max_idle`; 0 keeps none beyond min_idle."""
    kinds = {"default": Kind(size=Size(vcpus=1, memory=100))}
    for max_idle, ready in ((0, 0), (2, 2), (-1, 4)):
        rules = Rules(memory=800, max_idle=max_idle)
        assert limits(kinds, rules, overhead=0, wanted={"default": 9}).shelves[0].ready == ready
