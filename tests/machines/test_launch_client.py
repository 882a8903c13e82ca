"""A daemon and a launcher as two ends of a socket; in the last test as two users."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio

from runnerd.machines import disks, launch_server
from runnerd.machines.driver import Size
from runnerd.machines.launch_client import GONE, LaunchClient, open_launch_client
from runnerd.machines.launcher import LaunchFailed, Order, born, open_launcher, recipe_order
from runnerd.machines.qemu import vmm

RECIPE = vmm.Recipe(
    accelerator="tcg", size=Size(vcpus=1, memory=64, disk=64), tsc_khz=1, purpose=vmm.Purpose.CLONE
)


@pytest.fixture
def qemu() -> Iterator[str]:
    """A program in QEMU's place, where any user may run it: it sleeps, or ends when its name says so."""
    with tempfile.TemporaryDirectory(prefix="runnerd-launch-") as folder:
        os.chmod(folder, 0o755)
        path = Path(folder, "qemu")
        path.write_text('#!/bin/sh\ncase "$*" in *ends-with-7*) exit 7;; esac\nexec sleep 60\n')
        path.chmod(0o755)
        yield str(path)


@asynccontextmanager
async def serving(path: Path, qemu: str, users: list[int]) -> AsyncIterator[None]:
    """A launcher at `path`."""
    listener = launch_server.listen(path)
    async with open_launcher() as launcher, trio.open_nursery() as nursery:
        await nursery.start(
            lambda task_status: launch_server.serve(
                listener, launcher, qemu=qemu, users=users, task_status=task_status
            )
        )
        try:
            yield
        finally:
            listener.close()
            nursery.cancel_scope.cancel()


@pytest.fixture
async def client(tmp_path: Path, qemu: str) -> AsyncIterator[LaunchClient]:
    """A client of a launcher that serves this user."""
    async with (
        serving(tmp_path / "l.sock", qemu, [os.geteuid()]),
        open_launch_client(tmp_path / "l.sock") as client,
    ):
        yield client


def order(tmp_path: Path, name: str, **instead: int) -> Order:
    """An order for a machine, with files of its own."""
    files = {each: os.memfd_create(each) for each in vmm.descriptors()}
    for each in vmm.OWNED:
        os.close(files[each])
        files[each] = disks.empty(tmp_path, 4096)
    return msgspec.structs.replace(recipe_order(RECIPE, "/ignored", name), descriptors=files | instead)


async def test_machine_is_started_and_stopped(client: LaunchClient, tmp_path: Path) -> None:
    """What runs is the launcher's own program with the machine's arguments, until it is stopped."""
    machine = await client.start(order(tmp_path, "runnerd-1"))
    assert born(machine.pid) == machine.born
    if os.geteuid() == 0:
        assert machine.uid != 0
    assert machine.ended() is None
    await machine.stop()
    await machine.stop()
    assert machine.ended() == -9
    assert born(machine.pid) is None


