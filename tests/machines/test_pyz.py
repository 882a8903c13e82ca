"""The packed agent."""

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from runnerd.machines import pyz


def test_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    """Packing twice, whatever time and folder, gives the same file, whose hash is returned."""
    first = pyz.pack(tmp_path / "one.pyz")
    second = pyz.pack(tmp_path / "two.pyz")
    data = (tmp_path / "one.pyz").read_bytes()
    assert first == second == hashlib.sha256(data).hexdigest()
    assert data == (tmp_path / "two.pyz").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.pyz") as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.namelist()[1:] == sorted(archive.namelist()[1:])


def test_it_holds_every_source_and_nothing_packed(tmp_path: Path) -> None:
    """All of guest/ is in it, stored so that a Python without zlib can read it."""
    pyz.pack(tmp_path / "agent.pyz")
    with zipfile.ZipFile(tmp_path / "agent.pyz") as archive:
        names = {Path(name).name for name in archive.namelist()}
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
    assert names == {path.name for path in (Path(pyz.__file__).parent / "guest").glob("*.py")}


def test_it_replaces_an_older_one_whole(tmp_path: Path) -> None:
    """Whoever has the old file open keeps it; no half-written file is ever there."""
    out = tmp_path / "agent.pyz"
    out.write_bytes(b"old")
    with out.open("rb") as old:
        pyz.pack(out)
        assert old.read() == b"old"
    assert os.listdir(tmp_path) == ["agent.pyz"]


def test_it_runs_in_an_isolated_interpreter(tmp_path: Path) -> None:
    """With -I -S -B and no environment it starts, and needs nothing beside it."""
    pyz.pack(tmp_path / "agent.pyz")
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "agent.pyz", "--nonsense"],
        cwd=tmp_path,
        env={},
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.stderr.startswith("runnerd-agent: --nonsense")
    assert os.listdir(tmp_path) == ["agent.pyz"]
