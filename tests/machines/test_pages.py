"""Which pages of a mapped file are a process's own, with this process in the place of a machine's."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runnerd.machines import pages as module
from runnerd.machines.pages import PAGE, Area, Pages, areas, open_process

COUNT = 1500
"""Pages: more than are looked at together."""


@pytest.fixture(scope="module", autouse=True)
def looks_at_few_pages_together():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_READ", 512 * 8)
        yield


@pytest.fixture(scope="module")
def template():
    file = os.memfd_create("runnerd-template")
    os.ftruncate(file, COUNT * PAGE)
    os.pwrite(file, b"t" * PAGE * 3, 5 * PAGE)
    yield file
    os.close(file)


def pages_of(file):
    return Pages(open_process(os.getpid()), inode=os.fstat(file).st_ino, size=os.fstat(file).st_size)


def runs(numbers):
    """Sorted pages as (offset, length) of each run."""
    found = []
    for number in sorted(numbers):
        if found and sum(found[-1]) == number * PAGE:
            found[-1] = (found[-1][0], found[-1][1] + PAGE)
        else:
            found.append((number * PAGE, PAGE))
    return found


@settings(max_examples=30)
@given(
    written=st.sets(st.integers(0, COUNT - 1), max_size=40),
    read=st.sets(st.integers(0, COUNT - 1), max_size=40),
)
@example(written={511, 512, 1023, COUNT - 1}, read={0, 1024})
def test_what_was_written_is_the_processs_own_and_what_was_read_is_not(template, written, read):
    """Whatever pages they are: neighbours become one run, and each reads as it was written."""
    with mmap.mmap(template, COUNT * PAGE, flags=mmap.MAP_PRIVATE) as memory:
        for number in written:
            memory[number * PAGE] = 1 + number % 200
        assert all(memory[number * PAGE] is not None for number in read)
        pages = pages_of(template)
        try:
            found = list(pages.changed())
            assert found == runs(written)
            for start, length in found:
                data = pages.read(start, length)
                assert data == memory[start : start + length]
        finally:
            pages.close()


def test_what_is_written_is_the_processs_alone(template):
    """The file stays as it was, and the page counts as changed."""
    with mmap.mmap(template, COUNT * PAGE, flags=mmap.MAP_PRIVATE) as memory:
        pages = pages_of(template)
        pages.write(6 * PAGE - 2, b"over")
        assert memory[6 * PAGE - 3 : 6 * PAGE + 3] == b"tovert"
        assert list(pages.changed()) == [(5 * PAGE, 2 * PAGE)]
        for offset in (-1, COUNT * PAGE - 1):
            with pytest.raises(OSError, match="no such memory"):
                pages.write(offset, b"xx")
        pages.close()
        pages.close()
    assert os.pread(template, PAGE, 5 * PAGE) == b"t" * PAGE


@pytest.mark.parametrize("flags", [None, mmap.MAP_SHARED])
def test_memory_that_is_not_mapped_as_a_clones_is_refused(template, flags):
    """Not at all, or shared with others; no descriptor is left."""
    before = len(os.listdir("/proc/self/fd"))
    memory = None if flags is None else mmap.mmap(template, COUNT * PAGE, flags=flags)
    with pytest.raises(OSError, match="not mapped"):
        pages_of(template)
    if memory is not None:
        memory.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_process_that_is_none_is_not_opened():
    """OSError, and nothing is left open."""
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="No such file"):
        open_process(2**22 + 1)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not")
def test_a_process_that_may_not_be_seen_is_said_so():
    """With the right that lacks."""
    # It becomes somebody else behind the imports, which he may not read.
    script = """if True:
        import os
        from runnerd.machines.pages import open_process
        os.setuid(65534)
        try:
            open_process(os.getppid())
        except PermissionError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "CAP_SYS_PTRACE" in done.stdout


def test_areas_are_those_of_the_file_in_the_order_of_its_bytes():
    """Parts of one mapping may have different rights; other files and other ways to map do not count."""
    maps = b"""\
7f10000000-7f10002000 rw-p 00003000 00:01 77   /memfd:runnerd-template (deleted)
7f20000000-7f20003000 rw-p 00000000 00:01 77   /memfd:runnerd-template (deleted)
7f30000000-7f30003000 rw-s 00000000 00:01 77   /memfd:runnerd-template (deleted)
7f40000000-7f40003000 r--p 00000000 00:01 77   /memfd:runnerd-template (deleted)
7f50000000-7f50003000 rw-p 00000000 00:01 78   /memfd:runnerd-template (deleted)
7f60000000-7f60003000 rw-p 00000000 08:01 77   /usr/lib/a file
7f70000000-7f70003000 rw-p 00000000 00:00 0
"""
    assert areas(maps, 77) == [
        Area(0x7F20000000, 0x7F20003000, 0),
        Area(0x7F10000000, 0x7F10002000, 0x3000),
    ]
