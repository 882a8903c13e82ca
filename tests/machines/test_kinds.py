"""Kinds of machine, and what becomes of the operator's limits."""

from runnerd.machines.driver import Size
from runnerd.machines.kinds import Kind, Rules, limits
from runnerd.machines.pool import Shelf


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
