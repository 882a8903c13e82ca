"""Generations in a running pool: canaries, taking over, going back, and the templates of both."""

import msgspec
import pytest
import trio

from runnerd import metrics
from runnerd.actors.pool_images import LOOK_EVERY
from runnerd.machines.generation_trial import RETRY, Standing, Trial
from runnerd.machines.kinds import Kind
from runnerd.messages import ImagesChanged

from .empty_machines import SIZE, DriverOfEmptyMachines, Running


class Disk:
    """How the image `default` stands, and what was written down of it."""

    def __init__(self):
        self.standings = {"default": Standing(current="old")}
        self.written = []
        self.full = False

    def build(self, digest, before="old"):
        trial, last = Trial(digest=digest, before=before), self.standings["default"].trial
        overtaken = (last,) if last is not None else ()
        self.standings["default"] = Standing(current=digest, trial=trial, overtaken=overtaken)

    async def standing(self, image):
        await trio.lowlevel.checkpoint()
        return self.standings.get(image)

    async def settle(self, image, trial):
        await trio.lowlevel.checkpoint()
        if self.full:
            raise OSError(28, "No space left on device")
        self.written.append(trial)
        standing = self.standings[image]
        assert standing.trial is not None
        assert not standing.trial.ended
        if standing.overtaken and trial == msgspec.structs.replace(standing.overtaken[0], ended="passed"):
            follows = msgspec.structs.replace(standing.trial, before=trial.digest)
            self.standings[image] = Standing(current=standing.current, trial=follows)
            return
        assert standing.trial.digest == trial.digest
        if trial.ended == "failed":
            self.standings[image] = Standing(current=trial.before, failed=trial)
        else:
            self.standings[image] = msgspec.structs.replace(standing, trial=None if trial.ended else trial)


@pytest.fixture
def disk():
    return Disk()


@pytest.fixture
def driver():
    return DriverOfEmptyMachines()


@pytest.fixture
async def pool(nursery, driver, disk):
    """A pool that serves the generation `old`, with one machine warm."""
    pool = Running(driver, records=disk, memory=400)
    await nursery.start(pool.actor.run)
    await trio.sleep(1)
    yield pool
    nursery.cancel_scope.cancel()


async def told(pool):
    """The pool hears that something was built, and has a moment for what follows."""
    await pool.mailbox.send(ImagesChanged())
    await trio.sleep(1)


async def built(pool, disk, digest="new"):
    """A generation is built; returns once its canary is warm, or failed."""
    disk.build(digest)
    await told(pool)


async def lease(pool):
    """Lease the oldest warm machine, and wait until another is in its place."""
    machine = await pool.lease()
    await trio.sleep(1)
    return machine


async def warm(pool, driver):
    """The generations of the warm machines."""
    of = {machine.id: machine.generation for machine in driver.machines}
    return sorted(of[line.machine] for line in (await pool.describe()).machines if line.stage == "warm")


async def test_a_new_generation_takes_over_after_so_many_good_leases(autojump_clock, pool, driver, disk):
    """One canary at a time; the others are of the one before, until it goes with its template."""
    await built(pool, disk)
    assert await warm(pool, driver) == ["new", "old"]
    assert (await pool.describe()).trials == (
        "image default: generation new is on trial, 0 of 3 leases went well; old serves",
    )
    leased = []
    for number in range(3):
        machines = [await lease(pool) for _ in range(2)]
        leased += [machine.generation for machine in machines]
        assert await warm(pool, driver) == ["old"]
        for machine in machines:
            await machine.destroy()
        await trio.sleep(1)
        assert [trial.good for trial in disk.written][: number + 1] == [1, 2, 2][: number + 1]
    assert sorted(leased) == ["new"] * 3 + ["old"] * 3
    assert disk.written[-1].ended == "passed"
    assert await warm(pool, driver) == ["new"]
    assert driver.held == {"default-100-new"}
    assert (await pool.describe()).trials == ()


async def test_a_generation_whose_machines_do_not_come_up_goes_back(autojump_clock, pool, driver, disk):
    """Once, with its reason; jobs never see a machine of it, and the one before is never missing."""
    driver.broken.add("new")
    before = metrics.image_rollbacks.labels(image="default")._value.get()
    await built(pool, disk)
    assert "its kernel of new panicked" in (await pool.describe()).trouble[0]
    assert (await pool.describe()).ready
    for _ in range(3):
        assert (await lease(pool)).generation == "old"
    await trio.sleep(RETRY + 2)
    for machine in driver.machines:
        await machine.destroy()
    await trio.sleep(RETRY + 2)
    assert [trial.ended for trial in disk.written] == ["", "failed"]
    assert disk.standings["default"].current == "old"
    assert (await pool.describe()).trouble == (
        "image default: generation new failed its trial and went back to old: its kernel of new panicked",
    )
    assert metrics.image_rollbacks.labels(image="default")._value.get() == before + 1
    await trio.sleep(10 * LOOK_EVERY)
    assert len(disk.written) == 2
    assert driver.held == {"default-100-old"}
    assert driver.alive == {machine.id for machine in driver.machines if not machine.lost.is_set()}


