"""A control group per machine, by which the kernel bounds its memory, its processes and its processors.

Used only where a group was handed to us: by systemd (`Delegate=yes`), or by an operator who names it. Memory
is what makes a group worth having; processes and processors are bounded where their controllers are there.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from runnerd import log

_log = log.get(__name__)

Attribute = Callable[[Path, str], bytes]
"""Reads an extended attribute of a file; raises OSError where it has none."""

ROOT = Path("/sys/fs/cgroup")
CONTROLLERS = ("memory", "pids", "cpu")
_NAMES = {"memory": ("memory",), "pids": ("pids",), "cpu": ("cpu", "cpu,cpuacct")}
"""What the hierarchies of version 1 are called; there each controller may have its own."""
_LIMIT = {2: "memory.max", 1: "memory.limit_in_bytes"}
_EVENTS = {2: "memory.events", 1: "memory.oom_control"}
_DAEMON = "daemon"
"""The daemon's own leaf: version 2 allows no processes in a group that shares out memory."""
_ROUNDS = 10
"""How often processes are looked for that others started while those were moved."""

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

    def __init__(self, parent: Path, *, root: Path = ROOT, everyone: bool = False) -> None:
        """Take the parent into use, and in version 1 the groups of the same name of other controllers.

        In version 2 this process leaves the parent for a leaf, and with `everyone` all that are in it. Raises
        OSError, with the cure, where it cannot be written, has no memory controller or keeps processes.
        """
        self._parent = parent
        self._root = root
        self._version = 2 if (parent / "cgroup.controllers").exists() else 1
        there = controllers(parent, root=root)
        if "memory" not in there:
            raise OSError(errno.ENOTSUP, _without_memory(parent, self._version))
        if self._version == 2:
            _make_room(parent, everyone=everyone)
        self._folders: dict[str, Path] = {}
        """Controller -> the parent of the groups in which it bounds machines."""
        for name, folder in there.items():
            try:
                if self._version == 2:
                    _share(parent, name)
                else:
                    folder.mkdir(exist_ok=True)
            except OSError as error:
                if name == "memory":
                    raise
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
        return str(self._parent.relative_to(self._root))

    @property
    def controllers(self) -> tuple[str, ...]:
        """Those of `CONTROLLERS` that bound machines here."""
        return tuple(self._folders)

    def enter(self, name: str, pid: int, bounds: Bounds) -> None:
        """Put a process into a group of its own that is bounded. Raises OSError.

        What it holds already stays where it was counted: it should do nothing before.
        """
        for folder in self._parents():
            (folder / name).mkdir(exist_ok=True)
        _write(self._parent / name / _LIMIT[self._version], str(bounds.memory))
        for controller, file, value in self._values(bounds):
            if controller in self._folders and (path := self._folders[controller] / name / file).exists():
                _write(path, value)
        for folder in self._parents():
            _write(folder / name / "cgroup.procs", str(pid))

    def outgrown(self, name: str) -> bool:
        """Whether the kernel ended a process of a machine's group because it took more memory than it may."""
        try:
            lines = (self._parent / name / _EVENTS[self._version]).read_text().splitlines()
        except OSError:
            return False
        counts = dict(line.split(" ", 1) for line in lines if " " in line)
        return int(counts.get("oom_kill", 0)) > 0

    def leave(self, name: str) -> bool:
        """Remove the group of a machine that has ended, with groups in it; safe to call twice.

        False: there are processes in it.
        """
        return not [folder for folder in self._parents() if not _remove(folder / name)]

    def end(self, name: str, *, patience: float = 1.0) -> bool:
        """Remove the group of a machine and kill what is still in it. Safe to call twice; blocks.

        False: after so many seconds something has not ended yet.
        """
        until = time.monotonic() + patience
        while not self.leave(name):
            for folder in self._parents():
                _kill(folder / name)
            if time.monotonic() > until:
                return False
            time.sleep(0.002)
        return True

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
        yield "memory", "memory.oom.group", "1"
        yield "memory", "memory.memsw.limit_in_bytes", str(bounds.memory)
        yield "pids", "pids.max", str(bounds.processes)
        if self._version == 2:
            yield "cpu", "cpu.max", f"{quota} {_PERIOD}"
            yield "cpu", "cpu.weight", share
        else:
            yield "cpu", "cpu.cfs_period_us", str(_PERIOD)
            yield "cpu", "cpu.cfs_quota_us", quota
            yield "cpu", "cpu.shares", share


