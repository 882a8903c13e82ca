"""The folder of a kept machine, without a machine."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from runnerd.machines import disks, snapshots
from runnerd.machines.driver import NotKept, Size
from runnerd.machines.pages import Pages, open_process
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


@contextmanager
def mapped(file: int) -> Iterator[tuple[mmap.mmap, Pages]]:
    """A file in memory as a clone maps it, and this process's pages of it."""
    size = os.fstat(file).st_size
    with mmap.mmap(file, size, flags=mmap.MAP_PRIVATE) as memory:
        pages = Pages(open_process(os.getpid()), inode=os.fstat(file).st_ino, size=size)
        try:
            yield memory, pages
        finally:
            pages.close()


@pytest.mark.parametrize("key", [None, KEY])
def test_memory_is_kept_where_it_was_changed(tmp_path: Path, key: bytes | None) -> None:
    """What one process changed of its memory another has after it; what was not changed takes no room."""
    template = os.memfd_create("template")
    os.write(template, b"t" * (8 << 20))
    with mapped(template) as (memory, pages):
        memory[5_000_000:5_000_005] = b"first"
        memory[0:1] = b"x"
        memory[3 << 20 : 6 << 20] = b"m" * (3 << 20)
        expected = bytes(memory)
        digest = snapshots.write_memory(pages, tmp_path, key, Room(4 << 20))
    assert (tmp_path / "memory").stat().st_size < 3.1 * (1 << 20)
    with mapped(template) as (memory, pages):
        snapshots.read_memory(pages, tmp_path, key, digest)
        assert bytes(memory) == expected
    assert os.pread(template, 1, 0) == b"t"
    os.truncate(template, 4 << 20)
    with mapped(template) as (_, pages), pytest.raises(Unsealed, match="another size"):
        snapshots.read_memory(pages, tmp_path, key, digest)
    os.close(template)


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
        state="",
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


def test_disk_in_many_pieces_is_given_up_as_soon_as_there_is_no_room(tmp_path: Path, monkeypatch) -> None:
    """Nobody looks for all of them first: a guest makes millions where it wants to."""
    disk = disks.empty(tmp_path, 64 << 20)
    for at in range(0, 64 << 20, 64 << 10):
        os.pwrite(disk, b"data", at)
    looked = []
    seek = os.lseek

    def counted(*arguments: int) -> int:
        looked.append(arguments)
        return seek(*arguments)

    monkeypatch.setattr(os, "lseek", counted)
    with pytest.raises(TooLarge):
        snapshots.write_disk(disk, tmp_path, None, Room(20_000))
    assert 2 < len(looked) < 20
    os.close(disk)


class Trouble(Exception):
    """A monitor's."""


@pytest.mark.parametrize("error", [Trouble("it fails"), OSError("it fails"), TooLarge("it fails"), None])
async def test_what_is_not_finished_is_gone(tmp_path: Path, error: Exception | None) -> None:
    """Whatever it is that ends it; the reason is told as one that it was not kept for."""
    with pytest.raises(NotKept, match="no snapshot was kept: it fails") if error else nullcontext():
        async with snapshots.begun(tmp_path / "step", "m-1", key=None, limit=100, trouble=Trouble) as draft:
            assert draft.folder == tmp_path / ".step.m-1"
            (draft.folder / "memory").write_bytes(b"half")
            if error is not None:
                raise error
    assert os.listdir(tmp_path) == []


async def test_what_is_finished_says_what_it_is(tmp_path: Path) -> None:
    """It is there under its name, with how much it takes and whether it is encrypted."""
    parts = {"memory": "m", "disk": "d", "state": "s", "template": "t", "image": "i", "driver": "qemu"}
    async with snapshots.begun(tmp_path / "step", "m-1", key=bytes(32), limit=100, trouble=Trouble) as draft:
        draft.room.take(60)
        await draft.finish(size=Size(), **parts)
    assert os.listdir(tmp_path) == ["step"]
    found = snapshots.load(tmp_path / "step")
    assert (found.bytes, found.encrypted, found.cast) == (60, True, "")
    assert {name: getattr(found, name) for name in parts} == parts
