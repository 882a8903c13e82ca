"""Disks of machines: nameless, sparse, and right to the byte."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from runnerd.machines import disks, host

MIB = disks.MIB


@pytest.fixture(scope="module")
def golden():
    """An empty file system of 1 GiB."""
    return disks.golden(1024)


def test_a_golden_disk_is_a_sound_empty_ext4(golden, tmp_path):
    """What a copy holds passes the file system's own check, and has no journal and no reserved blocks."""
    disk = golden.copy(tmp_path)
    path = f"/proc/self/fd/{disk}"
    (e2fsck, dumpe2fs) = (host.find(name) for name in ("e2fsck", "dumpe2fs"))
    checked = subprocess.run([e2fsck, "-fn", path], pass_fds=[disk], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    told = subprocess.run([dumpe2fs, "-h", path], pass_fds=[disk], capture_output=True, text=True).stdout
    assert "has_journal" not in told
    assert "Reserved block count:     0" in told
    os.close(disk)


def test_copies_are_sparse_nameless_and_quick(golden, tmp_path):
    """A copy has the whole size, takes little space and few milliseconds of a core, and has no name."""
    took = []
    for _ in range(20):
        start = time.thread_time()
        disk = golden.copy(tmp_path)
        took.append(time.thread_time() - start)
        status = os.fstat(disk)
        assert status.st_size == 1024 * MIB
        assert status.st_blocks * 512 < MIB
        assert status.st_nlink == 0
        os.close(disk)
    assert min(took) < 0.005
    assert list(tmp_path.iterdir()) == []


def test_content_reads_what_was_written(tmp_path):
    """A disk's content is its data wherever it lies, without its holes and zeros."""
    disk = disks.empty(tmp_path, 64 * MIB)
    written = {0: b"start", 5 * MIB - 3: b"across a boundary", 63 * MIB: bytes(MIB)}
    for offset, data in written.items():
        disks.write_all(disk, data, offset)
    copy = disks.content(disk).copy(tmp_path)
    for offset, data in written.items():
        assert os.pread(copy, len(data), offset) == data
    assert os.pread(copy, 64, 20 * MIB) == bytes(64)
    assert os.fstat(copy).st_blocks * 512 < 3 * MIB
    os.close(disk)
    os.close(copy)


def test_a_slot_is_filled_again_and_again(tmp_path):
    """A filled slot starts with the archive and is empty behind it, whatever was in it before."""
    slot = disks.empty(tmp_path, 8 * MIB)
    long, short = tmp_path / "long", tmp_path / "short"
    long.write_bytes(os.urandom(3 * MIB + 17))
    short.write_bytes(b"short")
    for archive in (long, short):
        assert disks.fill(slot, archive, 8 * MIB)
        data = archive.read_bytes()
        assert os.pread(slot, 8 * MIB, 0) == data + bytes(8 * MIB - len(data))
    os.close(slot)


def test_an_archive_that_is_too_large_changes_nothing(tmp_path):
    """A slot that is too small says so and keeps what it held."""
    slot = disks.empty(tmp_path, MIB)
    disks.write_all(slot, b"before", 0)
    (tmp_path / "archive").write_bytes(bytes(MIB + 1))
    assert not disks.fill(slot, tmp_path / "archive", MIB)
    assert os.pread(slot, 6, 0) == b"before"
    os.close(slot)


def test_copying_works_between_file_systems(tmp_path):
    """Where the kernel cannot copy between two files itself, the bytes are carried."""
    (tmp_path / "source").write_bytes(os.urandom(MIB))
    memory = os.memfd_create("target")
    with (tmp_path / "source").open("rb") as source:
        disks.copy_range(source.fileno(), memory, 100, MIB)
    assert os.pread(memory, MIB, 0) == bytes(100) + (tmp_path / "source").read_bytes()[100:]
    os.close(memory)


@pytest.mark.parametrize(("kind", "so"), [("tmpfs", True), ("ramfs", True), ("ext4", False)])
def test_it_is_known_whether_files_are_in_memory(tmp_path, kind, so):
    """By the file system that the folder, or the nearest there is above it, is of."""
    device = tmp_path.stat().st_dev
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "21 1 0:999999 / /elsewhere rw - ext4 /dev/a rw\n"
        f"22 1 {os.major(device)}:{os.minor(device)} / /a\\040place rw shared:1 - {kind} none rw\n"
    )
    assert disks.in_memory(tmp_path / "not/there yet", mounts) is so
    mounts.write_text("21 1 0:999999 / /elsewhere rw - tmpfs /dev/a rw\n")
    assert not disks.in_memory(tmp_path, mounts)


def test_the_hosts_own_mounts_are_read():
    """Where /dev/shm is what it is by its documentation."""
    with open("/proc/mounts") as mounts:
        if " /dev/shm tmpfs " not in mounts.read():
            pytest.skip("/dev/shm is no tmpfs here")
    assert disks.in_memory(Path("/dev/shm"))
    assert not disks.in_memory(Path("/proc"))


def test_what_is_to_be_durable_must_be_there(tmp_path):
    """A file and a folder can be made durable; what is not there, or no more, is not passed over."""
    (tmp_path / "file").write_bytes(b"data")
    disks.sync(tmp_path / "file")
    disks.sync(tmp_path)
    with pytest.raises(FileNotFoundError):
        disks.sync(tmp_path / "gone")
