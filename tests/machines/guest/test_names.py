"""The files that carry a machine's identity."""

import os
from pathlib import Path

import pytest

from runnerd.machines.guest.names import Names
from runnerd.machines.guest.tree import Tree

FIRST = {"hostname": "template-with-a-long-name", "machine_id": "a" * 32, "boot_id": "6c13d3f4-7b7a"}
SECOND = {"hostname": "clone", "machine_id": "b" * 32, "boot_id": "9b3927d7-0a4a"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "state").mkdir()
    return tmp_path / "root"


def read(root: Path) -> tuple[str, ...]:
    paths = [
        *(root / "etc" / name for name in ("hostname", "hosts", "machine-id")),
        root.parent / "state/boot_id",
    ]
    return tuple(path.read_text() for path in paths)


def test_each_writing_replaces_the_one_before(root: Path) -> None:
    """After every thaw the files hold this machine's names and nothing of the template's."""
    names = Names(Tree(str(root)), str(root.parent / "state"))
    assert read(root) == ("", "", "", "")
    for identity in (FIRST, SECOND, FIRST):
        host = identity["hostname"]
        names.write(identity)
        assert read(root) == (
            f"{host}\n",
            f"127.0.0.1 localhost {host}\n::1 localhost\n",
            f"{identity['machine_id']}\n",
            f"{identity['boot_id']}\n",
        )


def test_links_of_the_image_are_replaced_and_never_followed(root: Path) -> None:
    """Where an image has a link, a file takes its place, and what it led to keeps its content."""
    target = root.parent / "target"
    target.write_text("kept")
    (root / "etc/hostname").symlink_to(target)
    (root / "etc/machine-id").symlink_to("/nowhere")
    Names(Tree(str(root)), str(root.parent / "state")).write(SECOND)
    assert target.read_text() == "kept"
    assert not (root / "etc/hostname").is_symlink()
    assert read(root)[0] == "clone\n"
    assert sorted(os.listdir(root / "etc")) == ["hostname", "hosts", "machine-id"]


def test_image_without_etc_gets_one(root: Path) -> None:
    """Even an empty image has its names."""
    (root / "etc").rmdir()
    Names(Tree(str(root)), str(root.parent / "state")).write(SECOND)
    assert read(root)[2] == "b" * 32 + "\n"
