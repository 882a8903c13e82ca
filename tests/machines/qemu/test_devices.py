"""The state of devices, from a QEMU that a test plays, and put after its template's beginning."""

from __future__ import annotations

import os
import socket

import pytest
import trio

from runnerd.machines import snapshots
from runnerd.machines.qemu import devices
from runnerd.machines.qemu.qmp import Qmp, QmpError
from runnerd.machines.sealed import Room, Unsealed

from .test_qmp import Played, both

HEAD = b"QEVM\0\0\0\3"


def section(name, number=0, body=b"state"):
    return b"\4" + number.to_bytes(4, "big") + bytes([len(name)]) + name + b"\0\0\0\0\0\0\0\2" + body


TEMPLATE = (
    HEAD + b"\7machine\1\0\0\0\2\3ram-of-roms" + section(b"timer", body=b"old") + section(b"cpu", 4, b"old")
)
SAVED = HEAD + section(b"timer", body=b"new") + section(b"cpu", 4, b"new") + b"\0"


@pytest.fixture
async def monitor():
    ours, theirs = socket.socketpair()
    async with trio.open_nursery() as nursery:
        qemu = Played(theirs)
        monitor = Qmp(ours)
        nursery.start_soon(monitor.run)
        await both(monitor.negotiate(deadline=5), qemu.greet)
        yield monitor, qemu
        monitor.close()
        qemu.socket.close()


async def test_devices_are_saved_into_a_file_that_qemu_is_given(monitor):
    """It is given for writing alone, as QEMU opens it, and taken back."""
    ours, qemu = monitor

    async def play():
        await qemu.answer("add-fd", **{"fdset-id": 3, "fd": 17})
        os.write(qemu.descriptors[0], SAVED)
        asked = await qemu.answer("xen-save-devices-state")
        assert asked["arguments"] == {"filename": "/dev/fdset/3", "live": False}
        assert (await qemu.answer("remove-fd"))["arguments"] == {"fdset-id": 3}

    file = await both(devices.save(ours), play)
    assert os.pread(file, 1000, 0) == SAVED
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.read(qemu.descriptors[0], 1)
    for descriptor in (file, *qemu.descriptors):
        os.close(descriptor)


@pytest.mark.parametrize("refuses", ["add-fd", "xen-save-devices-state"])
async def test_a_qemu_that_cannot_says_so(monitor, refuses):
    """Nothing stays open with it or with us."""
    ours, qemu = monitor
    before = len(os.listdir("/proc/self/fd"))

    async def play():
        if refuses == "add-fd":
            await qemu.answer("add-fd")
            return
        await qemu.answer("add-fd", **{"fdset-id": 3, "fd": 17})
        command = await qemu.command()
        error = {"class": "CommandNotFound", "desc": "The command is not there"}
        await qemu.say({"error": error, "id": command["id"]})
        await qemu.answer("remove-fd")

    with pytest.raises(QmpError, match=f"{refuses}: "):
        await both(devices.save(ours), play)
    for descriptor in qemu.descriptors:
        os.close(descriptor)
    assert len(os.listdir("/proc/self/fd")) == before


def test_saved_devices_take_the_place_of_the_templates():
    """After its machine, capabilities and read-only memory, and with an empty description at the end."""
    found = devices.whole(TEMPLATE, SAVED)
    assert found == HEAD + b"\7machine\1\0\0\0\2\3ram-of-roms" + SAVED[len(HEAD) :] + b"\6\0\0\0\0"


@pytest.mark.parametrize(
    ("beginning", "saved"),
    [
        (TEMPLATE, b""),
        (TEMPLATE, HEAD),
        (TEMPLATE, b"QEVM\0\0\0\2" + SAVED[len(HEAD) :]),
        (TEMPLATE, HEAD + section(b"other") + SAVED[len(HEAD) :]),
        (TEMPLATE + TEMPLATE, SAVED),
        (b"", SAVED),
    ],
)
def test_what_does_not_fit_the_template_is_refused(beginning, saved):
    """Cut off, of another format, with other devices, or not certain."""
    with pytest.raises(Unsealed, match="does not fit"):
        devices.whole(beginning, saved)


def test_kept_devices_are_loaded_whole(tmp_path):
    """From the folder where they are kept, with the template's beginning."""
    file = os.memfd_create("devices")
    os.write(file, SAVED)
    digest = snapshots.write_sparse(file, tmp_path / "state", None, Room(1 << 20))
    os.close(file)
    loaded = devices.load(TEMPLATE, tmp_path, None, digest)
    assert loaded == devices.whole(TEMPLATE, SAVED)
    (tmp_path / "state").write_bytes(b"harmed")
    with pytest.raises(Unsealed):
        devices.load(TEMPLATE, tmp_path, None, digest)
