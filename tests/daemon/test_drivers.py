"""Which driver is chosen, what it is given, and what the host allows."""

from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from runnerd.config import load
from runnerd.daemon import drivers
from runnerd.machines.driver import NoMachine, Size
from runnerd.machines.fake import open_fake_driver
from runnerd.machines.journal import MachineNote, unwritten
from runnerd.machines.kinds import Kind
from runnerd.machines.process import ProcessDriver
from runnerd.store.ledger import open_ledger
from runnerd.store.records import MachineNews, Stage
from runnerd.supervise.supervisor import sole


def configured(tmp_path, **flags):
    """A configuration with these settings."""
    environ = {"STATE_DIRECTORY": str(tmp_path / "state"), "HOME": str(tmp_path)}
    return load(
        None, environ=environ, flags={name.replace("__", "."): value for name, value in flags.items()}
    )


async def test_the_process_driver_works_in_the_folder_it_is_given(tmp_path):
    """Machines of two drivers never share a folder."""
    own = tmp_path / "own"
    config = configured(tmp_path, machines__driver="process")
    async with drivers.open_driver(config, unwritten, own) as driver:
        assert isinstance(driver, ProcessDriver)
        assert not driver.capabilities.isolated
        assert (own / "machines").is_dir()


async def test_qemu_is_what_nobody_has_to_choose(tmp_path):
    """Without a word in the configuration machines are microVMs of an image, which must be there."""
    (tmp_path / "state").mkdir()

    async def start():
        async with drivers.open_driver(configured(tmp_path), unwritten, tmp_path / "state") as driver:
            assert driver.name == "qemu"
            await driver.build_template("default", Size())

    with pytest.raises((NoMachine, ExceptionGroup)) as refused:
        await start()
    assert isinstance(sole(refused.value), NoMachine)


async def test_the_address_of_a_remote_service_selects_its_driver(tmp_path):
    """With FIRECRACKER_API_URL alone machines come from there, and nothing weaker takes its place."""
    config = configured(tmp_path, machines__firecracker_api_url="http://127.0.0.1:1")
    async with drivers.open_driver(config, unwritten, tmp_path) as driver:
        assert driver.name == "fcctl"
        with pytest.raises(NoMachine, match=r"service cannot be used: GET /health at http://127\.0\.0\.1:1"):
            await driver.build_template("default", Size())


def test_remote_driver_without_an_address_is_refused_with_the_cure(tmp_path):
    """The driver alone says nothing about where its service is."""
    with pytest.raises(NoMachine, match="set FIRECRACKER_API_URL"):
        drivers.open_driver(configured(tmp_path, machines__driver="fcctl"), unwritten, tmp_path)


async def test_the_ledger_is_the_journal_of_machines(tmp_path, nursery):
    """What a driver notes stands in the ledger before it goes on."""
    config = configured(tmp_path)
    noted = []

    @asynccontextmanager
    async def open_noting(config, journal, own):
        async with open_fake_driver() as driver:
            for state in ("starting", "running", "gone"):
                await journal(
                    MachineNote(
                        id="m1", driver="fake", image="default", state=state, pid=7, uid=8, started=9.0
                    )
                )
                noted.append([(row.stage, row.pid) for row in await ledger.machines()])
            assert own == config.state_directory
            yield driver

    async with open_ledger(tmp_path / "ledger.db") as ledger:
        await nursery.start(ledger.serve_writes)
        async with drivers.opener(config, ledger, open_noting)():
            assert noted == [[("building", 7)], [("building", 7)], []]
            assert [row.stage for row in await ledger.machine_history(9)] == ["gone"]
        nursery.cancel_scope.cancel()


async def test_machines_of_a_killed_daemon_are_reaped_and_told_of(tmp_path, nursery):
    """Before anybody gets a machine, those of an earlier daemon are ended, and the journal says why."""
    order = []

    @asynccontextmanager
    async def open_reaping(config, journal, own):
        async with open_fake_driver() as driver:

            async def adopt_or_reap():
                order.append([row.id for row in await ledger.machines()])
                return 1

            driver.adopt_or_reap = adopt_or_reap
            yield driver

    async with open_ledger(tmp_path / "ledger.db") as ledger:
        await nursery.start(ledger.serve_writes)
        old = {"driver": "fake", "image": "default"}
        await ledger.note_machine(MachineNews(id="old", **old, stage=Stage.WARM, pid=7))
        await ledger.note_machine(MachineNews(id="older", **old, stage=Stage.LEAVING, why="its job ended"))
        async with drivers.opener(configured(tmp_path), ledger, open_reaping)():
            assert sorted(order[0]) == ["old", "older"]
            assert await ledger.machines() == []
            ends = {row.id: row.why for row in await ledger.machine_history(9)}
            assert ends == {"old": drivers.REAPED, "older": f"its job ended; {drivers.REAPED}"}
        nursery.cancel_scope.cancel()


