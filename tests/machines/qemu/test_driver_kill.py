"""QEMU is killed from outside at each turn of a machine's life: every time a named end, nothing left, and a
pool that goes on. The killing is real, and so are the machines."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from runnerd.actors.pool import Kind, PoolActor, Rules
from runnerd.machines import cgroups, reaper, snapshots, template
from runnerd.machines.channel import Channel
from runnerd.machines.driver import Command, Exit, MachineLost, NoMachine, NotKept, Size, Template
from runnerd.machines.exchange import Exchange
from runnerd.machines.kept import KeptMachines
from runnerd.machines.launcher import born, open_launcher, strays
from runnerd.machines.qemu import starter
from runnerd.machines.qemu.driver import QemuDriver, open_qemu_driver
from runnerd.machines.qemu.qmp import Qmp
from runnerd.machines.quota import Limits
from runnerd.machines.remote import AgentMachine
from runnerd.messages import LeaseMachine
from runnerd.supervise.mailbox import Mailbox
from runnerd.supervise.reply import Reply

from ...conftest import PATIENT
from .conftest import NAMED

SIZE = Size(vcpus=1, memory=256, disk=512)
OTHER = Size(vcpus=1, memory=160, disk=64)
"""A size whose template no other test keeps: it is built here."""
ROOM = 1 << 30
VERSION = "7.2.22"
"""What the stand-in says."""


def cases(*points: str, real: str) -> pytest.MarkDecorator:
    """Each point with a process that takes QEMU's place, and one of them with QEMU itself."""
    played = [pytest.param("stand-in", point, id=point) for point in points]
    return pytest.mark.parametrize(
        ("kind", "point"), [*played, pytest.param("qemu", real, id=f"{real}-qemu", marks=pytest.mark.vm)]
    )


class Killer:
    """Kills the youngest machine's QEMU the moment something is about to be asked of it."""

    def __init__(self) -> None:
        self.at = ""
        """`start`, `hello`, a QMP command or an agent's operation; it happens at the first one."""
        self.driver: QemuDriver | None = None
        self.killed = 0

    def reached(self, point: str) -> None:
        if point != self.at or self.driver is None:
            return
        self.at = ""
        self.kill(list(self.driver._machines.boxes.values())[-1].vm.process.pid)

    def kill(self, pid: int) -> None:
        self.killed += 1
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def killer(monkeypatch: pytest.MonkeyPatch) -> Killer:
    """A killer that sees whatever goes to QEMU and to the agent in it."""
    killer = Killer()

    def watched(kind: type, name: str, point: Callable[..., str]) -> None:
        original = getattr(kind, name)

        async def ask(self: Any, *arguments: Any, **named: Any) -> Any:
            killer.reached(point(*arguments))
            return await original(self, *arguments, **named)

        monkeypatch.setattr(kind, name, ask)

    watched(Qmp, "command", lambda name, *_: name)
    watched(Exchange, "request", lambda operation, *_: operation)
    watched(Channel, "connect", lambda *_: "hello")
    start = starter.vm.start

    async def started(*arguments: Any, **named: Any) -> Any:
        machine = await start(*arguments, **named)
        if killer.at == "start":
            killer.at = ""
            killer.kill(machine.process.pid)
        return machine

    monkeypatch.setattr(starter.vm, "start", started)
    return killer


@pytest.fixture
def group() -> Iterator[str]:
    """A control group of this test's own for all machines; empty where there is none to be had."""
    name = f"memory/runnerd-test-{uuid.uuid4().hex[:8]}"
    try:
        groups = cgroups.usable(name)
    except OSError:
        yield ""
        return
    assert groups is not None
    yield name
    end = time.monotonic() + 30
    while any(not groups.leave(left) for left in groups.left("runnerd-")):
        assert time.monotonic() < end  # what a stand-in had inside ends a moment after it
        time.sleep(0.01)
    for folder in cgroups.controllers(cgroups.ROOT / name).values():
        folder.rmdir()


