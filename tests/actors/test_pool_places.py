"""The places of a pool: taken, filled, left, and the journal hears of each step before it is taken."""

import pytest

from runnerd.actors.pool_places import Places
from runnerd.machines.pool import Slot, Stage


class Named:
    """All that a place wants of a machine."""

    def __init__(self, id):
        self.id, self.ended = id, False

    async def destroy(self):
        self.ended = True


@pytest.fixture
def told():
    """What the journal heard."""
    return []


@pytest.fixture
def places(told):
    places = Places(lambda: 5.0, told.append)
    places.driver = "none"
    return places


def test_a_place_is_filled_by_its_machine(places, told):
    """Its image and job go over to the machine, and the journal hears whose it is."""
    name = places.take("restore", "default", Stage.LEASED, generation="old", job=7)
    assert places.slots == {name: Slot(name, "default", Stage.LEASED, 5.0, "old")}
    assert places.machines == {}
    places.fill(name, Named("m1"), Stage.LEASED, "new")
    assert places.slots == {"m1": Slot("m1", "default", Stage.LEASED, 5.0, "new")}
    assert places.jobs == {"m1": 7}
    assert [(news.id, news.driver, news.stage, news.job) for news in told] == [("m1", "none", "leased", 7)]


def test_a_place_may_be_given_up(places, told):
    """No machine came of it, and nothing is heard of it."""
    name = places.take("build", "default", Stage.BUILDING)
    for _ in range(2):
        places.free(name)
    assert (places.slots, places.jobs, told) == ({}, {}, [])


def test_only_a_stage_that_may_follow_is_entered(places, told):
    """A machine goes one way; leaving twice is once, and one that is gone leaves no more."""
    places.fill(places.take("build", "default", Stage.BUILDING), Named("m1"), Stage.WARM, "")
    with pytest.raises(AssertionError, match="cannot go from warm to building"):
        places.enter("m1", Stage.BUILDING)
    for _ in range(2):
        places.leave("m1", "too old")
    places.gone("m1")
    places.leave("m1", "too old")
    assert [(news.stage, news.why) for news in told] == [("warm", ""), ("leaving", "too old"), ("gone", "")]
    assert (places.slots, places.machines) == ({}, {})


def test_a_machine_is_counted_once(places):
    """For the generation it was made from, where that is known."""
    places.fill(places.take("build", "default", Stage.BUILDING), Named("m1"), Stage.WARM, "new")
    counted = places.uncount("m1")
    assert counted is not None
    assert counted.generation == "new"
    assert places.uncount("m1") is None
    assert places.uncount("absent") is None


async def test_what_fails_before_it_has_a_place_is_ended(places, told):
    """The journal hears why, and that it is gone."""
    machine = Named("m1")
    with pytest.raises(ValueError, match="no clock"):
        async with places.or_ended(machine, "default"):
            raise ValueError("no clock")
    assert machine.ended
    assert [(news.stage, news.why) for news in told] == [("leaving", "no clock"), ("gone", "")]


def test_a_pool_that_stops_has_all_its_machines_leave(places, told):
    """Those that are there; a place without one has nothing to leave."""
    places.fill(places.take("build", "default", Stage.BUILDING), Named("m1"), Stage.WARM, "")
    places.take("build", "default", Stage.BUILDING)
    places.stop("the pool stopped")
    assert [(news.id, news.stage) for news in told] == [("m1", "warm"), ("m1", "leaving")]
