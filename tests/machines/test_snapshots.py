"""The folder of a kept machine, without a machine."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from runnerd.machines import disks, snapshots
from runnerd.machines.driver import Size
from runnerd.machines.sealed import Room, TooLarge, Unsealed
from runnerd.machines.snapshots import Snapshot

KEY = bytes(range(32))
SIZE = 64 << 20


def used_disk(folder: Path) -> int:
    disk = disks.empty(folder, SIZE)
    for at in (0, 5_000_000, SIZE - 4096):
        disks.write_all(disk, os.urandom(4096), at)
    return disk


def everything(disk: int) -> bytes:
    return os.pread(disk, SIZE, 0)


@pytest.mark.parametrize("key", [None, KEY])
def test_disk_is_kept_where_it_has_data(tmp_path: Path, key: bytes | None) -> None:
    """A sparse disk takes little, and comes back byte by byte at its whole size."""
    disk, room = used_disk(tmp_path), Room(1 << 20)
    digest = snapshots.write_disk(disk, tmp_path, key, room)
    back = snapshots.read_disk(tmp_path, key, digest, tmp_path)
    assert everything(back) == everything(disk)
    assert os.fstat(back).st_size == SIZE
    assert (tmp_path / "disk").stat().st_size < 100_000
    for descriptor in (disk, back):
        os.close(descriptor)


def test_disk_larger_than_the_room_is_not_kept(tmp_path: Path) -> None:
    """The bound holds for disks."""
    disk = used_disk(tmp_path)
    with pytest.raises(TooLarge):
        snapshots.write_disk(disk, tmp_path, None, Room(5000))
    os.close(disk)


@pytest.mark.parametrize("key", [None, KEY])
def test_memory_goes_through_pipes(tmp_path: Path, key: bytes | None) -> None:
    """What is written into one pipe comes out of another, later."""
    data = os.urandom(3_000_000)
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as pipe:
        thread = threading.Thread(target=lambda: (pipe.write(data), pipe.close()))
        thread.start()
        digest = snapshots.write_memory(reading, tmp_path, key, Room(1 << 30))
        thread.join()
    reading, writing = os.pipe()
    thread = threading.Thread(target=snapshots.read_memory, args=(writing, tmp_path, key, digest))
    thread.start()
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read() == data
    thread.join()


def test_folder_appears_whole(tmp_path: Path) -> None:
    """A folder under its final name can be read; anything else is none, and says so."""
    kept = Snapshot(
        driver="qemu",
        template="t",
        image="default",
        size=Size(),
        encrypted=False,
        memory="",
        disk="",
        bytes=1,
    )
    (tmp_path / "work").mkdir()
    with pytest.raises(Unsealed, match="there is no snapshot in work"):
        snapshots.load(tmp_path / "work")
    snapshots.finish(tmp_path / "work", kept, tmp_path / "run/step-1")
    assert (
        snapshots.load(tmp_path / "run/step-1") == snapshots.load(tmp_path / "run/step-1", kept.size) == kept
    )
    with pytest.raises(Unsealed, match=r"its machine has 2 vCPUs, .* and the configuration now says 7 vCPUs"):
        snapshots.load(tmp_path / "run/step-1", Size(vcpus=7))
    assert not (tmp_path / "work").exists()
    (tmp_path / "run/step-1/snapshot.json").write_text('{"format": 1}')
    with pytest.raises(Unsealed):
        snapshots.load(tmp_path / "run/step-1")


def test_half_a_disk_is_refused(tmp_path: Path) -> None:
    """A file whose extents do not add up is no disk, whatever its digest says."""
    from hashlib import sha256

    (tmp_path / "disk").write_bytes((4096).to_bytes(8, "little") + bytes(8) + b"\1" * 20)
    digest = sha256((tmp_path / "disk").read_bytes()).hexdigest()
    with pytest.raises(Unsealed, match="not complete"):
        snapshots.read_disk(tmp_path, None, digest, tmp_path)
