"""The files in the job's root that say who this machine is: made once, written over in place at each thaw."""

from __future__ import annotations

import os
from collections.abc import Mapping

from .tree import Tree

BOOT_ID = "boot_id"
"""The file, beside the job's root, that is to be bound over the kernel's own boot id."""


class Names:
    """Keeps the files open, so that a thaw is one write to each.

    After a restore on an emulated processor every path of the kernel that is walked for the first time
    costs milliseconds: opening, renaming and mounting are done before the template is frozen.
    """

    def __init__(self, files: Tree, state: str) -> None:
        """Make the files empty: in `/etc` of the job's root, where a link of the image's is replaced and not

        followed, and the boot id in the folder `state` of the agent's own.
        """
        self._lengths: dict[str, int] = {}
        folder = files.folder("/etc", None)
        try:
            self._fds = {name: _fresh(folder, name) for name in ("hostname", "hosts", "machine-id")}
        finally:
            os.close(folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        self._fds[BOOT_ID] = os.open(f"{state}/{BOOT_ID}", flags, 0o444)

    def write(self, identity: Mapping[str, str]) -> None:
        """Put hostname, machine_id and boot_id where programs look for them."""
        host = identity["hostname"]
        texts = {
            "hostname": host,
            "hosts": f"127.0.0.1 localhost {host}\n::1 localhost",
            "machine-id": identity["machine_id"],
            BOOT_ID: identity["boot_id"],
        }
        for name, text in texts.items():
            data = f"{text}\n".encode()
            os.pwrite(self._fds[name], data, 0)
            if self._lengths.get(name, 0) > len(data):
                os.ftruncate(self._fds[name], len(data))
            self._lengths[name] = len(data)


def _fresh(folder: int, name: str) -> int:
    """A new empty file in place of whatever had this name."""
    temporary = f".runnerd-{name}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    fd = os.open(temporary, flags, 0o644, dir_fd=folder)
    os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    return fd
