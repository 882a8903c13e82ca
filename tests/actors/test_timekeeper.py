"""The timekeeper in virtual time: each start once, over restarts and downtimes, and branches that move."""

import json

import msgspec
import pytest
import trio

from runnerd.actors.timekeeper import TimekeeperActor
from runnerd.git.process import GitError
from runnerd.messages import BranchMoved, DeliveryAccepted
from runnerd.model import Repository
from runnerd.store.records import ScheduleRow
from runnerd.supervise.mailbox import Mailbox

HELLO = Repository(id=5, full_name="octo/hello")
HALF = ("ci.yml", "30 * * * *", "UTC")


class Branches:
    """Default branches by name, and what asking for one does."""

    def __init__(self):
        self.schedules, self.known = {}, []
        self.broken = 0
        self.asked = trio.Event()
        self.looks = 0

    async def repositories(self):
        await trio.lowlevel.checkpoint()
        return self.known

    async def of(self, repository):
        await trio.lowlevel.checkpoint()
        self.looks += 1
        if self.broken:
            self.broken -= 1
            raise GitError("the remote does not answer")
        self.asked.set()
        return set(self.schedules.get(repository.full_name, ()))


class Recorded:
    """A ledger in memory with the promises of the real one: a start is stored once."""

    def __init__(self):
        self.rows, self.deliveries = {}, {}

    async def schedules(self):
        await trio.lowlevel.checkpoint()
        return list(self.rows.values())

    async def keep_schedules(self, repository, wanted, minute):
        await trio.lowlevel.checkpoint()
        self.rows = {
            key: self.rows.get(key)
            or ScheduleRow(repository=repository, path=key[0], cron=key[1], zone=key[2], looked=minute)
            for key in wanted
        }

    async def start_schedule(self, row, looked, fired, delivery):
        await trio.lowlevel.checkpoint()
        key = (row.path, row.cron, row.zone)
        if key not in self.rows or self.rows[key].looked >= looked:
            return False
        self._set(key, looked=looked, fired=fired)
        return self.deliveries.setdefault(delivery.id, delivery) is delivery

    async def look_at_schedules(self, minute):
        await trio.lowlevel.checkpoint()
        for key in self.rows:
            self._set(key, looked=max(minute, self.rows[key].looked))

    def _set(self, key, **fields):
        self.rows[key] = msgspec.structs.replace(self.rows[key], **fields)


