"""A machine that stays one to its user while another takes its place."""

import pytest

from runnerd.machines.driver import Capabilities, Command, Machine, MachineLost, NoMachine, Size
from runnerd.machines.fake import open_fake_driver
from runnerd.machines.rewinding import RewindingMachine


async def test_it_is_what_it_was_and_offers_its_ports_again(tmp_path):
    """Files are those of the moment it was kept; a port offered before leads to the same handler."""

    async def handler(stream):
        await stream.aclose()

    async with open_fake_driver(capabilities=Capabilities(isolated=True, snapshot=True)) as driver:
        first = await driver.clone(await driver.build_template("default", Size()))

        async def swap(machine, kept):
            await machine.destroy()
            return await driver.restore(kept, key=None)

        machine = RewindingMachine(first, swap)
        await machine.listen(7, handler)
        await machine.put("/a", b"before")
        await machine.snapshot(tmp_path / "kept", key=None, limit=1 << 20)
        await machine.put("/a", b"after")
        await machine.back(tmp_path / "kept")
        assert machine.id != first.id
        assert await machine.get("/a", limit=9) == b"before"
        assert driver.machines[machine.id].offers == {7: handler}
        assert (await machine.exec(Command(argv=("x",)), handler)).success
        await machine.destroy()
        assert not driver.machines


async def test_it_is_lost_when_it_cannot_be_gone_back_to(tmp_path):
    """With the driver's reason."""
    async with open_fake_driver() as driver:
        first = await driver.clone(await driver.build_template("default", Size()))

        async def swap(machine, kept):
            raise NoMachine("it is harmed")

        with pytest.raises(MachineLost, match="it is harmed"):
            await RewindingMachine(first, swap).back(tmp_path)


@pytest.mark.parametrize("problem", [OSError(98, "it is taken"), ValueError("no")])
async def test_it_is_lost_when_it_takes_its_ports_back(tmp_path, problem):
    """Whatever the machine that it was says when they are offered again."""
    async with open_fake_driver(capabilities=Capabilities(isolated=True, snapshot=True)) as driver:
        first = await driver.clone(await driver.build_template("default", Size()))

        async def refuse(port, handler):
            raise problem

        async def swap(machine, kept):
            copy = await driver.restore(kept, key=None)
            copy.listen = refuse
            return copy

        machine = RewindingMachine(first, swap)
        await machine.listen(7, None)
        await machine.snapshot(tmp_path / "kept", key=None, limit=1 << 20)
        with pytest.raises(MachineLost, match="its ports could not be offered again"):
            await machine.back(tmp_path / "kept")


def test_it_has_all_that_a_machine_has():
    """What machines learn later is not forgotten here."""
    promised = {name for name in (*vars(Machine), *Machine.__annotations__) if not name.startswith("_")}
    assert promised <= set(dir(RewindingMachine))