def test_the_size_of_machines_is_configured(tmp_path):
    """Processors, MiB of memory and of disk."""
    config = configured(tmp_path, machines__vcpus=1, machines__memory=256, machines__disk=512)
    assert drivers.machine_size(config) == Size(vcpus=1, memory=256, disk=512)


def test_an_image_comes_in_several_sizes(tmp_path):
    """Each table is a kind of machine: its own numbers first, else those of [machines] and [pool]."""
    path = tmp_path / "config.toml"
    path.write_text(
        '[images.large]\nuses = "default"\nlabels = ["debian-12-4cpu-8gb"]\nvcpus = 4\nmemory = 8192\n'
        "min_idle = 0\nmax_total = 2\nmax_idle_age = 60.0\n"
    )
    config = load(path, environ={"STATE_DIRECTORY": str(tmp_path), "HOME": str(tmp_path)})
    assert drivers.machine_kinds(config) == {
        "default": Kind(size=Size(vcpus=2, memory=4096, disk=10240)),
        "large": Kind(
            size=Size(vcpus=4, memory=8192, disk=10240),
            image="default",
            min_idle=0,
            max_total=2,
            max_idle_age=60.0,
        ),
    }


def test_a_table_that_lists_sizes_is_a_kind_for_each(tmp_path):
    """They boot from the table's image, and none waits idle for a job."""
    path = tmp_path / "config.toml"
    path.write_text('[images.default]\nsizes = ["4cpu-8gb"]\nmin_idle = 2\n')
    config = load(path, environ={"STATE_DIRECTORY": str(tmp_path), "HOME": str(tmp_path)})
    assert drivers.machine_kinds(config) == {
        "default": Kind(size=Size(vcpus=2, memory=4096, disk=10240), min_idle=2),
        "default-4cpu-8gb": Kind(size=Size(vcpus=4, memory=8192, disk=10240), image="default", min_idle=0),
    }


@pytest.mark.parametrize(("reserve", "left"), [(1024, 7168), (8192, 0), (9000, 0)])
def test_machines_may_take_what_the_host_has_less_the_reserve(tmp_path, reserve, left):
    """In MiB, and never less than nothing."""
    (tmp_path / "meminfo").write_text("MemTotal:        8388608 kB\nMemFree:         1 kB\n")
    config = configured(tmp_path, pool__memory_reserve=reserve)
    assert drivers.pool_memory(config, proc=tmp_path) == left


def test_a_machine_is_built_by_each_core_that_may_be_used():
    """At least one, and not more than the scheduler gives us."""
    assert 1 <= drivers.builders() <= 4096


def test_processors_are_promised_by_the_ratio(monkeypatch, tmp_path):
    """So many for each core we may use, rounded down, and never none at all."""
    monkeypatch.setattr(drivers.os, "sched_getaffinity", lambda _: {0, 1, 2})
    for ratio, promised in ((4.0, 12), (1.5, 4), (0.1, 1)):
        config = configured(tmp_path, pool__cpu_ratio=ratio)
        assert drivers.pool_vcpus(config) == promised


def test_launcher_is_used_where_it_is_needed(tmp_path):
    """A daemon without rights takes the unit's launcher where it is there; what is written decides else."""
    there = tmp_path / "l.sock"
    assert drivers.launcher_socket("auto", default=there, root=False) is None
    there.touch()
    assert drivers.launcher_socket("auto", default=there, root=False) == there
    assert drivers.launcher_socket("auto", default=there, root=True) is None
    assert drivers.launcher_socket("", default=there, root=False) is None
    assert drivers.launcher_socket("/x", default=there, root=True) == Path("/x")


def test_only_drivers_that_boot_our_images_have_generations(tmp_path):
    """Those of others are the service's, or none at all."""
    assert drivers.records(configured(tmp_path)) is not None
    assert drivers.records(configured(tmp_path, machines__driver="process")) is None
