"""The folder of a jail, and the jailer's command line."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from runnerd.machines.firecracker import jail
from runnerd.machines.firecracker.jail import Jail


def test_jail_has_its_files_and_goes(tmp_path: Path) -> None:
    """Shared files are the same files, own ones are sparse copies of the machine's user; all of it goes."""
    base = Path("/tmp") / f"fc-{os.getpid()}"
    shared = tmp_path / "rootfs"
    shared.write_bytes(b"image")
    source = os.open(tmp_path / "upper", os.O_RDWR | os.O_CREAT)
    os.pwrite(source, b"data", 5 << 20)
    prison = Jail(base, "abc-1", os.geteuid())
    try:
        prison.prepare({"image": shared}, {"upper": source})
        assert prison.inside("/image").read_bytes() == b"image"
        upper = prison.inside("upper")
        assert upper.stat().st_size == (5 << 20) + 4
        assert upper.stat().st_blocks * 512 < 1 << 20
        assert upper.read_bytes()[-4:] == b"data"
        assert prison.api.parent.is_dir()
        assert [each.folder for each in jail.left(base, "abc")] == [prison.folder]
        assert jail.left(base, "x") == []
    finally:
        prison.remove()
        prison.remove()
        os.close(source)
    assert jail.left(base, "") == []
    (base / "firecracker").rmdir()
    base.rmdir()
    assert jail.left(base, "") == []


def test_long_folder_is_refused() -> None:
    """A socket's path has to fit; the sentence says so before anything is made."""
    with pytest.raises(ValueError, match="too long a path for the sockets"):
        Jail(Path("/" + "x" * 80), "abc-1", 1)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (0, ""),
        (os.ST_NODEV | os.ST_NOSUID, "mounted nodev, and"),
        (os.ST_NODEV | os.ST_NOEXEC, "nodev and noexec"),
    ],
)
def test_folder_that_no_jail_can_be_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: int, said: str
) -> None:
    """A jail has devices and a program, which many a tmpfs forbids; the folder need not be there yet."""
    asked = []

    def statvfs(path: Path) -> SimpleNamespace:
        asked.append(path)
        return SimpleNamespace(f_flag=flags)

    monkeypatch.setattr(os, "statvfs", statvfs)
    assert said in jail.unfit(tmp_path / "state/jails")
    assert bool(jail.unfit(tmp_path)) == bool(said)
    assert asked == [tmp_path, tmp_path]


def test_command_line(tmp_path: Path) -> None:
    """A user and a namespace of its own, bounds where there are groups, and never PCI."""
    prison = Jail(Path("/srv"), "abc-1", 4242)
    words = jail.command("/j", "/f", prison, base=Path("/srv"), memory=272, cgroup="runnerd.slice")
    text = " ".join(words)
    assert text.startswith("/j --id abc-1 --exec-file /f --uid 4242 --gid 4242 --chroot-base-dir /srv")
    assert "--cgroup-version 2 --parent-cgroup runnerd.slice --cgroup memory.max=285212672" in text
    assert text.endswith("--new-pid-ns -- --api-sock /run/api.sock")
    assert "pci" not in text
    assert "--cgroup" not in jail.command("/j", "/f", prison, base=Path("/srv"), memory=1, cgroup=None)
