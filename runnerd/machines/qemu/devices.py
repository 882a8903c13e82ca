"""The state of a stopped machine's devices, without its memory.

A migration would write the memory too: it leaves out only what is shared, and a clone's is private. QEMU has
one command that saves the devices alone: `xen-save-devices-state`, made for Xen, works under any accelerator.
What it writes lacks the beginning that a migration has, and its end: the template's is put before it, and an
empty one behind it.
"""

from __future__ import annotations

import os
import struct
from functools import partial
from pathlib import Path

from runnerd.machines import snapshots, template
from runnerd.machines.qemu.qmp import Qmp, QmpError
from runnerd.machines.sealed import Unsealed

_MAGIC = b"QEVM\0\0\0\3"
_SECTION = struct.Struct(">BIB")
"""A section's type, its number, and how long the name is that follows; then come two numbers of 32 bits."""
_FULL = 4
_DESCRIPTION = b"\6\0\0\0\0"
"""A description of the state, of no length: where there is none QEMU complains on the machine's console."""
_DEADLINE = 10.0


async def save(monitor: Qmp) -> int:
    """Return a file in memory with the devices' state of a stopped machine, which stays stopped.

    The caller closes it. Raises QmpError and OSError.
    """
    state = template.memory_file("runnerd-devices", 0)
    try:
        # QEMU opens what it was given only as it was opened before.
        writing = os.open(f"/proc/self/fd/{state}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            given = await monitor.command("add-fd", descriptor=writing)
        finally:
            os.close(writing)
        number = given.get("fdset-id") if isinstance(given, dict) else None
        if type(number) is not int:
            raise QmpError("add-fd: QEMU did not say where")
        try:
            await monitor.command(
                "xen-save-devices-state",
                {"filename": f"/dev/fdset/{number}", "live": False},
                deadline=_DEADLINE,
            )
        finally:
            await monitor.command("remove-fd", {"fdset-id": number})
        return state
    except BaseException:
        os.close(state)
        raise


def whole(beginning: bytes, saved: bytes) -> bytes:
    """Return what a migration takes in: the devices as they were saved, after the template's beginning.

    Raises Unsealed where the one does not fit the other.
    """
    try:
        kind, _, length = _SECTION.unpack_from(saved, len(_MAGIC))
    except struct.error:
        kind = length = 0
    first = saved[len(_MAGIC) : len(_MAGIC) + _SECTION.size + length + 8]
    if not saved.startswith(_MAGIC) or kind != _FULL or not length or beginning.count(first) != 1:
        raise Unsealed("the state of its devices does not fit its template's")
    return beginning[: beginning.index(first)] + saved[len(_MAGIC) :] + _DESCRIPTION


def load(beginning: bytes, folder: Path, key: bytes | None, digest: str) -> bytes:
    """Return what a migration takes in, of what is kept in a folder.

    `beginning` is the template's own state. Blocks. Raises Unsealed and OSError.
    """
    kept = snapshots.read_sparse(
        folder / "state", key, digest, partial(template.memory_file, "runnerd-devices")
    )
    try:
        return whole(beginning, os.pread(kept, os.fstat(kept).st_size, 0))
    finally:
        os.close(kept)