class Host:
    """A driver under a killer, and what its host has of machines."""

    def __init__(self, driver: QemuDriver, killer: Killer, state: Path, group: str, inside: str) -> None:
        self.driver, self.killer = driver, killer
        killer.driver = driver
        self.inside = inside
        """A folder in a machine."""
        self._state = state
        self._made: Template | None = None
        self._group = Path("/sys/fs/cgroup") / group if group else None

    def traces(self) -> dict[str, Any]:
        """Processes, names, boxes, disks, groups, kept folders and open files of machines."""
        return {
            "processes": strays(reaper.mark(self._state)),
            "names": set(self.driver._machines.names),
            "boxes": dict(self.driver._machines.boxes),
            "disks": sorted(os.listdir(self._state / "machines")),
            "groups": [path.name for path in self._group.glob("runnerd-*")] if self._group else [],
            "kept": sorted(path.name for path in self._state.glob("kept/*")),
            "descriptors": len(os.listdir("/proc/self/fd")),
        }

    async def baseline(self) -> dict[str, Any]:
        """What there is before anything is killed."""
        before = {**self.traces(), "groups": []}
        await self.settled(before)
        return before

    async def settled(self, before: dict[str, Any]) -> None:
        """Nothing is left that was not there before; what closes a moment later is waited for."""
        with trio.move_on_after(60):
            while self.traces() != before:
                # As the pool does it each minute; finds nothing but groups that were in use a moment ago.
                assert await self.driver.adopt_or_reap() == 0
                await trio.sleep(0.01)
        assert self.traces() == before

    async def template(self) -> Template:
        """What machines are cloned from, made once."""
        if self._made is None:
            self._made = await self.driver.build_template("default", SIZE)
        return self._made

    async def machine(self) -> AgentMachine:
        """A clone that passed the thaw gate and is leased."""
        machine = await self.driver.clone(await self.template())
        await machine.thaw()
        await machine.lease()
        return machine

    async def goes_on(self) -> None:
        """The next machine is as good as any."""
        machine = await self.machine()
        assert await run(machine, "exit 7") == Exit(code=7)
        await machine.destroy()


async def run(machine: AgentMachine, script: str, heard: Callable[[], None] = lambda: None) -> Exit:
    """Run a shell script; `heard` is called for all it prints."""

    async def keep(stream: str, data: bytes) -> None:
        heard()

    command = Command(argv=("/bin/bash", "-c", script), env={"PATH": "/usr/bin:/bin"})
    with trio.fail_after(300):
        return await machine.exec(command, keep)


