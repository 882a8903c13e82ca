"""Removes what builds of images leave on disk: their own folders, and those they had elsewhere.

A folder elsewhere is on record in the build's own, as a link, so that whoever removes that after a kill
removes both.
"""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import trio

REMOVAL = 120.0
"""Seconds for the removal of a tree."""

_PREFIX = "runnerd-build-"
_RECORD = ".elsewhere-"


def elsewhere(work: Path, temporary: str | None) -> Path:
    """Make a folder that every user may enter below `temporary`, or the system's own; it is of this build."""
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=temporary))
    (work / f"{_RECORD}{folder.name}").symlink_to(folder)
    folder.chmod(0o755)
    return folder


async def discard(folder: Path, *, of: Path) -> None:
    """Remove a folder that a build had elsewhere, and the record of it; never raises."""
    await remove(folder)
    with suppress(OSError):
        (of / f"{_RECORD}{folder.name}").unlink()


async def remove(folder: Path) -> None:
    """See `remove_now`; in a thread, whatever is cancelled."""
    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(remove_now, folder)


def remove_now(folder: Path) -> None:
    """Remove a build's folder with all in it, what a sandbox's other users own too, and what is elsewhere.

    While something writes there that is being ended yet, the record stays for the next who removes. Safe
    twice, bounded, never raises.
    """
    kept = set()
    for record in folder.glob(f"{_RECORD}*"):
        target = Path(os.readlink(record))
        if _ours(target):
            _remove(target)
            if target.exists():
                kept.add(record)
    for path in [path for path in folder.iterdir() if path not in kept] if kept else [folder]:
        _remove(path)


def _ours(folder: Path) -> bool:
    """Whether what has the name of a folder elsewhere is still the one that we made."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return folder.name.startswith(_PREFIX) and stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def _remove(folder: Path) -> None:
    # What is mounted there is the host's, and a program that was killed unmounts nothing.
    for place in _mounted_in(folder):
        _run("umount", "--lazy", str(place))
    if _mounted_in(folder):
        return
    removal = ("rm", "-rf", "--one-file-system", "--", str(folder))
    _run(*removal)
    if (others := rootless()) and os.path.lexists(folder):
        # Their numbers mean somebody only where they are mapped, as they were when the tree was made.
        _run("unshare", *others, *removal)


def rootless() -> list[str]:
    """How `unshare` makes somebody who is not root the root of a sandbox, with other users beside it."""
    return [] if os.geteuid() == 0 else ["--user", "--map-root-user", "--map-auto"]


def _mounted_in(folder: Path) -> list[Path]:
    """What is mounted below a folder, the innermost first."""
    with suppress(OSError):
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
        real = folder.resolve()
        found = [Path(_plain(line.split(" ")[4])) for line in lines]
        return [place for place in reversed(found) if real in place.parents]
    return []


def _plain(name: str) -> str:
    """A name of the kernel's table of mounts, which writes blanks and the like as numbers."""
    for number in ("040", "011", "012", "134"):
        name = name.replace(f"\\{number}", chr(int(number, 8)))
    return name


def _run(*argv: str) -> None:
    with suppress(OSError, subprocess.SubprocessError):
        subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=REMOVAL, check=False)
