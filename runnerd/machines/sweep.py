"""Finding and ending what a machine without isolation left running on the host."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path


def processes_of(folder: Path) -> list[int]:
    """The processes that live in `folder` or were started for it: their current folder lies in it, or

    their environment names it, as every step's does. Only those whose /proc this user may read are seen.
    """
    name = os.fsencode(folder)
    return [pid for pid in _pids() if pid != os.getpid() and _belongs(pid, name)]


def descendants(ancestor: int) -> list[int]:
    """The living processes below `ancestor`, which is not among them."""
    children: dict[int, list[int]] = {}
    for pid in _pids():
        try:
            status = Path(f"/proc/{pid}/stat").read_bytes()
        except OSError:  # it ended meanwhile
            continue
        state, parent = status.rpartition(b")")[2].split()[:2]
        if state != b"Z":  # ended, and only its parent can make it go
            children.setdefault(int(parent), []).append(pid)
    found = list(children.get(ancestor, ()))
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def end_all(find: Callable[[], list[int]], *, seconds: float) -> bool:
    """Kill what `find` returns, again until it returns nothing; False when that took too long. Blocks."""
    deadline = time.monotonic() + seconds
    while pids := find():
        if time.monotonic() > deadline:
            return False
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:  # ended, or another user's: the deadline tells
                pass
        time.sleep(0.005)
    return True


def remove(folder: Path) -> None:
    """Remove a folder and all in it, also what a job made unreadable; absent is fine. Blocks."""

    def insist(_function: object, path: str, _info: object) -> None:
        parent = os.path.dirname(path)
        for entry in (parent, path):
            try:
                if stat.S_ISDIR(os.lstat(entry).st_mode):
                    os.chmod(entry, 0o700)
            except OSError:
                pass
        try:
            shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
        except OSError:  # what is left is found at the next start
            pass

    shutil.rmtree(folder, onerror=insist)


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def _belongs(pid: int, folder: bytes) -> bool:
    try:
        place = os.fsencode(os.readlink(f"/proc/{pid}/cwd"))
        if place == folder or place.startswith(folder + b"/"):
            return True
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # it ended, or is not ours to look at
        return False
    return folder in environment
