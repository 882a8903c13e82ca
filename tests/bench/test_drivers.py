"""Drivers opened for a measurement."""

from bench.drivers import DRIVERS, opened, suffix
from bench.machines import SIZE


def test_the_default_driver_names_its_figures_plainly():
    """The names that are promised are those of machines people get; others say whose they are."""
    assert [suffix(driver) for driver in DRIVERS] == ["", "_process", "_fake"]


async def test_a_driver_has_a_folder_of_its_own():
    """Two at once do not share one."""
    async with opened("process") as one, opened("process") as other:
        first, second = [await each.clone(await each.build_template("x", SIZE)) for each in (one, other)]
        await first.thaw()
        await first.destroy()
        await second.thaw()
        await second.destroy()