@pytest.fixture
def options(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """What opens a driver whose machines are QEMU's, or those of a stand-in."""
    (tmp_path / "machines").mkdir()
    if kind == "qemu":
        request.getfixturevalue("vm_image")
        folder = request.getfixturevalue("state_directory")
        kept = {} if "template" in request.node.name else {"snapshots": folder / "snapshots"}
        return {"images": folder / "images", **kept}
    request.getfixturevalue("played_image")
    return {"program": request.getfixturevalue("stand_in")(VERSION)}


@pytest.fixture
async def opened(options: dict[str, Any], tmp_path: Path, killer: Killer, group: str) -> AsyncIterator[Host]:
    """A driver for them, under a killer."""
    async with AsyncExitStack() as stack:
        if "program" in options:
            launcher = open_launcher(root=False, groups=cgroups.usable(group))
            options["launcher"] = await stack.enter_async_context(launcher)
        driver = await stack.enter_async_context(
            open_qemu_driver(state=tmp_path, accelerator="tcg", cgroup=group, **PATIENT, **options)
        )
        inside = str(tmp_path) if "program" in options else "/home/runner/work"
        yield Host(driver, killer, tmp_path, group, inside)


@pytest.fixture
async def host(opened: Host) -> Host:
    """A host that has made and ended a machine before anything is killed."""
    await opened.goes_on()
    return opened


@cases("start", "hello", "thaw", "exec", "quiesce", "stop", "migrate", "query-status", real="migrate")
async def test_a_template_that_dies_while_it_is_made(kind, point, opened, killer, tmp_path):
    """At whatever turn, no template comes of it and the reason is told; the next try has one."""
    before = await opened.baseline()
    killer.at = point
    with pytest.raises(NoMachine, match=r"no template of the image 'default' could be made: ."):
        await opened.driver.build_template("default", OTHER)
    assert killer.killed == 1
    await opened.settled(before)
    assert not list(tmp_path.glob("snapshots/template-*"))
    if kind == "stand-in":
        await opened.goes_on()


@cases("start", "qmp_capabilities", "migrate-incoming", "cont", "hello", real="migrate-incoming")
async def test_a_clone_that_dies_before_it_answers_is_made_again(kind, point, host):
    """One that was killed on its way up costs a second try and nothing else."""
    before = await host.baseline()
    host.killer.at = point
    await host.goes_on()
    assert host.killer.killed == 1
    await host.settled(before)


@cases("thaw", "clock", real="mount_root")
async def test_a_clone_that_dies_before_a_job_has_it_is_lost(kind, point, host):
    """At the thaw gate or at its lease it is lost, by the signal that ended it."""
    before = await host.baseline()
    machine = await host.driver.clone(await host.template())
    host.killer.at = point

    async def ready() -> None:
        await machine.thaw()
        await machine.lease()

    with pytest.raises(MachineLost, match=NAMED):
        await ready()
    await machine.destroy()
    assert host.killer.killed == 1
    await host.settled(before)
    await host.goes_on()


@cases("warm", "exec", "output", "put", "get", "destroy", real="output")
async def test_a_machine_that_dies_under_a_job_is_lost(kind, point, host, tmp_path):
    """Idle, at a command's start, in its middle, with a file on its way, or at its end: lost, and said so."""
    before = await host.baseline()
    machine = await host.machine()
    pid = host.driver._machines.boxes[machine.id].vm.process.pid
    host.killer.at = point

    async def work() -> None:
        if point == "warm":
            host.killer.kill(pid)
            await machine.lost.wait()
        elif point == "destroy":
            host.killer.kill(pid)
            await machine.destroy()
        await machine.put(f"{host.inside}/a", os.urandom(3_000_000))
        await machine.get(f"{host.inside}/a", limit=3_000_000)
        await run(machine, "echo one; sleep 60", lambda: host.killer.kill(pid))

    with (
        pytest.raises(MachineLost, match="destroyed" if point == "destroy" else NAMED),
        trio.fail_after(300),
    ):
        await work()
    await machine.destroy()
    assert host.killer.killed == 1
    await host.settled(before)
    await host.goes_on()


@cases("stop", "add-fd", "xen-save-devices-state", "remove-fd", "cont", real="remove-fd")
async def test_a_machine_that_dies_while_it_is_kept_is_not_kept(kind, point, host, tmp_path):
    """Of a snapshot in whose middle QEMU ended no folder is left, and the machine is lost."""
    before = await host.baseline()
    machine = await host.machine()
    host.killer.at = point
    with pytest.raises(NotKept, match="no snapshot was kept"), trio.fail_after(300):
        await machine.snapshot(tmp_path / "kept/1", key=None, limit=ROOM)
    with trio.fail_after(300):
        await machine.lost.wait()
    assert re.search(NAMED, machine.reason)
    await machine.destroy()
    assert host.killer.killed == 1
    assert os.listdir(tmp_path / "kept") == []
    await host.settled(before)
    await host.goes_on()


@cases("start", "migrate-incoming", "cont", "hello", real="cont")
async def test_a_machine_that_dies_while_it_is_gone_back_to(kind, point, host, tmp_path):
    """Whenever the copy ends on its way up, there is no machine, and what was kept is as good as before."""
    machine = await host.machine()
    await machine.snapshot(tmp_path / "kept/1", key=None, limit=ROOM)
    await machine.destroy()
    before = await host.baseline()
    host.killer.at = point
    with pytest.raises(NoMachine, match="snapshot 1 cannot be gone back to"), trio.fail_after(300):
        await host.driver.restore(tmp_path / "kept/1", key=None)
    assert host.killer.killed == 1
    await host.settled(before)
    copy = await host.driver.restore(tmp_path / "kept/1", key=None)
    await copy.thaw()
    assert await run(copy, "exit 7") == Exit(code=7)
    await copy.destroy()
    await host.settled(before)


@pytest.mark.parametrize("kind", ["stand-in"])
async def test_a_pool_goes_on_whatever_dies(kind, host, eventually):
    """Killed on its way up, at the gate, at its lease, and idle: who asks gets a machine each time."""

    @asynccontextmanager
    async def lent() -> AsyncIterator[QemuDriver]:
        yield host.driver

    mailbox: Mailbox[Any] = Mailbox(16)
    rules = Rules(min_idle=1, memory=1200, builders=1)
    actor = PoolActor(mailbox, lent, {"default": Kind(size=SIZE)}, rules)

    async def served(job: int) -> None:
        reply: Reply[Any] = Reply()
        await mailbox.send(LeaseMachine("default", job, reply))
        machine = await reply.wait()
        assert await run(machine, "exit 7") == Exit(code=7)
        await machine.destroy()

    boxes = host.driver._machines.boxes
    with trio.fail_after(300):
        async with trio.open_nursery() as nursery:
            await nursery.start(actor.run)
            for number, point in enumerate(("migrate-incoming", "thaw", "clock", ""), start=1):
                await served(number)
                host.killer.at = point
                if not point:
                    await eventually(lambda: boxes)
                    host.killer.kill(next(iter(boxes.values())).vm.process.pid)
                await served(10 + number)
                assert host.killer.killed == number
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("kind", ["stand-in"])
@pytest.mark.parametrize(
    ("point", "last"),
    [
        ("starting:1", ""),
        ("running:1", "starting"),
        ("quiesce", "running"),
        ("query-status:1", "running"),
        ("starting:2", "gone"),
        ("migrate-incoming:1", "running"),
        ("thaw:3", "running"),
        ("clock:1", "running"),
        ("xen-save-devices-state:1", "running"),
        ("state:1", "running"),
        ("memory:1", "running"),
        ("disk:1", "running"),
        ("named .step-02:1", "running"),
        ("standing:1", "running"),
        ("named step-02:1", "running"),
        ("gone:2", "running"),
        ("migrate-incoming:2", "running"),
    ],
)
async def test_a_daemon_that_dies_leaves_nothing_that_is_not_reaped(
    kind, point, last, options, tmp_path, group
):
    """Killed at any turn of a machine's life, it leaves nothing that the next one does not clear up."""
    script = str(Path(__file__).with_name("mortal.py"))
    done = await trio.run_process(
        [sys.executable, script, str(tmp_path), options["program"], group, point],
        capture_stderr=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    journal = tmp_path / "journal"
    notes = journal.read_text().splitlines() if journal.exists() else []
    assert (notes[-1].split() if notes else [""])[0] == last
    kept = KeptMachines(tmp_path / "kept", Limits(), clock=lambda: 1.0)
    found = kept.all()
    assert len(found) == (point in ("gone:2", "migrate-incoming:2"))
    kept.tidy()
    assert [*tmp_path.glob("kept/*/*"), *tmp_path.glob("kept/*/.*")] == [each.folder for each in found]
    for whole in found:
        assert snapshots.load(whole.folder).bytes < whole.bytes
        assert kept.standing(whole) == b"stood"
    async with (
        open_launcher(root=False, groups=cgroups.usable(group)) as launcher,
        open_qemu_driver(
            state=tmp_path, program=options["program"], accelerator="tcg", launcher=launcher, **PATIENT
        ) as driver,
    ):
        host = Host(driver, Killer(), tmp_path, group, "")
        await driver.adopt_or_reap()
        left = host.traces()
        assert (left["processes"], left["disks"]) == ({}, [])
        await host.baseline()
        pids = [int(line.split()[1]) for line in notes if line.startswith("running")]
        assert not any(born(pid) for pid in pids)
        assert not [path for path in tmp_path.glob("snapshots/template-*") if not template_is_whole(path)]
        await host.goes_on()
        assert not list(tmp_path.glob("snapshots/.*"))


def template_is_whole(path: Path) -> bool:
    """Whether a saved template can be loaded."""
    frozen = template.load(path.parent, path.name.removeprefix("template-"))
    if frozen is not None:
        frozen.close()
    return frozen is not None
