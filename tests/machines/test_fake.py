"""Machines in memory keep the contract of real ones."""

import io
import tarfile
import time
from pathlib import Path

import pytest
import trio
import trio.lowlevel

from runnerd.machines.driver import (
    Capabilities,
    Command,
    Driver,
    Exit,
    Machine,
    MachineLost,
    NoMachine,
    NotKept,
    Size,
    Window,
)
from runnerd.machines.fake import (
    Behaviour,
    DiesAtExec,
    DiesAtLayOut,
    FakeDriver,
    FakeMachine,
    Hangs,
    NeverThaws,
    Replies,
    Reply,
    Succeeds,
    open_fake_driver,
)


async def ready(driver: FakeDriver) -> FakeMachine:
    machine = await driver.clone(await driver.build_template("image", Size()))
    await machine.thaw()
    await machine.lease()
    assert isinstance(machine, FakeMachine)
    return machine


async def silent(_kind: str, _data: bytes) -> None:
    raise AssertionError("no output was expected")


def as_driver(driver: FakeDriver) -> Driver:
    return driver


def as_machine(machine: FakeMachine) -> Machine:
    return machine


async def test_succeeds_at_once() -> None:
    """Without a script every command succeeds without output, and each machine is its own."""
    async with open_fake_driver() as driver:
        first, second = await ready(driver), await ready(driver)
        assert as_driver(driver).capabilities.isolated
        assert await as_machine(first).exec(Command(argv=("true",)), silent) == Exit(code=0)
        assert first.identity
        assert second.identity
        assert first.identity.boot_id != second.identity.boot_id
        assert first.identity.machine_id != second.identity.machine_id
        assert await driver.adopt_or_reap() == 0
        assert len(driver.machines) == 2
    assert driver.machines == {}
    assert first.reason == "it was destroyed"


async def test_replies_are_chosen_by_words_and_scripts() -> None:
    """A command is answered by the text of its words or of the script it names; else by the rest."""
    replies = Replies(
        [
            ("make test", Reply(stdout=b"ok\n", stderr=b"warn\n", code=3)),
            ("kill", Reply(code=None, signal=9, out_of_memory=True)),
            ("version", Reply(writes={"GITHUB_OUTPUT": b"v=1\n", "/there": b"x", "ABSENT": b"y"})),
        ],
        otherwise=Reply(code=7),
    )
    heard = []

    async def hear(kind: str, data: bytes) -> None:
        heard.append((kind, data))

    async with open_fake_driver(replies) as driver:
        machine = await ready(driver)
        await machine.put("/t/script.sh", b"make test\n")
        assert await machine.exec(Command(argv=("bash", "-e", "/t/script.sh")), hear) == Exit(code=3)
        assert heard == [("stdout", b"ok\n"), ("stderr", b"warn\n")]
        assert await machine.exec(Command(argv=("kill",)), hear) == Exit(signal=9, out_of_memory=True)
        await machine.put("/t/out", b"")
        for _ in range(2):
            await machine.exec(Command(argv=("version",), env={"GITHUB_OUTPUT": "/t/out"}), hear)
        assert await machine.get("/t/out", limit=100) == b"v=1\nv=1\n"
        assert await machine.get("/there", limit=100) == b"xx"
        assert await machine.exec(Command(argv=("other",)), hear) == Exit(code=7)


async def test_files_of_a_step_are_laid_out_and_read_together() -> None:
    """Files are empty at first; a missing or large one is its own error, and programs are those it has."""
    async with open_fake_driver() as driver:
        machine = await ready(driver)
        machine.programs = ("sh",)
        found = await machine.lay_out(["/w"], ["/t/a", "/t/b"], programs=["bash", "sh"], search="/bin")
        assert found == {"sh": "/usr/bin/sh"}
        await machine.put("/t/b", b"123")
        read = await machine.get_all({"/t/a": 2, "/t/b": 2, "/t/c": 2})
        assert read["/t/a"] == b""
        assert isinstance(read["/t/b"], ValueError)
        assert isinstance(read["/t/c"], FileNotFoundError)