class World:
    """A timekeeper's surroundings; the clock starts at noon of a day and is trio's own."""

    def __init__(self, nursery):
        self.ledger, self.branches, self.parser = Recorded(), Branches(), Mailbox(64)
        self.nursery = nursery
        self.began = trio.current_time()
        self.noon = 1_767_268_800.0

    def clock(self):
        return self.noon + trio.current_time() - self.began

    async def start(self):
        """Start a timekeeper; returns its mailbox and the event that says it ended."""
        mailbox, ended = Mailbox(16), trio.Event()
        actor = TimekeeperActor(
            mailbox, ledger=self.ledger, schedules=self.branches, parser=self.parser, clock=self.clock
        )

        async def within(*, task_status):
            await actor.run(task_status=task_status)
            ended.set()

        await self.nursery.start(within)
        return mailbox, ended

    def knows(self):
        """The ledger has a push of the repository."""
        self.branches.known = [HELLO]

    def minutes(self):
        """Minutes after noon for which something was started, and no message for anything else."""
        starts = list(self.ledger.deliveries.values())
        assert all(json.loads(each.body)["schedule"] for each in starts)
        return [int((each.received - self.noon) // 60) for each in starts]


@pytest.fixture
async def world(nursery):
    return World(nursery)


async def test_a_schedule_starts_once_each_time_it_is_due(world, autojump_clock):
    """Every half hour one delivery, told to the parser, from the moment the schedule was first seen."""
    world.branches.schedules[HELLO.full_name] = {HALF}
    world.knows()
    await world.start()
    await trio.sleep(3 * 3600)
    assert world.minutes() == [30, 90, 150]
    assert await world.parser.receive() == DeliveryAccepted(next(iter(world.ledger.deliveries)))
    assert world.parser.depth == 2


async def test_a_branch_that_moves_changes_the_set(world, autojump_clock):
    """What was added starts, what was taken out does not any more."""
    mailbox, _ = await world.start()
    await trio.sleep(600)
    world.branches.schedules[HELLO.full_name] = {HALF}
    await mailbox.send(BranchMoved(HELLO))
    await trio.sleep(3600)
    assert world.minutes() == [30]
    world.branches.schedules[HELLO.full_name] = set()
    await mailbox.send(BranchMoved(HELLO))
    await trio.sleep(7200)
    assert world.minutes() == [30]


async def test_many_pushes_cost_few_looks(world, autojump_clock):
    """A look asks the remote: one serves all that came shortly before, and shows what the last one left."""
    mailbox, _ = await world.start()
    await trio.sleep(600)
    for minute in ("10", "20", "30"):
        world.branches.schedules[HELLO.full_name] = {("ci.yml", f"{minute} * * * *", "UTC")}
        await mailbox.send(BranchMoved(HELLO))
    await trio.sleep(60)
    assert world.branches.looks == 1
    assert [cron for _, cron, _ in world.ledger.rows] == ["30 * * * *"]
    await mailbox.send(BranchMoved(HELLO))
    await trio.sleep(60)
    assert world.branches.looks == 2


async def test_a_restart_neither_loses_nor_repeats(world, autojump_clock):
    """Two that follow each other within the same minute start what one would; a drained one ends at once."""
    world.branches.schedules[HELLO.full_name] = {HALF}
    world.knows()
    mailbox, ended = await world.start()
    await trio.sleep(30 * 60 + 5)
    mailbox.close()
    await ended.wait()
    await world.start()
    await trio.sleep(3600)
    assert world.minutes() == [30, 90]


async def test_two_at_once_start_it_once(world, autojump_clock):
    """The ledger decides who starts, so that even two daemons' timekeepers do it once."""
    world.branches.schedules[HELLO.full_name] = {HALF}
    world.knows()
    await world.start()
    await world.start()
    await trio.sleep(3600)
    assert world.minutes() == [30]
    assert world.parser.depth == 1


async def test_a_downtime_is_made_up_for_once(world, autojump_clock):
    """After hours of silence there is one start, of the newest minute that was missed."""
    world.branches.schedules[HELLO.full_name] = {HALF}
    world.knows()
    mailbox, ended = await world.start()
    await trio.sleep(60)
    mailbox.close()
    await ended.wait()
    await trio.sleep(5 * 3600 + 600)
    await world.start()
    await trio.sleep(60)
    assert len(world.minutes()) == 1
    (row,) = world.ledger.rows.values()
    assert row.fired * 60 == world.noon + 4 * 3600 + 1800


async def test_a_remote_that_fails_is_asked_again_and_what_is_known_stays(world, autojump_clock):
    """The known schedules start meanwhile."""
    world.branches.schedules[HELLO.full_name] = {HALF}
    world.knows()
    mailbox, _ = await world.start()
    await trio.sleep(60)
    world.branches.broken = 2
    world.branches.asked = trio.Event()
    await mailbox.send(BranchMoved(HELLO))
    await world.branches.asked.wait()
    await trio.sleep(1800)
    assert world.minutes() == [30]


async def test_an_unknown_time_zone_harms_nobody(world, autojump_clock):
    """It is said and never starts; the others do."""
    world.branches.schedules[HELLO.full_name] = {HALF, ("ci.yml", "30 * * * *", "Mars/Olympus")}
    world.knows()
    await world.start()
    await trio.sleep(3600)
    assert world.minutes() == [30]
