"""Disks for machines: sparse files that have no name, so that nothing is left behind whatever happens.

A scratch disk is a copy of an empty ext4 file system made once; a job disk is an empty slot that is
filled with a tar when the machine gets its job.
"""

from __future__ import annotations

import errno
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from runnerd.machines import host

MIB = 2**20

JOB_SLOT = 8192
"""MiB of the job disk as the machine sees it; takes space on the host only for what is put in."""

_MKE2FS = (
    *("-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-i", "16384"),
    # Without a journal, because the disk of a machine that died is never mounted again. The file is known to
    # read as zeros: neither mke2fs nor, later, the machine's kernel writes inode tables.
    *("-O", "^has_journal,^resize_inode,sparse_super2,uninit_bg,^metadata_csum"),
    *("-E", "assume_storage_prezeroed=1,nodiscard,root_owner=0:0,num_backup_sb=0"),
    *("-U", "6d616368-696e-6573-8000-72756e6e6572", "-L", "runnerd"),
)


class Golden(msgspec.Struct, frozen=True, kw_only=True):
    """A disk of `size` bytes that others start from: only the extents that hold data, ready to be written."""

    size: int
    extents: tuple[tuple[int, bytes], ...]

    def copy(self, folder: Path) -> int:
        """Return the descriptor of a fresh disk in `folder`'s file system; the caller closes it."""
        descriptor = empty(folder, self.size)
        try:
            for offset, data in self.extents:
                write_all(descriptor, data, offset)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def golden(size: int) -> Golden:
    """Make the empty file system of `size` MiB.

    Blocks for about 10 ms: call it in a thread. Raises FileNotFoundError with its cure when mke2fs is
    missing, and OSError when it fails.
    """
    (mke2fs,) = host.require("mke2fs")
    with tempfile.TemporaryDirectory(prefix="runnerd-disk-") as folder:
        path = Path(folder, "disk")
        path.touch()
        os.truncate(path, size * MIB)
        done = subprocess.run(
            [mke2fs, *_MKE2FS, str(path)],
            check=False,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
            env={"PATH": host.SEARCH, "E2FSPROGS_FAKE_TIME": "1700000000"},
        )
        if done.returncode != 0:
            said = done.stderr.decode("utf-8", "replace").strip()[-500:]
            raise OSError(errno.EIO, f"mke2fs (e2fsprogs 1.47 or later is needed) failed: {said}")
        with path.open("rb", buffering=0) as file:
            return content(file.fileno())


def content(disk: int) -> Golden:
    """Read what a disk holds; blocks for about a millisecond per MiB of data."""
    extents = []
    for start, end in data_extents(disk):
        for at in range(start, end, MIB):
            data = os.pread(disk, min(MIB, end - at), at)
            if data.strip(b"\0"):
                extents.append((at, data))
    return Golden(size=os.fstat(disk).st_size, extents=tuple(extents))


def empty(folder: Path, size: int) -> int:
    """Return the descriptor of a nameless sparse file of `size` bytes; the caller closes it."""
    with tempfile.TemporaryFile(dir=folder, prefix="runnerd-disk-") as file:
        os.ftruncate(file.fileno(), size)
        return os.dup(file.fileno())


def fill(disk: int, archive: Path, size: int) -> bool:
    """Put an archive at the start of an empty slot of `size` bytes, replacing what was there.

    Blocks: call it in a thread. Returns False, and changes nothing, when the archive is larger than the slot.
    """
    with archive.open("rb", buffering=0) as source:
        length = os.fstat(source.fileno()).st_size
        if length > size:
            return False
        os.ftruncate(disk, 0)
        os.ftruncate(disk, size)
        copy_range(source.fileno(), disk, 0, length)
    return True


def copy_range(source: int, target: int, start: int, end: int) -> None:
    """Copy bytes `start` to `end` between two files, at the same place in both."""
    while start < end:
        try:
            done = os.copy_file_range(source, target, end - start, start, start)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            data = os.pread(source, min(end - start, 4 * MIB), start)
            write_all(target, data, start)
            done = len(data)
        if done == 0:
            raise OSError(errno.EIO, "the file became shorter while it was copied")
        start += done


def data_extents(descriptor: int) -> Iterator[tuple[int, int]]:
    """Yield the (start, end) of every stretch of a file that is not a hole.

    They are looked for one by one: a guest makes millions of them where it wants to.
    """
    at, size = 0, os.fstat(descriptor).st_size
    while at < size:
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            raise
        at = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, at


def in_memory(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether what is written into a folder stays in memory: its file system is a tmpfs or a ramfs.

    Where there is no such folder it is to be made below the nearest that there is.
    """
    device = next(each for each in (folder, *folder.absolute().parents) if each.exists()).stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.read_text().splitlines():
        mount, _, source = line.partition(" - ")
        if mount.split()[2] == wanted:
            return source.split()[0] in ("tmpfs", "ramfs")
    return False


def sync(path: Path) -> None:
    """Have a file's bytes, or the names in a folder, outlive a power cut. Blocks. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of the data at an offset."""
    view = memoryview(data)
    while view:
        done = os.pwrite(descriptor, view, offset)
        view, offset = view[done:], offset + done
