"""The jail of one Firecracker: the folder it is locked in, its command line, and the end of both."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from runnerd.machines import disks

API = "run/api.sock"
LONGEST = 107
"""Bytes of a Unix socket's path."""


class Jail:
    """The folder of one machine. Its methods block for a moment: call them in a thread."""

    def __init__(self, base: Path, id: str, uid: int, program: str = "firecracker") -> None:
        """The jailer names the folder of its jails, and a file, after its `program`.

        Raises ValueError where a socket's path would be too long.
        """
        self.id = id
        self.uid = uid
        self.folder = base / program / id
        self.root = self.folder / "root"
        self.pid_file = self.root / f"{program}.pid"
        self.base = base
        """Where jails are made."""
        if len(os.fsencode(self.root / "v.sock_00000")) > LONGEST:
            raise ValueError(f"the folder {base} is too long a path for the sockets of a machine")

    @property
    def api(self) -> Path:
        """Where Firecracker's API listens."""
        return self.root / API

    def inside(self, path: str) -> Path:
        """Where a path of the jail is on the host."""
        return self.root / path.lstrip("/")

    def prepare(
        self,
        shared: Mapping[str, Path],
        own: Mapping[str, int],
        fill: Callable[[Jail], None] = lambda jail: None,
    ) -> None:
        """Make the folder; give it files that all machines share, and the content of files of its own.

        Shared files are hard links, or copies where the jail is on another file system, and stay root's. What
        `own` has by descriptor is copied where it holds data, and belongs to the machine's user. `fill` puts
        in the rest. Raises OSError and what `fill` raises; then the jail is gone.
        """
        try:
            self._prepare(shared, own)
            fill(self)
        except BaseException:
            self.remove()
            raise

    def _prepare(self, shared: Mapping[str, Path], own: Mapping[str, int]) -> None:
        (self.root / "run").mkdir(parents=True)
        for folder in (self.root, self.root / "run"):
            os.chown(folder, self.uid, self.uid)
        for name, path in shared.items():
            try:
                os.link(path, self.root / name)
            except OSError:
                shutil.copyfile(path, self.root / name)
                (self.root / name).chmod(0o444)
        for name, source in own.items():
            self.copy_in(name, source)

    def copy_in(self, name: str, source: int) -> None:
        """Put a copy of an open file into the jail, sparse as it is, for the machine's user."""
        target = self.create(name, os.fstat(source).st_size)
        try:
            for start, end in disks.data_extents(source):
                disks.copy_range(source, target, start, end)
        finally:
            os.close(target)

    def create(self, name: str, size: int) -> int:
        """Return the descriptor of a new file of `size` bytes in the jail, for the machine's user."""
        target = os.open(self.inside(name), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(target, size)
            os.fchown(target, self.uid, self.uid)
        except BaseException:
            os.close(target)
            raise
        return target

    def remove(self) -> None:
        """Remove the folder with all that Firecracker left in it; nothing when it is gone."""
        shutil.rmtree(self.folder, ignore_errors=True)


def unfit(base: Path) -> str:
    """Why no jail can be in a folder, which need not be there yet; empty where one can."""
    there = next(each for each in (base, *base.parents) if each.exists())
    flags = os.statvfs(there).f_flag
    lacks = {os.ST_NODEV: "nodev", os.ST_NOEXEC: "noexec"}
    if found := [name for flag, name in lacks.items() if flags & flag]:
        return f"{base} is mounted {' and '.join(found)}, and a jail has its devices and its program in it"
    return ""


def command(
    jailer: str, firecracker: str, jail: Jail, *, base: Path, memory: int, cgroup: str | None
) -> tuple[str, ...]:
    """The jailer's command line: a user and a namespace of its own, bounds, and never PCI.

    `memory` in MiB bounds what Firecracker may use, guest included, where there is a `cgroup` (the parent of
    all, version 2). From Firecracker's `docs/jailer.md`.
    """
    groups: tuple[str, ...] = ()
    if cgroup is not None:
        groups = (
            *("--cgroup-version", "2", "--parent-cgroup", cgroup),
            *("--cgroup", f"memory.max={memory << 20}", "--cgroup", "memory.swap.max=0"),
        )
    return (
        *(jailer, "--id", jail.id, "--exec-file", firecracker),
        *("--uid", str(jail.uid), "--gid", str(jail.uid), "--chroot-base-dir", str(base)),
        *groups,
        *("--resource-limit", "no-file=1024", "--new-pid-ns"),
        *("--", "--api-sock", f"/{API}"),
    )


def left(base: Path, prefix: str) -> list[Jail]:
    """The jails whose ids begin with a prefix, whatever the program was called."""
    found = sorted(path for path in base.glob("*/*") if path.name.startswith(prefix))
    return [Jail(base, path.name, 0, path.parent.name) for path in found]
