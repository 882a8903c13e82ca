"""Behaviour of runnerd.actors.reconciler: a real ledger, GitHub's delivery list over HTTP."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager

import pytest
import trio

from runnerd.actors.reconciler import HELD_FOR, OVERLAP, UNDECIDED, ReconcilerActor
from runnerd.forge.client import open_github
from runnerd.forge.delivery_list import DeliveryList
from runnerd.messages import DeliveryAccepted, DeliveryHeld
from runnerd.store.ledger import Delivery, open_ledger
from runnerd.supervise.mailbox import Mailbox

from ..forge.fake_deliveries import FakeDeliveries
from .conftest import PATIENCE, push

DAY = 86400.0
START = 1_700_000_000.0
HOOK = "octo/hello#1"


async def no_pause(seconds):
    await trio.lowlevel.checkpoint()


class World:
    """A ledger, a GitHub that remembers, a clock set by hand, and reconcilers that come and go."""

    def __init__(self, ledger, fake, client):
        self.ledger, self.fake, self.client = ledger, fake, client
        self.now = START
        self.parser = Mailbox(1000)
        self.readings = 0
        self.next = trio.Event()

    async def pause(self, seconds):
        """Between two readings; the confirming loop waits for its mailbox alone."""
        if seconds >= 300:
            self.readings += 1
            self.next.set()
        await trio.sleep_forever()

    @asynccontextmanager
    async def reconciling(self, *, as_app=False, named=("octo/hello",)):
        mailbox = Mailbox(10)
        actor = ReconcilerActor(
            mailbox,
            ledger=self.ledger,
            lists=DeliveryList(self.client),
            parser=self.parser,
            as_app=as_app,
            named=named,
            remembered=3 * DAY,
            clock=lambda: self.now,
            sleep=self.pause,
        )
        self.next = trio.Event()
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda *, task_status: actor.run(task_status=task_status))
            with trio.fail_after(PATIENCE):
                await self.next.wait()
            yield mailbox
            mailbox.close()

    async def read(self, **options):
        """One reading, as at a start of the daemon."""
        async with self.reconciling(**options):
            pass

    async def accept(self, id, body, repeated="hold"):
        delivery = Delivery(
            id=id, event="push", body=body, received=self.now, repository="octo/hello", repeated=repeated
        )
        return await self.ledger.accept_delivery(delivery)

    async def confirm(self, mailbox, id):
        """Ask for a look at what is held, and wait until it is over."""
        await mailbox.send(DeliveryHeld(id))
        await mailbox.send(DeliveryHeld(id))
        with trio.fail_after(PATIENCE):
            while True:
                if not mailbox.depth:  # the second is taken when the first look is over
                    return await self.ledger.delivery(id)
                await trio.sleep(0.005)

    def hints(self):
        return [self.parser._take.receive_nowait().delivery for _ in range(self.parser.depth)]


@pytest.fixture
async def world(tmp_path, nursery):
    fake = FakeDeliveries()
    async with (
        open_ledger(tmp_path) as ledger,
        fake.served() as address,
        open_github(address, "a token", clock=lambda: START, sleep=no_pause) as client,
    ):
        await nursery.start(ledger.serve_writes)
        yield World(ledger, fake, client)
        nursery.cancel_scope.cancel()


def body(number):
    return push(f"{number + 1:040x}", repository={"id": 5, "full_name": "octo/hello"})


async def test_an_outage_of_fifty_deliveries_is_made_good(world):
    """All that came while nobody listened is taken, once, oldest first, from the forge's own copies."""
    await world.read()
    assert world.hints() == []
    for number in range(50):
        world.fake.delivered(f"g{number}", "push", body(number), world.now + number)
    world.fake.delivered("g7", "push", body(7), world.now + 60, redelivery=True)
    world.fake.delivered("ping", "ping", {"zen": "", "hook_id": 1}, world.now)
    world.now += 3600
    await world.read()
    guids = [f"g{number}" for number in range(50)]
    assert world.hints() == guids
    assert await world.ledger.pending_deliveries(100) == guids
    stored = await world.ledger.delivery("g7")
    assert (json.loads(stored.body), stored.received) == (body(7), START + 7)
    [mark] = await world.ledger.intake()
    assert (mark.source, mark.read_to, mark.problem, mark.gap_from) == (HOOK, world.now, "", None)
    await world.read()
    assert world.hints() == []


async def test_an_app_reads_its_one_list(world):
    """As an App nothing but its own list is asked, whatever the repositories are."""
    await world.read(as_app=True)
    world.fake.delivered("g1", "push", body(1), world.now)
    await world.read(as_app=True)
    assert world.hints() == ["g1"]
    assert {path.partition("deliveries")[0] for path in world.fake.asked} == {"/app/hook/"}


async def test_what_was_before_the_first_day_is_left_alone(world):
    """A webhook that served another program before has a past that is not run again."""
    world.fake.delivered("old", "push", body(1), world.now - 60)
    await world.read()
    world.now += OVERLAP + 120
    await world.read()
    assert world.hints() == []


