"""Ends what an earlier daemon left: processes by their mark, never by their pid alone, and control groups."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from runnerd.machines.cgroups import Groups
from runnerd.machines.launcher import born, strays


def mark(state: Path) -> str:
    """Return what the names of all machines of one state directory begin with; others' are left alone."""
    return f"runnerd-{hashlib.sha256(os.fsencode(state.resolve())).hexdigest()[:8]}-"


def reap(
    marker: str,
    *,
    spare: Callable[[str], bool] = lambda name: False,
    proc: Path = Path("/proc"),
    groups: Groups | None = None,
    patience: float = 5.0,
) -> list[str]:
    """Kill every process whose machine name begins with `marker`, and all in their groups, and remove these.

    Waits for their ends, `patience` seconds at most. Returns the names. `spare` says which to leave alone.
    Blocks: call it in a thread. Disks need no removal, for they have no names.
    """
    found: dict[int, tuple[str, int | None]] = {}
    for pid, name in strays(marker, proc=proc).items():
        start = born(pid)
        # Asked after the process was seen: whoever starts a machine takes its name before.
        if start is not None and not spare(name):
            found[pid] = (name, start)
            _kill(pid, start)
    end = time.monotonic() + patience
    while any(born(pid) == start for pid, (_, start) in found.items()) and time.monotonic() < end:
        time.sleep(0.005)
    if groups is not None:
        for name in groups.left(marker):
            if not spare(name):
                groups.end(name, patience=max(0.0, end - time.monotonic()))
    return sorted(name for name, _ in found.values())


def _kill(pid: int, start: int) -> None:
    """Kill a process unless another one has taken its number since."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # The descriptor names one process for ever; if its start is what we saw, it is the one we saw.
        if born(pid) == start:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    finally:
        os.close(pidfd)
