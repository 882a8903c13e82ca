"""A control group per machine, so that a machine's memory is bounded by the kernel and accounted to it.

Used only where a group was handed to us: by systemd (`Delegate=yes`), or by an operator who names it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from runnerd import log

_log = log.get(__name__)

ROOT = Path("/sys/fs/cgroup")
_LIMIT = {2: "memory.max", 1: "memory.limit_in_bytes"}
_DAEMON = "daemon"
"""The daemon's own leaf: version 2 allows no processes in a group that shares out memory."""


class Groups:
    """The parent group of all machines of one daemon."""

    def __init__(self, parent: Path) -> None:
        """Take the parent into use.

        Raises OSError where it cannot be written, or has no memory controller.
        """
        self._parent = parent
        self._version = 2 if (parent / "cgroup.controllers").exists() else 1
        if self._version == 2:
            if "memory" not in (parent / "cgroup.controllers").read_text().split():
                raise OSError(errno.ENOTSUP, f"the control group {parent} has no memory controller")
            leaf = parent / _DAEMON
            leaf.mkdir(exist_ok=True)
            for pid in (parent / "cgroup.procs").read_text().split():
                (leaf / "cgroup.procs").write_text(pid)
            (parent / "cgroup.subtree_control").write_text("+memory")
        elif not (parent / _LIMIT[1]).exists():
            raise OSError(errno.ENOTSUP, f"{parent} is not a control group of the memory controller")

    @property
    def version(self) -> int:
        """1 or 2."""
        return self._version

    @property
    def path(self) -> str:
        """The parent below the root of all groups, as the kernel names it."""
        return str(self._parent.relative_to(ROOT))

    def enter(self, name: str, pid: int, limit: int) -> None:
        """Put a process into a group of its own with at most `limit` bytes of memory, and no swap."""
        group = self._parent / name
        group.mkdir(exist_ok=True)
        (group / _LIMIT[self._version]).write_text(str(limit))
        for swap, most in (("memory.swap.max", "0"), ("memory.memsw.limit_in_bytes", str(limit))):
            if (group / swap).exists():
                (group / swap).write_text(most)
        (group / "cgroup.procs").write_text(str(pid))

    def leave(self, name: str) -> bool:
        """Remove the group of a machine that has ended; safe to call twice. False: it is still in use."""
        try:
            (self._parent / name).rmdir()
        except FileNotFoundError:
            pass
        except OSError:
            return False
        return True

    def left(self, prefix: str) -> list[str]:
        """The groups whose name starts with a prefix: what earlier daemons left."""
        return sorted(path.name for path in self._parent.glob(f"{prefix}*") if path.is_dir())


def usable(wanted: str = "auto", *, root: Path = ROOT) -> Groups | None:
    """The groups of machines; None where there are none to be had, or `wanted` is empty.

    "auto": below the one that was handed over to this process. Otherwise the path of a parent below
    `root`, of version 2 or of version 1's memory controller, which is made; raises OSError where it cannot
    be used: who names one counts on it.
    """
    if wanted == "auto":
        parent = delegated(root=root)
        try:
            return Groups(parent) if parent else None
        except OSError as error:
            _log.warning("machines have no control groups", reason=str(error))
            return None
    if not wanted:
        return None
    parent = root / wanted.removeprefix(f"{root}/").strip("/")
    if parent == root or ".." in parent.parts:
        raise OSError(errno.EINVAL, f"{wanted!r} is no control group below {root}")
    parent.mkdir(exist_ok=True)
    return Groups(parent)


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
