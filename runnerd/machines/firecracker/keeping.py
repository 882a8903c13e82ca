"""Memory and devices of a used machine on their way between its jail and the folder where it is kept.

Firecracker writes both as files into the jail, where they stay readable for the moment until they are sealed;
so it is with what it loads again, which loses its name as soon as it was loaded. What is to be encrypted is
therefore kept only where jails are in memory. All here blocks.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from functools import partial
from pathlib import Path

from runnerd.machines import disks, snapshots
from runnerd.machines.disks import MIB
from runnerd.machines.driver import Size
from runnerd.machines.firecracker.jail import Jail
from runnerd.machines.firecracker.requests import DEVICES, MEMORY, RAM, STATE
from runnerd.machines.sealed import Room
from runnerd.machines.snapshots import Snapshot

STATE_LIMIT = 16 * MIB
"""Bytes of a state: it holds registers and queues, and is a hundred times less."""
GRAIN = 65536
"""Bytes of memory that are left out together when they are zero."""


def why_plain(jails: Path) -> str:
    """Why the memory of a machine that holds secrets may not pass through jails there; empty where it may."""
    if disks.in_memory(jails):
        return ""
    return f"Firecracker would write the secrets in its memory to a disk in plain, for {jails} is no tmpfs"


def check_space(jail: Jail, size: Size) -> None:
    """Raise OSError when the jail has no room for the memory, before the machine is stopped in vain."""
    free = shutil.disk_usage(jail.root).free
    if free < size.memory * MIB + STATE_LIMIT:
        raise OSError(
            errno.ENOSPC, f"its memory takes {size.memory} MiB on the way, and {free // MIB} are free"
        )


def take_disk(jail: Jail, folder: Path, key: bytes | None, room: Room) -> str:
    """Keep the machine's disk while it stands still; the hash. Raises TooLarge and OSError."""
    disk = _open(jail, "/upper")
    try:
        return snapshots.write_disk(disk, folder, key, room)
    finally:
        os.close(disk)


def take_memory(jail: Jail, size: Size, folder: Path, key: bytes | None, room: Room) -> tuple[str, str]:
    """Keep what Firecracker wrote, and remove it from the jail; the hashes of memory and state.

    The jail is where the machine's user may do as it likes. Raises TooLarge and OSError.
    """
    try:
        memory, state = _open(jail, RAM), _open(jail, DEVICES)
        try:
            if os.fstat(memory).st_size != size.memory * MIB or os.fstat(state).st_size > STATE_LIMIT:
                raise OSError(errno.EIO, "what Firecracker wrote has not the size of its memory and state")
            return (
                snapshots.write_sparse(memory, folder / "memory", key, room, grain=GRAIN),
                snapshots.write_sparse(state, folder / "state", key, room),
            )
        finally:
            os.close(memory)
            os.close(state)
    finally:
        forget(jail)


def put_back(jail: Jail, *, folder: Path, kept: Snapshot, key: bytes | None) -> None:
    """Put memory and state where Firecracker loads them. Raises Unsealed and OSError."""
    for name, digest, path in (("memory", kept.memory, MEMORY), ("state", kept.state, STATE)):
        os.close(snapshots.read_sparse(folder / name, key, digest, partial(jail.create, path)))


def forget(jail: Jail, *, loaded: bool = False) -> None:
    """Take memory and state out of the jail; a Firecracker that has `loaded` them goes on with them."""
    for path in (MEMORY, STATE) if loaded else (RAM, DEVICES):
        jail.inside(path).unlink(missing_ok=True)


def _open(jail: Jail, path: str) -> int:
    file = os.open(jail.inside(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EIO, f"{path} in the jail is no file")
    return file


def deadline(size: Size) -> float:
    """Seconds in which a machine's memory is written."""
    return 10.0 + size.memory / 64
