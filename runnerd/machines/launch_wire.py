"""What a daemon and a launcher of its own say to each other: one message a packet, descriptors beside it.

The launcher is root and the daemon is not: a request names nothing that the launcher would run, read or
write. It says how large a machine is and what for, and brings the machine's files as open descriptors.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Sequence
from typing import Annotated

import msgspec
import trio

from runnerd.machines.driver import Size
from runnerd.machines.qemu import vmm

PACKET = 1 << 16
"""Bytes of one message at most."""
DESCRIPTORS = 16
"""Descriptors that come with one message at most."""

Name = Annotated[str, msgspec.Meta(pattern=r"^(?!daemon$)[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
"""A machine's name, and its control group's: never that of the group the launcher itself is in."""


class Start(msgspec.Struct, frozen=True, kw_only=True, tag="start", forbid_unknown_fields=True):
    """Start a machine; its descriptors come with the message, in the order of `descriptors`."""

    number: int
    name: Name
    recipe: vmm.Recipe
    descriptors: tuple[str, ...]


class Stop(msgspec.Struct, frozen=True, kw_only=True, tag="stop", forbid_unknown_fields=True):
    """End a machine that this connection started, or do nothing."""

    name: Name


class Look(msgspec.Struct, frozen=True, kw_only=True, tag="look", forbid_unknown_fields=True):
    """Open the memory of a machine that this connection started."""

    number: int
    name: Name


class Started(msgspec.Struct, frozen=True, kw_only=True, tag="started"):
    """The machine of request `number` runs."""

    number: int
    pid: int
    uid: int
    born: int


class Opened(msgspec.Struct, frozen=True, kw_only=True, tag="opened"):
    """Request `number`: the descriptors of `Vmm.open_memory` come with the message."""

    number: int


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """Request `number` was not carried out."""

    number: int
    reason: str


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag="ended"):
    """A machine has ended, whoever ended it, and its user is free; a negative status is a signal."""

    name: str
    status: int


Request = Start | Stop | Look
Reply = Started | Opened | Refused | Ended


class Malformed(ValueError):
    """A message that is none; says what is wrong with it."""


def decode_request(data: bytes) -> Request:
    """A request, checked in every field. Raises `Malformed`."""
    try:
        request: Request = msgspec.json.decode(data, type=Request)
    except msgspec.MsgspecError as error:
        raise Malformed(str(error)) from error
    if isinstance(request, Start):
        wanted = vmm.descriptors_of(request.recipe.purpose)
        if sorted(request.descriptors) != sorted(wanted):
            raise Malformed(f"a {request.recipe.purpose.value} takes the descriptors {', '.join(wanted)}")
        check_size(request.recipe.size)
    return request


def check_size(size: Size) -> None:
    """Let no number through that QEMU's command line was not made for. Raises `Malformed`."""
    if not (1 <= size.vcpus <= 256 and 32 <= size.memory <= 4 << 20 and 0 <= size.disk <= 64 << 20):
        raise Malformed(f"no machine has {size.vcpus} processors, {size.memory} MiB and {size.disk} MiB")


async def send(to: trio.socket.SocketType, message: Request | Reply, descriptors: Sequence[int] = ()) -> None:
    """Send one message. Raises OSError."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    await to.sendmsg([msgspec.json.encode(message)], rights)


def receive_now(socket_: socket.socket, flags: int = 0) -> tuple[bytes, list[int]]:
    """One packet and its descriptors, which the caller closes; no bytes when the other side has gone.

    Raises BlockingIOError where nothing is there and nobody wants to wait, `Malformed` and OSError.
    """
    room = socket.CMSG_SPACE(DESCRIPTORS * array.array("i").itemsize)
    data, ancillary, seen, _ = socket_.recvmsg(PACKET, room, flags | socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    if seen & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        for descriptor in descriptors:
            os.close(descriptor)
        raise Malformed("a message that is too long")
    return data, list(descriptors)
