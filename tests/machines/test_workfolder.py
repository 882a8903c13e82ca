"""Folders in which something is made: each its maker's own, and gone with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from runnerd.machines import workfolder
from runnerd.machines.workfolder import work_folder

DIES = """
import os, signal, sys
from pathlib import Path
from runnerd.machines.workfolder import work_folder
with work_folder(Path(sys.argv[1])) as folder:
    (folder / "half").write_bytes(b"done")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_it_is_gone_at_the_end_and_what_was_made_stays(tmp_path):
    """Whether it came to its end, was renamed, or failed."""
    with work_folder(tmp_path / "new") as work:
        assert work.parent == tmp_path / "new"
        (work / "file").write_bytes(b"")
    assert not list((tmp_path / "new").iterdir())
    with work_folder(tmp_path / "new") as work:
        (work / "file").write_bytes(b"")
        work.rename(tmp_path / "new/whole")
    with pytest.raises(ValueError, match="no"), work_folder(tmp_path / "new"):
        raise ValueError("no")
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "whole", "file"]


def test_the_next_removes_what_a_killed_one_left_and_nothing_else(tmp_path):
    """Another maker's, who is at work, stays."""
    with work_folder(tmp_path) as other:
        done = subprocess.run([sys.executable, "-c", DIES, tmp_path], check=False)
        assert done.returncode == -signal.SIGKILL
        assert len(list(tmp_path.iterdir())) == 2
        with work_folder(tmp_path) as work:
            assert set(tmp_path.iterdir()) == {other, work}
        assert list(tmp_path.iterdir()) == [other]


def test_one_that_is_taken_for_left_at_its_birth_is_made_anew(tmp_path, monkeypatch):
    """Another looks at it between its making and its lock."""
    real, taken = workfolder._locked, []

    def late(folder):
        if not taken:
            taken.append(folder)
            os.rmdir(folder)
            return real(tmp_path)
        return real(folder)

    monkeypatch.setattr(workfolder, "_locked", late)
    with work_folder(tmp_path) as work:
        assert work.exists()
        assert work not in taken