async def test_machine_may_die_before_its_first_command() -> None:
    """While a job is being prepared; nothing was made in it then."""
    async with open_fake_driver(DiesAtLayOut("out of luck")) as driver:
        machine = await ready(driver)
        with pytest.raises(MachineLost, match="out of luck"):
            await machine.lay_out([], ["/t/a"])
        assert machine.files == {}


async def test_first_machines_may_behave_otherwise() -> None:
    """Behaviours are for the machines in order; the last is for all that follow."""
    async with open_fake_driver(DiesAtExec(at=2), Succeeds()) as driver:
        first, second = await ready(driver), await ready(driver)
        assert await first.exec(Command(argv=("a",)), silent) == Exit(code=0)
        with pytest.raises(MachineLost, match="its kernel panicked"):
            await first.exec(Command(argv=("a",)), silent)
        for _ in range(3):
            assert await second.exec(Command(argv=("a",)), silent) == Exit(code=0)


async def test_machine_that_never_thaws_is_destroyed(autojump_clock: trio.testing.MockClock) -> None:
    """A thaw that is not answered ends in MachineLost and leaves no machine."""
    async with open_fake_driver(NeverThaws(2.0)) as driver:
        machine = await driver.clone(await driver.build_template("image", Size()))
        with pytest.raises(MachineLost, match="did not answer within 2 s"):
            await machine.thaw()
        assert driver.machines == {}
        assert machine.lost.is_set()


@pytest.mark.parametrize("end", ["signal", "destroy", "cancel"])
async def test_hanging_command_ends_as_a_real_one(end: str, autojump_clock: trio.testing.MockClock) -> None:
    """A command that hangs ends by a signal, by the machine's end or by being cancelled."""
    ended: list[object] = []

    async def run(machine: FakeMachine) -> None:
        try:
            ended.append(await machine.exec(Command(argv=("sleep",)), silent))
        except MachineLost:
            ended.append("lost")

    async with open_fake_driver(Hangs()) as driver, trio.open_nursery() as nursery:
        machine = await ready(driver)
        nursery.start_soon(run, machine)
        await trio.testing.wait_all_tasks_blocked()
        if end == "signal":
            await machine.signal(15)
        elif end == "destroy":
            await machine.destroy()
        else:
            nursery.cancel_scope.cancel()
    assert ended == {"signal": [Exit(signal=15)], "destroy": ["lost"], "cancel": []}[end]


async def test_lost_machine_does_nothing_any_more() -> None:
    """Every method raises MachineLost with the reason, and destroy may be called again."""
    async with open_fake_driver() as driver:
        machine = await ready(driver)
        machine.lose("it melted")
        await machine.destroy()
        await machine.destroy()
        for call in (
            lambda: machine.thaw(),
            lambda: machine.lease(),
            lambda: machine.exec(Command(argv=("a",)), silent),
            lambda: machine.signal(9),
            lambda: machine.put("/a", b""),
            lambda: machine.get("/a", limit=1),
            lambda: machine.unpack(Path("/nonesuch"), "/a"),
            lambda: machine.listen(1, trio.aclose_forcefully),
        ):
            with pytest.raises(MachineLost, match="it melted"):
                await call()


async def test_files_and_archives_are_kept_in_memory(tmp_path: Path) -> None:
    """What is put or unpacked can be got, within the limit."""
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("./dir/file")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"data"))
    async with open_fake_driver() as driver:
        machine = await ready(driver)
        await machine.unpack(tmp_path / "a.tar", "/w")
        assert await machine.get("/w/dir/file", limit=4) == b"data"
        with pytest.raises(ValueError, match="are allowed"):
            await machine.get("/w/dir/file", limit=3)
        with pytest.raises(FileNotFoundError):
            await machine.get("/absent", limit=3)