async def test_a_generation_without_a_template_goes_back(autojump_clock, pool, driver, disk):
    """What does not even boot fails like what does not thaw, and no build of the other waits for it."""
    driver.absent.add("new")
    await built(pool, disk)
    assert (await lease(pool)).generation == "old"
    await trio.sleep(RETRY + 2)
    assert disk.standings["default"].current == "old"
    assert await warm(pool, driver) == ["old"]


async def test_a_generation_that_loses_its_jobs_goes_back(autojump_clock, pool, driver, disk):
    """A canary that dies under its job counts against it; the machine of another job is left alone."""
    await built(pool, disk)
    kept = await lease(pool)
    for _ in range(2):
        while (canary := await lease(pool)).generation != "new":
            await canary.destroy()
            await trio.sleep(1)
        canary.die("its kernel panicked")
        await trio.sleep(RETRY + 1)
    assert disk.standings["default"].failed.bad == 2
    assert not kept.lost.is_set()
    assert await warm(pool, driver) == ["old"]


async def test_what_went_back_is_given_to_nobody_and_taken_from_nobody(autojump_clock, pool, driver, disk):
    """A warm machine of it is retired, while a leased one keeps its job."""
    await built(pool, disk)
    old, leased = await lease(pool), await lease(pool)
    assert (old.generation, leased.generation) == ("old", "new")
    disk.standings["default"] = Standing(current="old")
    await told(pool)
    assert not leased.lost.is_set()
    await leased.destroy()
    await built(pool, disk)
    assert await warm(pool, driver) == ["new", "old"]
    disk.standings["default"] = Standing(current="old")
    await told(pool)
    assert await warm(pool, driver) == ["old"]


@pytest.mark.parametrize(("others", "serving"), [("acme/web", "new"), ("", "old")])
async def test_one_repository_sends_no_image_back_that_others_use(
    autojump_clock, pool, driver, disk, others, serving
):
    """Its jobs may end their machines on purpose; where nobody else uses the image it goes back for them."""
    first = await pool.lease(by=others)
    await trio.sleep(1)
    await first.destroy()
    await built(pool, disk)
    for _ in range(6):
        machine = await lease(pool)
        if machine.generation == "new":
            machine.die("power")
        else:
            await machine.destroy()
        await trio.sleep(RETRY + 1)
    assert disk.written[-1].bad == (1 if others else 2)
    for _ in range(9):
        machine = await pool.lease(by=others or "acme/app")
        await trio.sleep(1)
        await machine.destroy()
        await trio.sleep(1)
    assert set(await warm(pool, driver)) == {serving}


async def test_a_failing_host_is_not_held_against_a_generation(autojump_clock, pool, driver, disk):
    """While machines of the one that serves fail as well, a canary that fails says little."""
    driver.broken |= {"new", "old"}
    (await lease(pool)).die("power")
    await trio.sleep(5)
    disk.build("new")
    await trio.sleep(10 * RETRY)
    assert disk.standings["default"].current == "new"
    assert all(trial.bad < 2 for trial in disk.written)
    driver.broken.clear()
    await trio.sleep(120)
    assert await warm(pool, driver) == ["new"]


async def test_a_pool_that_starts_in_the_middle_of_a_trial_goes_on(nursery, autojump_clock, driver, disk):
    """What is on disk says who serves and what counted already."""
    disk.standings["default"] = Standing(current="new", trial=Trial(digest="new", before="old", good=2))
    pool = Running(driver, records=disk, memory=400)
    await nursery.start(pool.actor.run)
    await trio.sleep(1)
    machines = [await lease(pool), await lease(pool)]
    assert sorted(machine.generation for machine in machines) == ["new", "old"]
    for machine in machines:
        await machine.destroy()
    await trio.sleep(1)
    assert disk.written[-1].ended == "passed"
    nursery.cancel_scope.cancel()


