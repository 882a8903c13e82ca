"""Templates: sealed in memory, whole or absent on disk, and never trusted when harmed."""

import errno
import fcntl
import mmap
import os

import pytest

from runnerd.machines import template
from runnerd.machines.disks import MIB, Golden, write_all
from runnerd.machines.template import Frozen

UPPER = Golden(size=8 * MIB, extents=((4096, b"an inode"),))


def frozen(key="k") -> Frozen:
    """A template with data here and there."""
    memory = template.memory_file("memory", 32 * MIB)
    write_all(memory, b"kernel", 0)
    write_all(memory, os.urandom(3 * MIB), 9 * MIB - 100)
    return Frozen(key, memory, b"device state", UPPER)


def test_a_frozen_template_cannot_be_changed():
    """Neither writing nor a shared mapping nor another size is possible; a private mapping is."""
    made = frozen()
    with pytest.raises(PermissionError):
        os.pwrite(made.memory, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(made.memory, 0)
    again = os.open(f"/proc/self/fd/{made.memory}", os.O_RDWR)
    with pytest.raises(PermissionError):
        mmap.mmap(again, 4096, mmap.MAP_SHARED)
    with mmap.mmap(again, 4096, mmap.MAP_PRIVATE) as private:
        private[:6] = b"clone!"
    assert os.pread(made.memory, 6, 0) == b"kernel"
    os.close(again)
    made.close()
    made.close()


def test_what_a_template_holds_grows_with_what_clones_touch_first():
    """It takes what it has data for, and a page more for each that some clone was the first to write to."""
    made = frozen()
    before = made.held
    assert 3 * MIB < before < 5 * MIB
    with mmap.mmap(made.memory, 32 * MIB, mmap.MAP_PRIVATE) as clone:
        for page in range(20 * MIB, 28 * MIB, 4096):
            clone[page] = 1
    assert made.held == before + 8 * MIB
    made.close()


def test_memory_that_is_still_written_is_not_frozen():
    """While somebody has it mapped for writing, freezing fails instead of pretending."""
    memory = template.memory_file("memory", MIB)
    with mmap.mmap(memory, MIB, mmap.MAP_SHARED), pytest.raises(OSError, match="busy") as caught:
        Frozen("k", memory, b"", UPPER)
    assert caught.value.errno == errno.EBUSY
    os.close(memory)


def test_a_saved_template_comes_back_sealed_and_sparse(tmp_path):
    """Memory, state and disk are as they were; holes cost nothing on disk or in memory."""
    made = frozen()
    template.save(tmp_path, made)
    loaded = template.load(tmp_path, "k")
    assert os.pread(loaded.memory, 32 * MIB, 0) == os.pread(made.memory, 32 * MIB, 0)
    assert (loaded.state, loaded.upper) == (made.state, UPPER)
    assert fcntl.fcntl(loaded.memory, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE
    assert os.fstat(loaded.memory).st_blocks * 512 < 4 * MIB
    assert (tmp_path / "template-k/memory").stat().st_blocks * 512 < 4 * MIB
    template.save(tmp_path, made)
    assert [path.name for path in tmp_path.iterdir()] == ["template-k"]
    made.close()
    loaded.close()


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("memory", lambda path: _write(path, 9 * MIB, b"x")),
        ("memory", lambda path: os.truncate(path, MIB)),
        ("memory", lambda path: path.unlink()),
        ("state", lambda path: path.write_bytes(b"device stat!")),
        ("upper", lambda path: _write(path, 5, b"x")),
        ("template.json", lambda path: path.write_bytes(b"{}")),
        ("template.json", lambda path: _write(path, 3, b"\xff")),
    ],
)
def test_a_harmed_template_is_no_template(tmp_path, name, harm):
    """Whatever was changed, cut or lost: nothing is loaded, and nothing raised."""
    made = frozen()
    template.save(tmp_path, made)
    made.close()
    harm(tmp_path / "template-k" / name)
    assert template.load(tmp_path, "k") is None


def _write(path, offset, data):
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def test_a_template_of_another_key_is_not_taken(tmp_path):
    """A folder under a wrong name is not what it says."""
    made = frozen("a")
    template.save(tmp_path, made)
    made.close()
    assert template.load(tmp_path, "b") is None
    (tmp_path / "template-a").rename(tmp_path / "template-b")
    assert template.load(tmp_path, "b") is None


def test_the_templates_used_longest_ago_are_removed(tmp_path):
    """A few stay on disk: the newest, and those that were loaded last."""
    for number in range(4):
        made = frozen(str(number))
        template.save(tmp_path, made)
        made.close()
        os.utime(tmp_path / f"template-{number}", (number, number))
    template.load(tmp_path, "0").close()
    (tmp_path / "other").mkdir()
    made = frozen("4")
    template.save(tmp_path, made)
    made.close()
    here = {path.name for path in tmp_path.iterdir()}
    assert here == {"other", "template-0", "template-2", "template-3", "template-4"}
