"""A job's folders and files made by one request."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from .conftest import Host


def lay_out(
    host: Host, folders: Sequence[Path] = (), files: Sequence[Path] = (), **fields: object
) -> dict[str, object]:
    asked = {"programs": [], "search": "", "user": 1001, **fields}
    return host.call("lay_out", folders=list(map(str, folders)), files=list(map(str, files)), **asked)


def test_folders_and_files_are_made(host: Host) -> None:
    """With their parents, files empty and readable for all, as a umask of 022 makes them."""
    files = [host.root / f"t/{name}" for name in "ab"] + [host.root / "u/c"]
    assert lay_out(host, [host.root / "w/r/r", host.root / "t"], files) == {"found": {}}
    assert (host.root / "w/r/r").is_dir()
    for path in files:
        assert path.read_bytes() == b""
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755


def test_what_was_there_is_replaced(host: Host, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A link is replaced and not followed, as is a file that has another name too; a folder stays."""
    outside = tmp_path_factory.mktemp("outside") / "file"
    outside.write_text("secret")
    (host.root / "link").symlink_to(outside)
    (host.root / "dangling").symlink_to(outside.parent / "absent")
    os.link(outside, host.root / "other")
    os.mkfifo(host.root / "fifo")
    (host.root / "folder").mkdir()
    (host.root / "folder/kept").write_text("")
    names = ("link", "dangling", "other", "fifo")
    assert lay_out(host, [host.root / "folder"], [host.root / name for name in names]) == {"found": {}}
    assert os.listdir(outside.parent) == ["file"]
    assert outside.read_text() == "secret"
    for name in names:
        assert stat.S_ISREG((host.root / name).lstat().st_mode)
        assert (host.root / name).read_bytes() == b""
    assert lay_out(host, [], [host.root / "folder"])["errno"] == 21
    assert (host.root / "folder/kept").exists()


def test_links_on_the_way_lead_nowhere_else(host: Host, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing is made through a folder that is a link to the outside, or outside altogether."""
    outside = tmp_path_factory.mktemp("outside")
    (host.root / "way").symlink_to(outside)
    assert "error" in lay_out(host, [host.root / "way/folder"])
    assert "error" in lay_out(host, [], [host.root / "way/file"])
    assert lay_out(host, [outside / "folder"])["errno"] == 13
    assert lay_out(host, [], [outside / "file"])["errno"] == 13
    assert "error" in lay_out(host, [], [host.root / ".."])
    assert os.listdir(outside) == []


def test_programs_are_found_where_they_are_looked_for(host: Host, tmp_path: Path) -> None:
    """The first folder that has a regular file to run; relative folders and closed files do not count."""
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        for name in ("tool", "folder", "closed"):
            (folder / name).write_text("")
            (folder / name).chmod(0o755)
    (first / "closed").chmod(0o644)
    (first / "folder").unlink()
    (first / "folder").mkdir()
    (first / "link").symlink_to("tool")
    (first / "dangling").symlink_to("absent")
    names = ["tool", "folder", "closed", "link", "dangling", "absent", "a\0b"]
    found = lay_out(host, programs=names, search=f":.:first:{tmp_path}/absent:{first}:{second}")["found"]
    assert found == {
        "tool": f"{first}/tool",
        "folder": f"{second}/folder",
        "closed": f"{second}/closed",
        "link": f"{first}/link",
    }