async def test_memory_of_a_machine_is_handed_over(client: LaunchClient, tmp_path: Path, eventually) -> None:
    """The client reads its machine's memory through descriptors the launcher opened; a stranger's never."""
    machine = await client.start(order(tmp_path, "runnerd-1"))
    # Each program that becomes the next has other memory.
    await eventually(lambda: Path(f"/proc/{machine.pid}/comm").read_text() == "sleep\n")
    opened = await machine.open_memory()
    maps, pagemap, memory = opened
    try:
        lines = os.read(maps, 1 << 20).splitlines()
        assert lines
        first = int(lines[0].split(b"-")[0], 16)
        assert os.pread(memory, 4, first) == b"\x7fELF"
        assert len(os.pread(pagemap, 8, first // 4096 * 8)) == 8
    finally:
        for descriptor in opened:
            os.close(descriptor)
    await machine.stop()
    for name in ("runnerd-1", "runnerd-2"):
        with pytest.raises(OSError, match="no such machine"):
            await client.open_memory(name)


async def test_end_is_told(client: LaunchClient, tmp_path: Path) -> None:
    """A machine that ends by itself is heard of, with its status, and its name is free again."""
    for _ in range(2):
        machine = await client.start(order(tmp_path, "runnerd-ends-with-7"))
        with trio.fail_after(30):
            assert await machine.wait() == 7
        await machine.stop()


async def test_refusal_is_told(client: LaunchClient, tmp_path: Path) -> None:
    """A name that is taken, and an order that is no machine, are refused with words; the client goes on."""
    machine = await client.start(order(tmp_path, "runnerd-1"))
    with pytest.raises(LaunchFailed, match="has not ended yet"):
        await client.start(order(tmp_path, "runnerd-1"))
    with pytest.raises(LaunchFailed, match="machines only"):
        await client.start(Order(name="x", argv=("/bin/sh",), descriptors={}, memory=1))
    assert machine.ended() is None


async def test_leaving_ends_the_machines(tmp_path: Path, qemu: str, eventually) -> None:
    """A daemon that goes, however, takes its machines along; another's stay."""
    path = tmp_path / "l.sock"
    async with serving(path, qemu, [os.geteuid()]), open_launch_client(path) as other:
        stays = await other.start(order(tmp_path, "runnerd-other"))
        async with open_launch_client(path) as client:
            goes = [await client.start(order(tmp_path, f"runnerd-{number}")) for number in range(3)]
        await eventually(lambda: not any(born(machine.pid) for machine in goes))
        assert stays.ended() is None


async def test_launcher_that_goes_ends_all(tmp_path: Path, qemu: str) -> None:
    """When the launcher has gone its machines have ended, and nothing more can be started."""
    path = tmp_path / "l.sock"
    async with trio.open_nursery() as nursery:
        go = trio.Event()

        async def serve(task_status: trio.TaskStatus[None]) -> None:
            async with serving(path, qemu, [os.geteuid()]):
                task_status.started()
                await go.wait()

        await nursery.start(serve)
        async with open_launch_client(path) as client:
            machine = await client.start(order(tmp_path, "runnerd-1"))
            go.set()
            with trio.fail_after(30):
                assert await machine.wait() == GONE
            with pytest.raises(LaunchFailed):
                await client.start(order(tmp_path, "runnerd-2"))


async def test_nobody_there(tmp_path: Path) -> None:
    """An absent launcher is said so, with the unit to start."""
    with pytest.raises(LaunchFailed, match=r"start runnerd-launcher\.service"):
        async with open_launch_client(tmp_path / "none"):
            pass


async def test_other_users_are_sent_away(tmp_path: Path, qemu: str) -> None:
    """Who is not named may connect, and is not served."""
    async with (
        serving(tmp_path / "l.sock", qemu, [os.geteuid() + 1]),
        open_launch_client(tmp_path / "l.sock") as client,
    ):
        with pytest.raises(LaunchFailed):
            await client.start(order(tmp_path, "runnerd-1"))


@pytest.mark.parametrize("what", ["named", "device", "read-only"])
async def test_files_of_others_are_not_given_away(tmp_path: Path, qemu: str, what: str) -> None:
    """A file with a name, or no regular file, never becomes a machine's: who sends one is cut off."""
    target = tmp_path / "precious"
    target.write_text("x")
    paths = {"named": str(target), "device": "/dev/null", "read-only": "/etc/passwd"}
    descriptor = os.open(paths[what], os.O_RDONLY)
    owner = os.fstat(descriptor).st_uid
    async with (
        serving(tmp_path / "l.sock", qemu, [os.geteuid()]),
        open_launch_client(tmp_path / "l.sock") as client,
    ):
        with pytest.raises(LaunchFailed):
            await client.start(order(tmp_path, "runnerd-1", upper=descriptor))
    assert os.fstat(descriptor).st_uid == owner
    os.close(descriptor)


DAEMON = """
import os, sys, trio
from pathlib import Path
import msgspec
from runnerd.machines import disks
from runnerd.machines.qemu import vmm
from runnerd.machines.driver import Size
from runnerd.machines.launch_client import open_launch_client
from runnerd.machines.launcher import recipe_order

os.setgroups([]); os.setgid(65534); os.setuid(65534)  # behind the imports: it may not read them

async def main():
    folder = Path(sys.argv[2])
    recipe = vmm.Recipe(accelerator="tcg", size=Size(vcpus=1, memory=64, disk=64), tsc_khz=1,
                        purpose=vmm.Purpose.CLONE)
    files = {each: os.memfd_create(each) for each in vmm.descriptors()}
    for each in vmm.OWNED:
        files[each] = disks.empty(folder, 4096)
    order = msgspec.structs.replace(recipe_order(recipe, "/ignored", "runnerd-1"), descriptors=files)
    async with open_launch_client(Path(sys.argv[1])) as client:
        machine = await client.start(order)
        while Path(f"/proc/{machine.pid}/comm").read_text() != "sleep\\n":
            await trio.sleep(0.01)
        maps, pagemap, memory = await machine.open_memory()
        first = int(os.read(maps, 100).split(b"-")[0], 16)
        seen = len(os.pread(memory, 4, first)) + len(os.pread(pagemap, 8, first // 4096 * 8))
        print(machine.pid, machine.uid, os.fstat(files["upper"]).st_uid, seen, flush=True)
        await trio.sleep(60)

trio.run(main)
"""


async def told(stream: trio.abc.ReceiveStream) -> bytes:
    """One line."""
    line = b""
    while not line.endswith(b"\n") and (more := await stream.receive_some()):
        line += more
    return line


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
async def test_daemon_without_rights_gets_machines_of_another_user(qemu: str, eventually) -> None:
    """A daemon of another user gets a machine of a third, sees its memory, and when killed takes it along."""
    folder = Path(qemu).parent
    folder.chmod(0o777)
    path = folder / "l.sock"
    async with serving(path, qemu, [65534]):
        path.chmod(0o666)
        daemon = await trio.lowlevel.open_process(
            [sys.executable, "-c", DAEMON, str(path), str(folder)], stdout=-1
        )
        assert daemon.stdout
        with trio.fail_after(20):
            pid, uid, owner, seen = map(int, (await told(daemon.stdout)).split())
        assert seen == 12
        assert uid not in (0, 65534)
        assert owner == uid
        await eventually(lambda: os.stat(f"/proc/{pid}").st_uid == uid)
        daemon.kill()
        await daemon.wait()
        await eventually(lambda: born(pid) is None)
