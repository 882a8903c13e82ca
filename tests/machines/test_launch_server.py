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
from runnerd.machines.launcher import LaunchFailed


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
                with trio.fail_after(10):
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
