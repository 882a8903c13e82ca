"""What a launcher takes for a request, and what it does not."""

from __future__ import annotations

import os
import socket

import msgspec
import pytest
import trio

from runnerd.machines import launch_wire as wire
from runnerd.machines.driver import Size
from runnerd.machines.launch_wire import Malformed
from runnerd.machines.qemu import vmm

RECIPE = vmm.Recipe(
    accelerator="tcg", size=Size(vcpus=1, memory=256, disk=64), tsc_khz=1, purpose=vmm.Purpose.CLONE
)
START = wire.Start(number=1, name="runnerd-1", recipe=RECIPE, descriptors=vmm.descriptors())


def changed(**fields) -> bytes:
    return msgspec.json.encode(msgspec.to_builtins(START) | {"type": "start"} | fields)


def recipe(**fields) -> dict:
    return msgspec.to_builtins(RECIPE) | fields


def test_requests_are_read_back() -> None:
    """Both verbs survive the way."""
    for request in (START, wire.Stop(name="runnerd-1")):
        assert wire.decode_request(msgspec.json.encode(request)) == request


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"type": "exec", "argv": ["/bin/sh"]}',
        changed(argv=["/bin/sh"]),
        changed(name="../../etc"),
        changed(name="-M"),
        changed(name="x" * 101),
        changed(name="a b"),
        changed(descriptors=["kernel"]),
        changed(descriptors=[*vmm.descriptors()[:-1], "other"]),
        changed(descriptors=["kernel"] * len(vmm.descriptors())),
        changed(recipe=recipe(purpose="other")),
        changed(recipe=recipe(accelerator="xen")),
        changed(recipe=recipe(qemu="/bin/sh")),
        changed(recipe=recipe(tsc_khz="1,readonly=off")),
        changed(recipe=recipe(size={"vcpus": 0, "memory": 256, "disk": 1})),
        changed(recipe=recipe(size={"vcpus": 1, "memory": 1 << 40, "disk": 1})),
        changed(recipe=recipe(size={"vcpus": 1, "memory": 256, "disk": -1})),
    ],
)
def test_what_is_no_request_is_refused(data: bytes) -> None:
    """No field can hold a program, a path, an option or a size that nobody has."""
    with pytest.raises(Malformed):
        wire.decode_request(data)


async def test_descriptors_travel_with_their_message() -> None:
    """What arrives is the same files under other numbers, closed on exec."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    file = os.memfd_create("x")
    os.write(file, b"content")
    with ours, theirs, trio.socket.from_stdlib_socket(ours) as sending:
        await wire.send(sending, wire.Stop(name="a"), [file, file])
        data, descriptors = wire.receive_now(theirs)
        assert wire.decode_request(data) == wire.Stop(name="a")
        assert [os.pread(descriptor, 9, 0) for descriptor in descriptors] == [b"content"] * 2
        assert not any(os.get_inheritable(descriptor) for descriptor in descriptors)
        with pytest.raises(BlockingIOError):
            wire.receive_now(theirs, socket.MSG_DONTWAIT)
        for descriptor in (*descriptors, file):
            os.close(descriptor)


def test_too_much_is_refused_and_nothing_is_kept() -> None:
    """A message longer than a packet, or with too many files, is none; its files are closed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        before = len(os.listdir("/proc/self/fd"))
        socket.send_fds(ours, [b"{}"], [0] * 40)
        with pytest.raises(Malformed, match="too long"):
            wire.receive_now(theirs)
        ours.send(b"x" * (wire.PACKET + 1))
        with pytest.raises(Malformed, match="too long"):
            wire.receive_now(theirs)
        assert len(os.listdir("/proc/self/fd")) == before
