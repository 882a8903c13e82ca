"""A machine that was used, kept in a folder: its memory, the state of its devices, and its disk.

A folder is complete and unharmed or is not used. It is bound to the template its machine came from: another
kernel or another QEMU would load the state and hang.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec
import trio

from runnerd.machines import disks, sealed
from runnerd.machines.disks import write_all
from runnerd.machines.driver import NotKept, Size
from runnerd.machines.pages import Pages
from runnerd.machines.sealed import Room, TooLarge, Unsealed, Writer

_FORMAT = 2
_EXTENT = struct.Struct("<QQ")


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """`snapshot.json`: what a folder holds; hashes are sha256 of the files."""

    format: int = _FORMAT
    driver: str
    template: str
    """Key of the template the machine was cloned from."""
    cast: str = ""
    """`Frozen.cast` of that template; empty where the memory is kept whole and needs none."""
    image: str
    size: Size
    encrypted: bool
    memory: str
    disk: str
    state: str
    """Of the devices' state."""
    bytes: int
    """Of all files together."""


class Draft:
    """A snapshot while it is written: its parts go to `folder`, with `key` and as far as there is `room`."""

    def __init__(self, folder: Path, into: Path, key: bytes | None, limit: int) -> None:
        self.folder = folder
        self.key = key
        self.room = Room(limit, folder)
        self._into = into
        self._limit = limit

    async def finish(
        self,
        *,
        driver: str,
        template: str,
        cast: str = "",
        image: str,
        size: Size,
        memory: str,
        disk: str,
        state: str,
    ) -> None:
        """All parts are written: have it known by its final name. The fields are those of `Snapshot`."""
        kept = Snapshot(
            driver=driver,
            template=template,
            cast=cast,
            image=image,
            size=size,
            encrypted=self.key is not None,
            memory=memory,
            disk=disk,
            state=state,
            bytes=self._limit - self.room.left,
        )
        await trio.to_thread.run_sync(finish, self.folder, kept, self._into)


@asynccontextmanager
async def begun(
    into: Path, machine: str, *, key: bytes | None, limit: int, trouble: type[Exception]
) -> AsyncIterator[Draft]:
    """A snapshot of a machine of this id, which is gone when the context is left unless it was finished.

    Raises NotKept in place of OSError, TooLarge and the monitor's `trouble`.
    """
    folder = into.with_name(f".{into.name}.{machine}")
    try:
        await trio.to_thread.run_sync(partial(folder.mkdir, mode=0o700, parents=True))
        yield Draft(folder, into, key, limit)
    except (trouble, OSError, TooLarge) as error:
        raise NotKept(f"no snapshot was kept: {error}") from error
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(partial(shutil.rmtree, folder, ignore_errors=True))


def write_memory(pages: Pages, folder: Path, key: bytes | None, room: Room) -> str:
    """Keep what a machine has changed of its template's memory, and return the file's hash.

    Blocks. Raises TooLarge and OSError.
    """
    writer = Writer(folder / "memory", key, room)
    with writer:
        writer.write(_EXTENT.pack(pages.size, 0))
        for start, length in pages.changed():
            for at in range(start, start + length, sealed.PIECE):
                data = pages.read(at, min(sealed.PIECE, start + length - at))
                writer.write(_EXTENT.pack(at, len(data)) + data)
    return writer.digest


def read_memory(pages: Pages, folder: Path, key: bytes | None, digest: str) -> None:
    """Change a fresh clone's memory to what was kept. Blocks. Raises Unsealed and OSError."""

    def begin(size: int) -> None:
        if size != pages.size:
            raise Unsealed("the memory is of another size")

    _read_extents(folder / "memory", key, digest, begin, pages.write)


def write_disk(disk: int, folder: Path, key: bytes | None, room: Room) -> str:
    """Keep what a disk holds, and return the file's hash. Blocks. Raises TooLarge and OSError."""
    return write_sparse(disk, folder / "disk", key, room)


def write_sparse(source: int, path: Path, key: bytes | None, room: Room, *, grain: int = sealed.PIECE) -> str:
    """Keep an open file without holes and without pieces of `grain` bytes that are zero; see `write_disk`."""
    writer = Writer(path, key, room)
    with writer:
        writer.write(_EXTENT.pack(os.fstat(source).st_size, 0))
        for start, end in disks.data_extents(source):
            for at in range(start, end, grain):
                data = os.pread(source, min(grain, end - at), at)
                if data.strip(b"\0"):
                    writer.write(_EXTENT.pack(at, len(data)) + data)
    return writer.digest


def read_disk(folder: Path, key: bytes | None, digest: str, into: Path) -> int:
    """Return the descriptor of a nameless disk in `into`'s file system, as it was kept. Blocks.

    Raises Unsealed and OSError; the caller closes the descriptor.
    """
    return read_sparse(folder / "disk", key, digest, partial(disks.empty, into))


def read_sparse(path: Path, key: bytes | None, digest: str, make: Callable[[int], int]) -> int:
    """Return the descriptor that `make` gives for a size, filled with what was kept; see `read_disk`."""
    file = -1

    def begin(size: int) -> None:
        nonlocal file
        file = make(size)

    try:
        _read_extents(path, key, digest, begin, lambda at, data: write_all(file, data, at))
    except BaseException:
        if file >= 0:
            os.close(file)
        raise
    return file


def _read_extents(
    path: Path,
    key: bytes | None,
    digest: str,
    begin: Callable[[int], object],
    put: Callable[[int, bytes], object],
) -> None:
    """Give a file's size to `begin`, then each piece with its place to `put`. Raises Unsealed."""
    buffer = bytearray()
    begun = False

    def take(data: bytes) -> None:
        nonlocal begun
        buffer.extend(data)
        while len(buffer) >= _EXTENT.size:
            at, length = _EXTENT.unpack_from(buffer)
            if not begun:
                begun = True
                begin(at)
                del buffer[: _EXTENT.size]
                continue
            if len(buffer) < _EXTENT.size + length:
                return
            put(at, bytes(buffer[_EXTENT.size : _EXTENT.size + length]))
            del buffer[: _EXTENT.size + length]

    sealed.read(path, key, digest, take)
    if not begun or buffer:
        raise Unsealed(f"the {path.name} is not complete")


def finish(folder: Path, snapshot: Snapshot, final: Path) -> None:
    """Make a folder with all files known by its final name: it appears whole or not at all. Blocks."""
    (folder / "snapshot.json").write_bytes(msgspec.json.encode(snapshot))
    final.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    shutil.rmtree(final, ignore_errors=True)
    folder.rename(final)


def load(folder: Path, size: Size | None = None) -> Snapshot:
    """What a folder holds. Raises Unsealed when it is none, of a version this program does not read, or of a
    machine of another size than is asked for.
    """
    try:
        found = msgspec.json.decode((folder / "snapshot.json").read_bytes(), type=Snapshot)
    except (OSError, msgspec.MsgspecError) as error:
        raise Unsealed(f"there is no snapshot in {folder.name}: {error}") from error
    if found.format != _FORMAT:
        raise Unsealed(f"the snapshot in {folder.name} was made by another version of runnerd")
    if size is not None and found.size != size:
        was, now = (f"{s.vcpus} vCPUs, {s.memory} MiB and a disk of {s.disk} MiB" for s in (found.size, size))
        raise Unsealed(f"its machine has {was}, and the configuration now says {now}")
    return found
