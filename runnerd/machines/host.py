"""What the host must have before a machine can be built or started, said in one place, with its cure."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

REQUIRED: Mapping[str, str] = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mmdebstrap": "mmdebstrap",
    "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",
    "sqfstar": "squashfs-tools",
    "mke2fs": "e2fsprogs",
    "choom": "util-linux",
    "prlimit": "util-linux",
    "setpriv": "util-linux",
}
"""Program on the search path, or absolute path of a file -> the Debian package that brings it."""

SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Searched after PATH: an ordinary user's PATH often lacks the sbin folders."""


def find(program: str, *, environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the absolute path of a required program or file, or None when the host lacks it."""
    if program.startswith("/"):
        return program if Path(program).exists() else None
    return shutil.which(program, path=environ.get("PATH", "") + ":" + SEARCH)


def missing(
    required: Mapping[str, str] = REQUIRED, *, found: Callable[[str], str | None] = find
) -> tuple[str, ...]:
    """Return the names of `required` that this host does not have, in their order."""
    return tuple(name for name in required if found(name) is None)


def install_command(names: Iterable[str], *, root: bool, required: Mapping[str, str] = REQUIRED) -> str:
    """Return the exact command that installs what `missing` named; empty when nothing is missing."""
    packages = sorted({required[name] for name in names if name in required})
    if not packages:
        return ""
    return ("" if root else "sudo ") + "apt-get install --no-install-recommends -y " + " ".join(packages)


def require(*names: str, environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return the absolute paths of the named programs.

    Raises FileNotFoundError with the command that installs what is not there.
    """
    paths = {name: find(name, environ=environ) for name in names}
    absent = [name for name, path in paths.items() if path is None]
    if absent:
        command = install_command(absent, root=os.geteuid() == 0)
        cure = f"; install with: {command}" if command else ""
        raise FileNotFoundError(f"this host lacks {', '.join(absent)}{cure}")
    return tuple(path for path in paths.values() if path is not None)
