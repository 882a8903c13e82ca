"""Memory, devices and disk between a jail and a folder; whole machines are in `test_driver_snapshot.py`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runnerd.machines.disks import MIB
from runnerd.machines.driver import Size
from runnerd.machines.firecracker import keeping
from runnerd.machines.firecracker.jail import Jail
from runnerd.machines.sealed import Room

SIZE = Size(vcpus=1, memory=8, disk=1)


@pytest.fixture
def prison(short: Path) -> Jail:
    """A jail in which a Firecracker wrote a machine's memory and state."""
    jail = Jail(short, "id", os.getuid())
    jail.prepare({}, {})
    memory = bytearray(8 * MIB)
    memory[3 * MIB : 3 * MIB + 4] = b"word"
    jail.inside("kept-memory").write_bytes(memory)
    jail.inside("kept-state").write_bytes(b"devices")
    return jail


def test_memory_is_kept_without_its_zeros(prison: Jail, tmp_path: Path) -> None:
    """A grain that holds something is kept, and the jail holds neither file any more."""
    keeping.take_memory(prison, SIZE, tmp_path, None, Room(MIB))
    assert keeping.GRAIN < (tmp_path / "memory").stat().st_size < keeping.GRAIN + 100
    assert b"devices" in (tmp_path / "state").read_bytes()
    assert not list(prison.root.glob("kept*"))


def test_files_that_are_not_what_they_should_be(prison: Jail, tmp_path: Path) -> None:
    """A link out of the jail is not followed, and memory of another size is no memory."""
    (tmp_path / "secret").write_bytes(bytes(8 * MIB))
    prison.inside("kept-memory").unlink()
    prison.inside("kept-memory").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="symbolic links"):
        keeping.take_memory(prison, SIZE, tmp_path, None, Room(MIB))
    assert not list(prison.root.glob("kept*"))
    for name in ("kept-memory", "kept-state"):
        prison.inside(name).write_bytes(b"short")
    with pytest.raises(OSError, match="has not the size"):
        keeping.take_memory(prison, SIZE, tmp_path, None, Room(MIB))
    os.mkfifo(prison.inside("upper"))
    with pytest.raises(OSError, match="/upper in the jail is no file"):
        keeping.take_disk(prison, tmp_path, None, Room(MIB))


def test_full_file_system_is_found_out_before(prison: Jail) -> None:
    """A machine is not stopped for a snapshot that cannot be written."""
    keeping.check_space(prison, SIZE)
    with pytest.raises(OSError, match="are free"):
        keeping.check_space(prison, Size(memory=1 << 40))
