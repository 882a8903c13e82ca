"""A template: the memory and device state of a machine that was booted once and frozen.

In memory it is a sealed file that no process can change, not even one that maps it; on disk it is a
folder that is complete and unharmed or is not used.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from pathlib import Path

import msgspec

from runnerd.machines.disks import MIB, Golden, data_extents, write_all
from runnerd.machines.workfolder import work_folder

_CHUNK = 4 * MIB
_FORMAT = 1
_KEPT = 4
"""Templates that stay on disk, the most lately used ones: one per size and image in use."""

_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Frozen:
    """A template in memory, ready to be cloned. Holds a descriptor until it is closed."""

    def __init__(self, key: str, memory: int, state: bytes, upper: Golden) -> None:
        """Take over `memory` and seal it: from now on it never changes.

        `upper` is the scratch disk as it was when the machine was frozen, in the middle of its use.
        Raises OSError (EBUSY) while somebody still has the memory mapped for writing.
        """
        self.key = key
        self.cast = hashlib.sha256(state).hexdigest()
        """Tells it from every other that was booted under the same key: no two come to rest alike."""
        self.memory = memory
        self.state = state
        self.upper = upper
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)

    @property
    def held(self) -> int:
        """Bytes of the host's memory that it takes now.

        It grows to its full size at most: the kernel gives a page that a clone is the first of all to
        touch to the template as well.
        """
        return os.fstat(self.memory).st_blocks * 512

    def close(self) -> None:
        """Let go of the memory once no clone uses it any more; safe to call twice."""
        if self.memory >= 0:
            os.close(self.memory)
        self.memory = -1


def memory_file(name: str, size: int) -> int:
    """Return the descriptor of an empty file in memory that can be sealed."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    return descriptor


class _Saved(msgspec.Struct, frozen=True, kw_only=True):
    """`template.json`: what makes a folder trustworthy; hashes are sha256."""

    format: int
    key: str
    size: int
    extents: list[tuple[int, int]]
    memory: str
    state: str
    upper: str


def save(folder: Path, frozen: Frozen) -> None:
    """Write a template below `folder`, only where it holds data; it appears whole or not at all.

    Blocks for about a millisecond per MiB: call it in a thread.
    """
    with work_folder(folder) as work:
        size = os.fstat(frozen.memory).st_size
        extents = list(data_extents(frozen.memory))
        with (work / "memory").open("w+b", buffering=0) as file:
            os.ftruncate(file.fileno(), size)
            digest = _copy(frozen.memory, file.fileno(), extents)
            os.fsync(file.fileno())
        upper = msgspec.msgpack.encode(frozen.upper)
        (work / "state").write_bytes(frozen.state)
        (work / "upper").write_bytes(upper)
        saved = _Saved(
            format=_FORMAT,
            key=frozen.key,
            size=size,
            extents=extents,
            memory=digest,
            state=hashlib.sha256(frozen.state).hexdigest(),
            upper=hashlib.sha256(upper).hexdigest(),
        )
        (work / "template.json").write_bytes(msgspec.json.encode(saved))
        final = folder / _name(frozen.key)
        shutil.rmtree(final, ignore_errors=True)
        try:
            work.rename(final)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            # Another daemon saved the same template at the same time: one is as good as the other.
    prune(folder, keep=_name(frozen.key))


def load(folder: Path, key: str) -> Frozen | None:
    """Read a template into memory, or return None when it is absent, of another make, or harmed.

    Blocks for about a millisecond per MiB of data: call it in a thread.
    """
    path = folder / _name(key)
    try:
        saved = msgspec.json.decode((path / "template.json").read_bytes(), type=_Saved)
        state, upper = (path / "state").read_bytes(), (path / "upper").read_bytes()
        hashes = (hashlib.sha256(state).hexdigest(), hashlib.sha256(upper).hexdigest())
        if (saved.format, saved.key, *hashes) != (_FORMAT, key, saved.state, saved.upper):
            return None
        disk = msgspec.msgpack.decode(upper, type=Golden)
        with (path / "memory").open("rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size != saved.size:
                return None
            memory = memory_file("runnerd-template", saved.size)
            try:
                if _copy(file.fileno(), memory, saved.extents) != saved.memory:
                    os.close(memory)
                    return None
            except OSError:
                os.close(memory)
                return None
        os.utime(path)
    except (OSError, msgspec.DecodeError):
        return None
    return Frozen(key, memory, state, disk)


def is_saved(folder: Path, key: str) -> bool:
    """Whether a template is there to be read, harmed or not. Blocks."""
    return (folder / _name(key) / "template.json").is_file()


def prune(folder: Path, *, keep: str) -> None:
    """Remove the templates that were not used for longest."""
    paths = [path for path in folder.iterdir() if path.is_dir() and path.name != keep]
    saved = [path for path in paths if path.name.startswith("template-")]
    saved.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in saved[_KEPT - 1 :]:
        shutil.rmtree(path, ignore_errors=True)


def _name(key: str) -> str:
    return f"template-{key}"


def _copy(source: int, target: int, extents: list[tuple[int, int]]) -> str:
    """Copy the extents to the same places and return the hash of what was copied."""
    digest = hashlib.sha256()
    buffer = bytearray(_CHUNK)
    for start, end in extents:
        at = start
        while at < end:
            view = memoryview(buffer)[: min(end - at, _CHUNK)]
            done = os.preadv(source, [view], at)
            if done == 0:
                raise OSError("the file ended early")
            digest.update(view[:done])
            write_all(target, view[:done], at)
            at += done
    return digest.hexdigest()