async def test_going_back_by_hand_is_obeyed_once_a_machine_is_there(autojump_clock, pool, driver, disk):
    """It needs no trial, but what serves is kept until the other came up."""
    driver.broken.add("older")
    disk.standings["default"] = Standing(current="older")
    await told(pool)
    await trio.sleep(3 * RETRY)
    assert await warm(pool, driver) == ["old"]
    assert "a canary of older failed" in (await pool.describe()).trouble[0]
    driver.broken.clear()
    await trio.sleep(2 * RETRY)
    assert await warm(pool, driver) == ["older"]
    assert disk.written == []


async def test_a_disk_that_cannot_be_written_is_written_later(autojump_clock, pool, driver, disk):
    """What was decided holds at once, and stands on disk when there is room again."""
    driver.broken.add("new")
    disk.full = True
    await built(pool, disk)
    await trio.sleep(RETRY + 5)
    assert "went back to old" in (await pool.describe()).trouble[0]
    assert disk.standings["default"].current == "new"
    assert await warm(pool, driver) == ["old"]
    disk.full = False
    await trio.sleep(LOOK_EVERY + 1)
    assert disk.standings["default"].current == "old"
    assert [trial.ended for trial in disk.written] == ["failed"]


async def test_who_fails_goes_back_to_one_whose_pass_could_not_be_written(autojump_clock, pool, driver, disk):
    """The pass is written first, and no machine of a generation still older is made."""
    disk.full = True
    await built(pool, disk)
    while (await pool.describe()).trials:
        await (await lease(pool)).destroy()
        await trio.sleep(1)
    driver.broken |= {"newer", "old"}
    await built(pool, disk, "newer")
    await trio.sleep(RETRY + 5)
    assert "newer failed its trial and went back to new:" in (await pool.describe()).trouble[0]
    disk.full = False
    await trio.sleep(LOOK_EVERY + 1)
    assert [(trial.digest, trial.ended) for trial in disk.written] == [("new", "passed"), ("newer", "failed")]
    assert disk.standings["default"].current == "new"
    assert await warm(pool, driver) == ["new"]


async def test_a_disk_that_cannot_be_read_costs_no_machine(autojump_clock, pool, driver, disk):
    """A generation may be removed in the middle of a look: the next one sees what there is."""
    standing = disk.standing

    async def fail(image):
        raise FileNotFoundError(2, "No such file or directory")

    machine = await lease(pool)
    disk.standing = fail
    await built(pool, disk)
    assert machine.id in driver.alive
    disk.standing = standing
    await trio.sleep(LOOK_EVERY + 1)
    assert await warm(pool, driver) == ["new", "old"]


async def test_an_image_that_is_built_while_the_pool_runs_is_taken_up(nursery, autojump_clock, driver, disk):
    """Nobody waits for the next attempt of its builds, and nothing has to be started anew."""
    del disk.standings["default"]
    driver.absent.add("default")
    pool = Running(driver, records=disk)
    await nursery.start(pool.actor.run)
    await trio.sleep(130)
    assert not (await pool.describe()).ready
    driver.absent.clear()
    disk.standings["default"] = Standing(current="first")
    await told(pool)
    assert (await pool.describe()).ready
    assert (await pool.lease()).generation == "first"
    nursery.cancel_scope.cancel()


async def test_without_a_hint_it_is_noticed_all_the_same(autojump_clock, pool, driver, disk):
    """The disk is looked at every minute."""
    disk.build("new")
    await trio.sleep(LOOK_EVERY + 2)
    assert await warm(pool, driver) == ["new", "old"]


async def test_sizes_of_an_image_share_its_trial(nursery, autojump_clock, driver, disk):
    """One canary of one of them at a time; once it proved itself, all are of it, and leased ones stay."""
    kinds = {
        "default": Kind(size=SIZE),
        "large": Kind(size=msgspec.structs.replace(SIZE, memory=200), image="default", min_idle=0),
    }
    pool = Running(driver, records=disk, kinds=kinds, memory=1000, canary_leases=1)
    await nursery.start(pool.actor.run)
    await trio.sleep(1)
    large = await pool.lease(image="large")
    assert large.generation == "old"
    await built(pool, disk)
    assert await warm(pool, driver) == ["new", "old"]
    assert driver.held == {"default-100-old", "default-200-old", "default-100-new"}
    canary = await lease(pool)
    if canary.generation == "old":
        canary = await lease(pool)
    assert canary.generation == "new"
    await canary.destroy()
    await trio.sleep(1)
    assert (await pool.lease(image="large")).generation == "new"
    assert not large.lost.is_set()
    await large.destroy()
    await trio.sleep(LOOK_EVERY + 1)
    assert "default-200-old" not in driver.held
    assert driver.held >= {"default-100-new", "default-200-new"}
    nursery.cancel_scope.cancel()
