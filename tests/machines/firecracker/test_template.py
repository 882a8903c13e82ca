"""A frozen machine on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from runnerd.machines.driver import Size
from runnerd.machines.firecracker import template
from runnerd.machines.firecracker.versions import Version

SAME = {"image": "a", "size": Size(), "processor": "epyc", "kernel": "6.1"}


def work(folder: Path) -> Path:
    folder.mkdir()
    for name in template.FILES:
        (folder / name).write_bytes(name.encode())
    return folder


def test_whole_template_is_found(tmp_path: Path) -> None:
    """A saved folder is found under its key, for reading only, and under no other key."""
    template.save(work(tmp_path / "work"), tmp_path / "t", "k")
    assert template.load(tmp_path / "t", "k")
    assert not template.load(tmp_path / "t", "other")
    assert not template.load(tmp_path / "absent", "k")
    assert (tmp_path / "t/memory").stat().st_mode & 0o222 == 0


@pytest.mark.parametrize("harm", ["memory", "state", "upper"])
def test_harmed_template_is_none(tmp_path: Path, harm: str) -> None:
    """A file of another size, or a state that was changed, is not loaded."""
    template.save(work(tmp_path / "work"), tmp_path / "t", "k")
    file = tmp_path / "t" / harm
    file.chmod(0o644)
    file.write_bytes(b"STATE" if harm == "state" else b"longer than it was")
    assert not template.load(tmp_path / "t", "k")


def test_key_changes_with_all_that_matters() -> None:
    """Another version, image, size, processor or kernel of the host is another template."""
    keys = {
        template.key(version=Version(*version), **{**SAME, **change})
        for version, change in (
            ((1, 16, 1), {}),
            ((1, 16, 2), {}),
            ((1, 16, 1), {"image": "b"}),
            ((1, 16, 1), {"size": Size(memory=1)}),
            ((1, 16, 1), {"processor": "xeon"}),
            ((1, 16, 1), {"kernel": "6.2"}),
        )
    }
    assert len(keys) == 6


def test_links_are_not_taken(tmp_path: Path) -> None:
    """What a jail's user put in place of a file is not followed."""
    (tmp_path / "jail").mkdir()
    (tmp_path / "work").mkdir()
    (tmp_path / "jail/memory").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="has no file memory"):
        template.take(tmp_path / "jail", tmp_path / "work")
