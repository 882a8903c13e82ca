"""The launcher's side, spoken to in raw packets; what a right client sees is in `test_launch_client.py`."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import msgspec
import pytest
import trio

from runnerd.machines import launch_server
from runnerd.machines import launch_wire as wire
from runnerd.machines.driver import Size
from runnerd.machines.launcher import LaunchFailed
from runnerd.machines.qemu import vmm


class NeverStarts:
    """A launcher that starts nothing, and counts how often it was asked."""

    separate = True
    groups = None

    def __init__(self) -> None:
        self.asked = 0

    async def start(self, order):
        self.asked += 1
        raise LaunchFailed("not today")


@pytest.mark.parametrize(
    ("packets", "descriptors"),
    [
        ([b"garbage"], []),
        ([b'{"type": "start"}'], []),
        ([b'{"type": "stop", "name": "daemon"}'], []),
        ([b"\xff" * 1000], []),
        ([msgspec.json.encode(wire.Stop(name="never-started")), b"x"], []),
    ],
)
async def test_faulty_client_is_cut_off_alone(tmp_path: Path, packets, descriptors) -> None:
    """Whatever one sends, it is cut off and the next one is served; nothing was started for it."""
    listener = launch_server.listen(tmp_path / "l.sock")
    launcher = NeverStarts()
    async with trio.open_nursery() as nursery:
        await nursery.start(
            lambda task_status: launch_server.serve(
                listener, launcher, qemu="/bin/false", users=[os.geteuid()], task_status=task_status
            )
        )
        for _ in range(2):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as faulty:
                faulty.connect(str(tmp_path / "l.sock"))
                for packet in packets:
                    faulty.send(packet)
                with trio.fail_after(30):
                    assert await trio.to_thread.run_sync(faulty.recv, 100) == b""
        nursery.cancel_scope.cancel()
    listener.close()
    assert launcher.asked == 0


def test_socket_is_its_owners_and_a_groups(tmp_path: Path) -> None:
    """Only the owner may connect, and a group where one is named; an old socket is replaced."""
    for group, mode in ((None, 0o600), (os.getegid(), 0o660)):
        with launch_server.listen(tmp_path / "l.sock", group=group):
            found = (tmp_path / "l.sock").stat()
            assert stat.S_IMODE(found.st_mode) == mode
            assert os.listdir(tmp_path) == ["l.sock"]


def test_socket_listens_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody who sees it is refused; one that never comes to listen leaves nothing, and the old one stays."""
    path = tmp_path / "l.sock"
    listen = socket.socket.listen

    def watched(listener: socket.socket, backlog: int) -> None:
        assert not path.exists()
        listen(listener, backlog)

    monkeypatch.setattr(socket.socket, "listen", watched)
    with launch_server.listen(path), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(str(path))
        with pytest.raises(AssertionError):
            launch_server.listen(path)
        assert os.listdir(tmp_path) == ["l.sock"]


class Lingering:
    """A machine that has ended, and whose `stop` takes until `gone` is set."""

    pid = uid = born = 1

    def __init__(self) -> None:
        self.gone = trio.Event()

    async def wait(self) -> int:
        return -9

    async def stop(self) -> None:
        with trio.CancelScope(shield=True):
            await self.gone.wait()


class StartsLingering:
    """A launcher whose machines end at once, but are not gone before they are told."""

    separate = True
    groups = None

    def __init__(self) -> None:
        self.started: list[Lingering] = []

    async def start(self, order):
        self.started.append(Lingering())
        return self.started[-1]


async def test_name_is_free_when_its_machine_is_gone(tmp_path: Path) -> None:
    """A name is refused while the machine that had it still ends, so that no machine is lost sight of.

    One that was asked to end, and is long in it, holds up no other request.
    """
    size = Size(vcpus=1, memory=64, disk=0)
    recipe = vmm.Recipe(accelerator="tcg", size=size, tsc_khz=0, purpose=vmm.Purpose.PROBE)
    wanted = vmm.descriptors_of(vmm.Purpose.PROBE)
    listener = launch_server.listen(tmp_path / "l.sock")
    launcher = StartsLingering()

    def ask(client: socket.socket, number: int) -> None:
        request = wire.Start(number=number, name="a", recipe=recipe, descriptors=wanted)
        null = os.open(os.devnull, os.O_RDONLY)
        socket.send_fds(client, [msgspec.json.encode(request)], [null] * len(wanted))
        os.close(null)

    async def hear(client: socket.socket) -> object:
        with trio.fail_after(30):
            data = await trio.to_thread.run_sync(client.recv, 1000)
        return msgspec.json.decode(data, type=wire.Reply)

    async with trio.open_nursery() as nursery:
        await nursery.start(
            lambda task_status: launch_server.serve(
                listener, launcher, qemu="/bin/false", users=[os.geteuid()], task_status=task_status
            )
        )
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.connect(str(tmp_path / "l.sock"))
            ask(client, 1)
            assert isinstance(await hear(client), wire.Started)
            client.send(msgspec.json.encode(wire.Stop(name="a")))
            ask(client, 2)
            refused = await hear(client)
            assert isinstance(refused, wire.Refused)
            assert "has not ended yet" in refused.reason
            launcher.started[0].gone.set()
            assert isinstance(await hear(client), wire.Ended)
            ask(client, 3)
            assert isinstance(await hear(client), wire.Started)
            launcher.started[1].gone.set()
            assert isinstance(await hear(client), wire.Ended)
        nursery.cancel_scope.cancel()
    listener.close()