async def test_offered_port_is_served() -> None:
    """A connection in the machine reaches the handler; without an offer it is refused."""

    async def shout(stream: trio.abc.Stream) -> None:
        await stream.send_all((await stream.receive_some(10)).upper())

    async with open_fake_driver() as driver:
        machine = await ready(driver)
        with pytest.raises(ConnectionRefusedError):
            await machine.connect(80)
        await machine.listen(80, shout)
        connection = await machine.connect(80)
        await connection.send_all(b"hello")
        assert await connection.receive_some(10) == b"HELLO"


async def test_clones_take_time_and_may_fail(autojump_clock: trio.testing.MockClock) -> None:
    """A clone takes as long as it is told, and fails with the sentence it is told."""
    async with open_fake_driver(clone_seconds=3, capabilities=Capabilities(isolated=False)) as driver:
        template = await driver.build_template("image", Size())
        started = trio.current_time()
        machine = await driver.clone(template)
        assert trio.current_time() - started == 3
        assert not machine.capabilities.isolated
        driver.no_machine = "no memory is left"
        with pytest.raises(NoMachine, match="no memory is left"):
            await driver.clone(template)
        assert driver.made == 1


async def test_a_thousand_machines_a_second() -> None:
    """The whole life of a machine is fast enough that a benchmark measures the daemon."""
    async with open_fake_driver() as driver:
        started = time.thread_time()
        for _ in range(1000):
            machine = await ready(driver)
            await machine.exec(Command(argv=("true",)), silent)
            await machine.destroy()
        assert time.thread_time() - started < 1.0


def test_behaviours_are_what_the_driver_takes() -> None:
    """Each behaviour fits the protocol."""
    behaviours: list[Behaviour] = [
        Succeeds(),
        Replies([]),
        DiesAtExec(),
        DiesAtLayOut(),
        NeverThaws(),
        Hangs(),
    ]
    assert len(behaviours) == 6


async def test_kept_machines_come_back_with_their_files(tmp_path):
    """A machine that can be kept is written down and restored; one that cannot refuses."""
    async with open_fake_driver(capabilities=Capabilities(isolated=True, snapshot=True)) as driver:
        machine = await driver.clone(await driver.build_template("default", Size()))
        await machine.put("/a", b"1")
        await machine.snapshot(tmp_path / "kept/1", key=None, limit=1000)
        await machine.put("/a", b"2")
        copy = await driver.restore(tmp_path / "kept/1", key=None)
        assert await copy.get("/a", limit=9) == b"1"
        with pytest.raises(NotKept, match="larger"):
            await machine.snapshot(tmp_path / "kept/2", key=None, limit=5)
        with pytest.raises(NoMachine, match="cannot be gone back to"):
            await driver.restore(tmp_path / "kept/2", key=None)
    async with open_fake_driver() as driver:
        machine = await driver.clone(await driver.build_template("default", Size()))
        with pytest.raises(NotKept):
            await machine.snapshot(tmp_path / "kept/3", key=None, limit=1000)


async def test_terminals_echo():
    """A terminal shows what is typed until the person has gone."""

    class Person:
        window = Window()

        def __init__(self):
            self.types, self.screen = [b"a", Window(rows=1, columns=1), b"b", b""], b""

        async def keys(self):
            return self.types.pop(0)

        async def show(self, data):
            self.screen += data

    async with open_fake_driver() as driver:
        machine = await driver.clone(await driver.build_template("default", Size()))
        person = Person()
        assert (await machine.shell(Command(argv=("sh",)), person)).success
        assert person.screen == b"ab"


async def test_templates_are_held_until_they_are_dropped():
    """Each generation of an image has its own."""
    async with open_fake_driver() as driver:
        old, new = [await driver.build_template("default", Size(), digest) for digest in ("old", "new")]
        assert (old.generation, new.generation) == ("old", "new")
        assert driver.templates == {old.key, new.key}
        for _ in range(2):
            await driver.drop_template(old)
        assert driver.templates == {new.key}
