"""A control group per machine, by which the kernel bounds its memory, its processes and its processors.

Used only where a group was handed to us: by systemd (`Delegate=yes`), or by an operator who names it. Memory
is what makes a group worth having; processes and processors are bounded where their controllers are there.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from runnerd import log

_log = log.get(__name__)

ROOT = Path("/sys/fs/cgroup")
CONTROLLERS = ("memory", "pids", "cpu")
_NAMES = {"memory": ("memory",), "pids": ("pids",), "cpu": ("cpu", "cpu,cpuacct")}
"""What the hierarchies of version 1 are called; there each controller may have its own."""
_LIMIT = {2: "memory.max", 1: "memory.limit_in_bytes"}
_DAEMON = "daemon"
"""The daemon's own leaf: version 2 allows no processes in a group that shares out memory."""

_PERIOD = 100_000
"""Microseconds in which a machine may use what its processors are in that time."""
_SHARE = {2: 10, 1: 102}
"""Weight of a processor where there are not enough for all: the daemon's group has that of ten."""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What one machine may use at most, with its monitor."""

    memory: int
    """Bytes; there is no swap beside them."""
    processes: int = 256
    """Processes and threads together."""
    processors: int = 1
    """The guest's; its monitor has one more for itself."""


class Groups:
    """The parent group of all machines of one daemon."""

    def __init__(self, parent: Path, *, root: Path = ROOT) -> None:
        """Take the parent into use, and in version 1 the groups of the same name of other controllers.

        Raises OSError where it cannot be written, or has no memory controller.
        """
        self._parent = parent
        self._version = 2 if (parent / "cgroup.controllers").exists() else 1
        there = controllers(parent, root=root)
        if self._version == 2:
            if "memory" not in there:
                raise OSError(errno.ENOTSUP, f"the control group {parent} has no memory controller")
            leaf = parent / _DAEMON
            leaf.mkdir(exist_ok=True)
            for pid in (parent / "cgroup.procs").read_text().split():
                (leaf / "cgroup.procs").write_text(pid)
            (parent / "cgroup.subtree_control").write_text("+memory")
        elif "memory" not in there:
            raise OSError(errno.ENOTSUP, f"{parent} is not a control group of the memory controller")
        self._folders: dict[str, Path] = {}
        """Controller -> the parent of the groups in which it bounds machines."""
        for name, folder in there.items():
            try:
                if self._version == 2 and name != "memory":
                    (folder / "cgroup.subtree_control").write_text(f"+{name}")
                folder.mkdir(exist_ok=True)
            except OSError as error:
                _log.warning("machines have no bound of this kind", controller=name, reason=str(error))
            else:
                self._folders[name] = folder

    @property
    def version(self) -> int:
        """1 or 2."""
        return self._version

    @property
    def path(self) -> str:
        """The parent below the root of all groups, as the kernel names it."""
        return str(self._parent.relative_to(ROOT))

    @property
    def controllers(self) -> tuple[str, ...]:
        """Those of `CONTROLLERS` that bound machines here."""
        return tuple(self._folders)

    def enter(self, name: str, pid: int, bounds: Bounds) -> None:
        """Put a process into a group of its own that is bounded. Raises OSError."""
        for folder in self._parents():
            (folder / name).mkdir(exist_ok=True)
        group = self._parent / name
        (group / _LIMIT[self._version]).write_text(str(bounds.memory))
        for controller, file, value in self._values(bounds):
            if controller in self._folders and (path := self._folders[controller] / name / file).exists():
                path.write_text(value)
        for folder in self._parents():
            (folder / name / "cgroup.procs").write_text(str(pid))

    def leave(self, name: str) -> bool:
        """Remove the group of a machine that has ended; safe to call twice. False: it is still in use."""
        gone = True
        for folder in self._parents():
            try:
                (folder / name).rmdir()
            except FileNotFoundError:
                pass
            except OSError:
                gone = False
        return gone

    def left(self, prefix: str) -> list[str]:
        """The groups whose name starts with a prefix: what earlier daemons left."""
        found = (path for folder in self._parents() for path in folder.glob(f"{prefix}*"))
        return sorted({path.name for path in found if path.is_dir()})

    def _parents(self) -> list[Path]:
        return list(dict.fromkeys(self._folders.values()))

    def _values(self, bounds: Bounds) -> Iterator[tuple[str, str, str]]:
        """Controller, file and value of all bounds beside that of memory."""
        quota = str((bounds.processors + 1) * _PERIOD)
        share = str(min(_SHARE[self._version] * bounds.processors, 10_000))
        yield "memory", "memory.swap.max", "0"
        yield "memory", "memory.memsw.limit_in_bytes", str(bounds.memory)
        yield "pids", "pids.max", str(bounds.processes)
        if self._version == 2:
            yield "cpu", "cpu.max", f"{quota} {_PERIOD}"
            yield "cpu", "cpu.weight", share
        else:
            yield "cpu", "cpu.cfs_period_us", str(_PERIOD)
            yield "cpu", "cpu.cfs_quota_us", quota
            yield "cpu", "cpu.shares", share


def controllers(parent: Path, *, root: Path = ROOT) -> dict[str, Path]:
    """Which of `CONTROLLERS` there are for the groups below a parent, and where; changes nothing.

    In version 2 they are all in the parent. In version 1 it belongs to one, and the others have a group of
    the same name in their own hierarchy.
    """
    try:
        there = (parent / "cgroup.controllers").read_text().split()
        return {name: parent for name in CONTROLLERS if name in there}
    except OSError:
        pass
    found = {"memory": parent} if (parent / _LIMIT[1]).exists() else {}
    own = parent.relative_to(root).parts if found and parent.is_relative_to(root) else ()
    if own:
        for name in CONTROLLERS[1:]:
            place = next(
                (root / each for each in _NAMES[name] if (root / each / "cgroup.procs").exists()), None
            )
            if place is not None:
                found[name] = place.joinpath(*own[1:])
    return found


def usable(wanted: str = "auto", *, root: Path = ROOT) -> Groups | None:
    """The groups of machines; None where there are none to be had, or `wanted` is empty.

    "auto": below the one that was handed over to this process. Otherwise the path of a parent below
    `root`, of version 2 or of version 1's memory controller, which is made; raises OSError where it cannot
    be used: who names one counts on it.
    """
    if wanted == "auto":
        parent = delegated(root=root)
        try:
            return Groups(parent, root=root) if parent else None
        except OSError as error:
            _log.warning("machines have no control groups", reason=str(error))
            return None
    if not wanted:
        return None
    parent = root / wanted.removeprefix(f"{root}/").strip("/")
    if parent == root or ".." in parent.parts:
        raise OSError(errno.EINVAL, f"{wanted!r} is no control group below {root}")
    parent.mkdir(exist_ok=True)
    return Groups(parent, root=root)


def delegated(
    *,
    own: Path = Path("/proc/self/cgroup"),
    root: Path = ROOT,
    attribute: Callable[[Path, str], bytes] = os.getxattr,
) -> Path | None:
    """Return this process's control group if systemd marked it as handed over to us, else None."""
    try:
        lines = own.read_text().splitlines()
        path = next(line[3:] for line in lines if line.startswith("0::"))
        group = root / path.lstrip("/")
        if group.name == _DAEMON:
            # A second daemon in one process, or one that was restarted in place.
            group = group.parent
        for name in ("user.delegate", "trusted.delegate"):
            try:
                if attribute(group, name) == b"1":
                    return group
            except OSError:
                continue
    except (OSError, StopIteration):
        pass
    return None
