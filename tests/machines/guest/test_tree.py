"""Paths that must not lead out of a folder."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runnerd.machines.guest.tree import Tree, regular


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outside").write_text("outside")
    inside = tmp_path / "root"
    (inside / "etc").mkdir(parents=True)
    (inside / "etc/name").write_text("inside")
    (inside / "up").symlink_to("../..")
    (inside / "absolute").symlink_to("/etc")
    (inside / "out").symlink_to(str(tmp_path))
    (inside / "last").symlink_to("etc/name")
    return inside


@pytest.fixture
def tree(root: Path) -> Iterator[Tree]:
    opened = Tree(str(root))
    yield opened
    opened.close()


@pytest.fixture
def confined(root: Path) -> Iterator[Tree]:
    opened = Tree(str(root), confined=True)
    yield opened
    opened.close()


def content(fd: int) -> str:
    with os.fdopen(fd) as file:
        return file.read()


@pytest.mark.parametrize("path", ["/etc/name", "/absolute/name", "/up/up/etc/name", "/../../etc/name"])
def test_links_are_followed_as_if_the_root_were_everything(tree: Tree, path: str) -> None:
    """Absolute links and `..` end at the tree's root, as in a chroot."""
    assert content(tree.open(path, os.O_RDONLY)) == "inside"


@pytest.mark.parametrize("path", ["/outside", "/up/outside", "/out/outside", "/etc/../../outside"])
def test_nothing_outside_is_reached(tree: Tree, path: str) -> None:
    """What lies beside the root is not there."""
    with pytest.raises(FileNotFoundError):
        tree.open(path, os.O_RDONLY)


def test_last_component_is_not_followed(tree: Tree) -> None:
    """A link in the last place is not opened."""
    with pytest.raises(OSError, match="symbolic links"):
        tree.open("/last", os.O_RDONLY)


def test_what_links_lead_to_is_told(tree: Tree, root: Path) -> None:
    """All links are followed, none of them out of the root."""
    assert tree.stat("/last").st_ino == (root / "etc/name").stat().st_ino
    with pytest.raises(FileNotFoundError):
        tree.stat("/out/outside")


def test_confined_paths_mean_what_they_say(confined: Tree, root: Path) -> None:
    """A confined tree takes the host's paths, and refuses those outside and links that lead out."""
    assert content(confined.open(f"{root}/etc/name", os.O_RDONLY)) == "inside"
    with pytest.raises(PermissionError, match="outside of the machine's folder"):
        confined.open("/etc/passwd", os.O_RDONLY)
    with pytest.raises(PermissionError):
        confined.open(f"{root}x", os.O_RDONLY)
    for path in (f"{root}/../outside", f"{root}/up/outside", f"{root}/out/outside"):
        with pytest.raises(OSError):  # noqa: PT011 - EXDEV, which has no class of its own
            confined.open(path, os.O_RDONLY)


def test_folders_are_made_where_they_are_missing(tree: Tree, root: Path) -> None:
    """A folder's parents are made, through links inside and never through links out."""
    os.close(tree.folder("/absolute/a/b/c", None))
    assert (root / "etc/a/b/c").is_dir()
    os.close(tree.folder("/absolute/a/b/c", None))
    with pytest.raises(NotADirectoryError):
        tree.folder("/etc/name/x", None)


def test_dangling_link_is_no_way_out(tree: Tree, root: Path) -> None:
    """A folder is not made through a link to nowhere."""
    (root / "dangling").symlink_to("/nowhere/at/all")
    with pytest.raises(FileNotFoundError):
        tree.folder("/dangling", None)
    assert not (root / "nowhere").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give files away")
def test_new_folders_belong_to_the_user(tree: Tree, root: Path) -> None:
    """What is made belongs to the user; what was there keeps its owner."""
    os.close(tree.folder("/etc/a/b", 1001))
    assert [(root / path).stat().st_uid for path in ("etc", "etc/a", "etc/a/b")] == [0, 1001, 1001]


def test_relative_paths_and_nul_are_refused(tree: Tree) -> None:
    """A path is absolute and has no NUL in it."""
    for path in ("etc/name", "", "/etc\0/name"):
        with pytest.raises(ValueError, match="not an absolute path"):
            tree.open(path, os.O_RDONLY)


def test_only_regular_files_of_allowed_size(tree: Tree, root: Path) -> None:
    """Folders, fifos and devices are not files, and a file above the limit is refused by its size."""
    fd = tree.open("/etc/name", os.O_RDONLY)
    assert regular(fd, 6) == 6
    with pytest.raises(ValueError, match="6 bytes, 5 are allowed"):
        regular(fd, 5)
    os.close(fd)
    os.mkfifo(root / "fifo")
    for path in ("/fifo", "/etc"):
        fd = tree.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with pytest.raises(ValueError, match="not a regular file"):
            regular(fd, 100)
        os.close(fd)


def test_racing_renames_never_show_the_outside(tree: Tree, root: Path) -> None:
    """While folders on the way are swapped for links, only the inside is ever seen."""
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            os.rename(root / "etc", root / "gone")
            os.symlink(root.parent, root / "etc")
            os.unlink(root / "etc")
            os.rename(root / "gone", root / "etc")

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for _ in range(2000):
            with pytest.raises((FileNotFoundError, BlockingIOError)):
                tree.open("/etc/outside", os.O_RDONLY)
    finally:
        stop.set()
        swapper.join()