def _without_memory(parent: Path, version: int) -> str:
    if version == 1:
        return f"{parent} is not a control group of the memory controller"
    return (
        f"the control group {parent} has no memory controller: the group above has to hand it down, by "
        "Delegate=memory of its unit or by +memory in its cgroup.subtree_control"
    )


def _make_room(parent: Path, *, everyone: bool) -> None:
    """Move this process, or everyone, from a group of version 2 to a leaf of it."""
    ours = str(os.getpid())
    for _ in range(_ROUNDS):
        there = (parent / "cgroup.procs").read_text().split()
        moving = [pid for pid in there if everyone or pid == ours]
        if not moving:
            return
        (parent / _DAEMON).mkdir(exist_ok=True)
        for pid in moving:
            try:
                _write(parent / _DAEMON / "cgroup.procs", pid)
            except ProcessLookupError:  # it has ended
                continue


def _share(parent: Path, controller: str) -> None:
    """Let a controller bound the groups below a parent of version 2."""
    try:
        _write(parent / "cgroup.subtree_control", f"+{controller}")
    except OSError as error:
        there = (parent / "cgroup.procs").read_text().split()
        if error.errno != errno.EBUSY or not there:
            raise
        raise OSError(
            errno.EBUSY,
            f"the control group {parent} has processes of its own ({', '.join(there[:10])}), so that it "
            "cannot share out memory: move them elsewhere, or name a group for the machines alone",
        ) from error


def _write(path: Path, text: str) -> None:
    """Write to one of the kernel's files. Raises OSError that names it, as that of a write does not."""
    try:
        path.write_text(text)
    except OSError as error:
        raise OSError(error.errno, f"{path} does not take {text!r}: {error.strerror}") from error


def _remove(group: Path) -> bool:
    """Remove a group with those below it; False where there are processes."""
    for folder, _, _ in os.walk(group, topdown=False):
        try:
            os.rmdir(folder)
        except OSError:
            continue
    return not group.exists()


def _kill(group: Path) -> None:
    """Kill the processes of a group and of those below it, as many as there are now."""
    try:
        _write(group / "cgroup.kill", "1")
        return
    except OSError:  # version 1, or a kernel before 5.14
        pass
    for folder, _, _ in os.walk(group):
        try:
            pids = Path(folder, "cgroup.procs").read_text().split()
        except OSError:
            continue
        for pid in pids:
            _kill_one(int(pid), f"/{group.parent.name}/{group.name}")


def _kill_one(pid: int, group: str) -> None:
    """Kill a process unless it has left its group: another may have its number by now."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if any(f"{group}/" in f"{line}/" for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def controllers(parent: Path, *, root: Path = ROOT) -> dict[str, Path]:
    """Which of `CONTROLLERS` there are for the groups below a parent, and where; changes nothing.

    In version 2 they are all in the parent. In version 1 it belongs to one, and the others have a group of
    the same name in their own hierarchy. A parent that is not there is judged as it would be made.
    """
    for file in (parent / "cgroup.controllers", parent.parent / "cgroup.subtree_control"):
        try:
            there = file.read_text().split()
        except OSError:
            continue
        return {name: parent for name in CONTROLLERS if name in there}
    exists = parent if parent.exists() else parent.parent
    found = {"memory": parent} if (exists / _LIMIT[1]).exists() else {}
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
            return Groups(parent, root=root, everyone=True) if parent else None
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
    attribute: Attribute = os.getxattr,
) -> Path | None:
    """Return this process's control group if systemd marked it as handed over to us, else None."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return None
    path = next((line[3:] for line in lines if line.startswith("0::")), None)
    if path is None:
        return None
    group = root / path.lstrip("/")
    if group.name == _DAEMON:
        # A second daemon in one process, or one that was restarted in place.
        group = group.parent
    return group if marked(group, attribute) else None


def marked(group: Path, attribute: Attribute = os.getxattr) -> bool:
    """Whether systemd has handed a group of version 2 over to its unit (`Delegate=`)."""
    for name in ("user.delegate", "trusted.delegate"):
        try:
            if attribute(group, name) == b"1":
                return True
        except OSError:
            continue
    return False
