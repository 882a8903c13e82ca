"""A state directory has one daemon; the lock dies with its process and never before."""

import os
import stat
import subprocess
import sys

import pytest

from runnerd.store.errors import CannotOpen
from runnerd.store.lock import StateLock


def test_a_second_one_is_refused_by_name(tmp_path):
    """The refusal says which process holds the directory and what to do."""
    lock = StateLock(tmp_path / "state")
    with pytest.raises(CannotOpen, match=f"in use by the process {os.getpid()}: stop that one first"):
        StateLock(tmp_path / "state")
    lock.release()
    lock.release()
    StateLock(tmp_path / "state").release()


def test_the_directory_is_private(tmp_path):
    """A directory that is made for the state is open to nobody else."""
    StateLock(tmp_path / "a" / "state").release()
    assert stat.S_IMODE((tmp_path / "a" / "state").stat().st_mode) == 0o700


def test_a_killed_holder_holds_nothing(tmp_path):
    """After SIGKILL the directory can be used at once, with no file to remove by hand."""
    program = "import sys; from pathlib import Path; from runnerd.store.lock import StateLock;"
    program += "lock = StateLock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(CannotOpen, match=f"process {child.pid}"):
            StateLock(tmp_path)
        child.kill()
        child.wait()
    StateLock(tmp_path).release()


def test_a_directory_that_cannot_be(tmp_path):
    """A path that is no directory is refused with a sentence."""
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotOpen, match="cannot be used"):
        StateLock(tmp_path / "file" / "state")
