"""Files as streams: whole, bounded, and of no use to who lacks the key or changes a byte."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from runnerd.machines import sealed
from runnerd.machines.sealed import PIECE, Room, TooLarge, Unsealed, Writer, read

KEY = bytes(range(32))


def write(path: Path, data: bytes, key: bytes | None, room: int = 1 << 30) -> str:
    writer = Writer(path, key, Room(room))
    with writer:
        for start in range(0, len(data), 300_001):
            writer.write(data[start : start + 300_001])
    return writer.digest


def reread(path: Path, key: bytes | None, digest: str) -> bytes:
    found = bytearray()
    read(path, key, digest, found.extend)
    return bytes(found)


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 7])
@pytest.mark.parametrize("key", [None, KEY])
def test_what_was_written_is_read(tmp_path: Path, size: int, key: bytes | None) -> None:
    """Any number of bytes comes back as it was, with a key and without; the file is its owner's alone."""
    data = os.urandom(size)
    digest = write(tmp_path / "f", data, key)
    assert reread(tmp_path / "f", key, digest) == data
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o600


def test_encrypted_bytes_are_not_the_bytes(tmp_path: Path) -> None:
    """Nothing of what was written can be read on the disk, and twice the same gives different files."""
    data = b"a secret that is long enough to be found" * 10
    write(tmp_path / "1", data, KEY)
    write(tmp_path / "2", data, KEY)
    first, second = (tmp_path / "1").read_bytes(), (tmp_path / "2").read_bytes()
    assert b"a secret" not in first
    assert first[48:80] != second[48:80]


def test_another_key_is_refused(tmp_path: Path) -> None:
    """The wrong key gives an error and no bytes."""
    digest = write(tmp_path / "f", b"x" * 100, KEY)
    with pytest.raises(Unsealed, match="another key"):
        reread(tmp_path / "f", bytes(32), digest)


@pytest.mark.parametrize("key", [None, KEY])
def test_change_is_seen_before_a_byte_is_given(tmp_path: Path, key: bytes | None) -> None:
    """One changed byte, or a missing end, and nothing is given to anybody."""
    digest = write(tmp_path / "f", os.urandom(2 * PIECE), key)
    whole = (tmp_path / "f").read_bytes()
    given: list[bytes] = []
    for harmed in (whole[:-1], whole[:100] + bytes([whole[100] ^ 1]) + whole[101:]):
        (tmp_path / "f").write_bytes(harmed)
        with pytest.raises(Unsealed, match="is not what was written"):
            read(tmp_path / "f", key, digest, given.append)
    assert given == []


def test_pieces_cannot_be_left_out_or_moved(tmp_path: Path) -> None:
    """Also who can forge the digest cannot drop the last piece, or exchange two."""
    from hashlib import sha256

    write(tmp_path / "f", os.urandom(3 * PIECE), KEY)
    whole = (tmp_path / "f").read_bytes()
    head, one, two, three = whole[:48], *(whole[48 + n * (PIECE + 16) :][: PIECE + 16] for n in range(3))
    assert head + one + two + three == whole
    for forged in (head + one + two, head + two + one + three, b"x" + whole[1:], head):
        (tmp_path / "f").write_bytes(forged)
        with pytest.raises(Unsealed):
            reread(tmp_path / "f", KEY, sha256(forged).hexdigest())


@pytest.mark.parametrize("key", [None, KEY])
def test_file_stops_growing_at_its_bound(tmp_path: Path, key: bytes | None) -> None:
    """More than there is room for is an error, before it is on the disk."""
    with pytest.raises(TooLarge):
        write(tmp_path / "f", bytes(5 * PIECE), key, room=2 * PIECE)
    assert (tmp_path / "f").stat().st_size <= 2 * PIECE


def test_the_disk_is_looked_at_while_it_fills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others write there as well, whatever room there was at the beginning; of a small disk a part stays."""
    disks = [(100 << 30, 2 << 30), (100 << 30, 1 << 30), (100 << 30, (1 << 30) - 1)]
    seen = []

    def usage(folder: Path) -> SimpleNamespace:
        seen.append(folder)
        total, free = disks[len(seen) - 1]
        return SimpleNamespace(total=total, free=free)

    monkeypatch.setattr(sealed.shutil, "disk_usage", usage)
    room = Room(1 << 40, tmp_path)
    room.take((32 << 20) - 1)
    room.take(16 << 20)
    with pytest.raises(OSError, match="the disk is nearly full"):
        room.take(16 << 20)
    assert seen == [tmp_path] * 3
    disks[:] = [(1 << 30, 200 << 20), (1 << 30, 100 << 20)]
    seen.clear()
    room.take(16 << 20)
    with pytest.raises(OSError, match="the disk is nearly full"):
        room.take(16 << 20)
