"""What machines cost, measured on those that need no VM: every figure is there and is one."""

from functools import partial

from bench import machines
from bench.drivers import opened
from runnerd.machines.driver import Capabilities
from runnerd.machines.fake import open_fake_driver


async def test_a_driver_has_its_figures():
    """Clones, ends, a crowd with its memory: times are positive, and each machine's memory is counted."""
    async with opened("process") as driver:
        template = await driver.build_template("default", machines.SIZE)

        async def make():
            machine = await driver.clone(template)
            await machine.thaw()
            return machine

        figures = await machines.one_after_the_other(make, 2)
        assert figures["clone_thawed"]["n"] == figures["destroy"]["n"] == 2
        assert all(figure["p50"] > 0 for figure in figures.values())
        found = await machines.crowd(make, 3)
    assert found["clones_3_ready"]["value"] > 0
    assert found["warm_private"]["n"] == found["used_private"]["n"] == 3
    assert found["warm_private"]["p50"] > 1


async def test_leases_of_the_pool_alone(autojump_clock):
    """Machines in memory are leased as often as asked."""
    assert len(await machines.leases(partial(opened, "fake"), 5)) == 5


async def test_machines_that_can_be_kept():
    """Each keeping and each coming back is timed."""
    capabilities = Capabilities(isolated=True, snapshot=True)
    async with open_fake_driver(capabilities=capabilities) as driver:
        template = await driver.build_template("default", machines.SIZE)

        async def make():
            machine = await driver.clone(template)
            await machine.thaw()
            return machine

        figures = await machines.kept(driver, make, 2)
    assert {name: figure["n"] for name, figure in figures.items()} == {
        "snapshot": 2,
        "restore_thawed": 2,
        "snapshot_size": 2,
    }


async def test_the_first_machine_of_a_host():
    """From opening the driver to the first lease, as often as said."""
    figures = await machines.first_warm("process")
    assert figures["first_warm"]["n"] == machines.FIRSTS