async def test_what_a_proxy_took_for_us_is_missed_as_well(world):
    """An attempt that was answered 200 and is not in the ledger never came here."""
    await world.read()
    world.fake.delivered("g1", "push", body(1), world.now, code=200)
    await world.read()
    assert world.hints() == ["g1"]


async def test_known_and_late_deliveries_are_taken_once(world):
    """What came by itself is not taken again, and what comes after its copy is a duplicate."""
    await world.read()
    raw = json.dumps(body(1)).encode()
    assert await world.accept("g1", raw) == "accepted"
    world.fake.delivered("g1", "push", body(1), world.now, code=202)
    world.fake.delivered("g2", "push", body(2), world.now, code=500)
    await world.read()
    assert world.hints() == ["g2"]
    assert await world.accept("g2", json.dumps(body(2)).encode()) == "duplicate"


async def test_a_delivery_that_means_nothing_is_recorded_with_its_reason(world):
    """A deletion that was missed ends as ignored (I3); what is malformed, or forgotten, holds up nothing."""
    await world.read()
    world.fake.delivered("gone", "push", {**body(1), "after": "0" * 40, "deleted": True}, world.now)
    world.fake.delivered("bad", "push", {"ref": 7}, world.now)
    world.fake.delivered("lost", "push", None, world.now)
    world.fake.delivered("good", "push", body(2), world.now + 1)
    await world.read()
    assert world.hints() == ["good"]
    assert (await world.ledger.delivery("gone")).state == "ignored"
    assert await world.ledger.delivery("bad") is None


async def test_a_list_that_cannot_be_read_counts_for_nothing(world):
    """It is said why, the time stays where it was, and when it is back everything is taken."""
    await world.read()
    world.fake.delivered("g1", "push", body(1), world.now)
    world.fake.denied = True
    world.now += 60
    await world.read()
    problems = {mark.source: mark for mark in await world.ledger.intake()}
    assert "Webhooks: read" in problems["octo/hello"].problem
    assert problems[HOOK].read_to == START
    world.fake.denied = False
    await world.read()
    assert world.hints() == ["g1"]
    assert [mark.problem for mark in await world.ledger.intake()] == ["", ""]


async def test_an_outage_longer_than_the_forge_remembers_is_said(world):
    """What is left of it is taken, and the ledger keeps from when to when nobody knows."""
    await world.read()
    world.now += 5 * DAY
    world.fake.delivered("g1", "push", body(1), world.now - DAY)
    await world.read()
    assert world.hints() == ["g1"]
    [mark] = await world.ledger.intake()
    assert (mark.gap_from, mark.gap_to) == (START, START + 2 * DAY)


async def test_repositories_that_deliveries_were_about_are_asked_too(world):
    """Nobody has to name them."""
    assert await world.accept("g0", json.dumps(body(0)).encode()) == "accepted"
    await world.read(named=())
    assert [mark.source for mark in await world.ledger.intake()] == [HOOK]


async def test_a_repeated_body_runs_when_the_forge_says_it_sent_it(world):
    """Two equal starts by hand are two; the second waits for the forge's word only."""
    raw = json.dumps(body(1)).encode()
    async with world.reconciling() as mailbox:
        await world.accept("g1", raw)
        assert await world.accept("g2", raw) == "held"
        world.fake.delivered("g2", "push", body(1), world.now)
        record = await world.confirm(mailbox, "g2")
    assert (record.state, record.remark) == ("pending", "")
    assert world.hints() == ["g2"]


async def test_a_replayed_body_is_rejected(world):
    """An id that is in no list was made up by somebody who holds a signed body."""
    raw = json.dumps(body(1)).encode()
    async with world.reconciling() as mailbox:
        await world.accept("g1", raw)
        world.fake.delivered("g1", "push", body(1), world.now)
        await world.accept("made-up", raw)
        assert (await world.confirm(mailbox, "made-up")).state == "held"
        world.now += HELD_FOR
        record = await world.confirm(mailbox, "made-up")
    assert record.state == "rejected"
    assert record.reason == "its body came before, as delivery g1, and the forge did not send this one"
    assert world.hints() == []


async def test_where_the_forge_cannot_be_asked_it_runs_with_a_remark(world):
    """A token without that permission stops nobody, and people can read what was not checked."""
    raw = json.dumps(body(1)).encode()
    world.fake.denied = True
    async with world.reconciling() as mailbox:
        await world.accept("g1", raw)
        await world.accept("g2", raw)
        record = await world.confirm(mailbox, "g2")
    assert record.state == "pending"
    assert "could not be asked" in record.remark
    assert world.parser.depth == 1
    assert await world.parser.receive() == DeliveryAccepted("g2")


async def test_while_the_forge_does_not_answer_a_repeated_body_waits(world):
    """An hour at most: then it runs with the remark, for its sender was told that it would."""
    raw = json.dumps(body(1)).encode()
    async with world.reconciling() as mailbox:
        await world.accept("g1", raw)
        await world.accept("g2", raw)
        world.fake.down = True
        world.now += HELD_FOR
        assert (await world.confirm(mailbox, "g2")).state == "held"
        world.now += UNDECIDED
        record = await world.confirm(mailbox, "g2")
    assert (record.state, "could not be asked" in record.remark) == ("pending", True)
