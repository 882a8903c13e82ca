"""Writes initial RAM file systems: cpio archives in the kernel's `newc` format, the same bytes every time.

The kernel unpacks archives that follow each other, so what changes often is a small one of its own.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path

import msgspec

from runnerd.machines.kernel import Boot

INIT = Path(__file__).with_name("init.sh")
"""The first program in a machine, run by busybox."""

_FOLDERS = ("bin", "dev", "proc", "sys", "modules", "newroot")
_APPLETS = ("sh", "cat", "cp", "insmod", "mount", "poweroff", "reboot", "sleep", "switch_root", "tr")


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One file, folder, link or device; `mode` has the type's bits."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def folder(name: str) -> Entry:
    """A folder that everybody may read."""
    return Entry(name=name, mode=stat.S_IFDIR | 0o755)


def file(name: str, data: bytes, mode: int = 0o644) -> Entry:
    """A regular file."""
    return Entry(name=name, mode=stat.S_IFREG | mode, data=data)


def link(name: str, target: str) -> Entry:
    """A symbolic link."""
    return Entry(name=name, mode=stat.S_IFLNK | 0o777, data=target.encode())


def archive(entries: Iterable[Entry]) -> bytes:
    """Return the cpio archive of the entries, in their order; every time stamp and owner is 0."""
    out = bytearray()
    for number, entry in enumerate([*entries, Entry(name="TRAILER!!!", mode=0)], start=1):
        name = entry.name.encode() + b"\0"
        links = 2 if stat.S_ISDIR(entry.mode) else 1
        fields = (number, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
        out += b"070701" + b"".join(b"%08x" % field for field in fields) + name
        out += bytes(-len(out) % 4)
        out += entry.data
        out += bytes(-len(out) % 4)
    return bytes(out)


def base(boot: Boot) -> bytes:
    """Return the archive with busybox and the kernel's modules: changes only with the packages."""
    return archive(
        [
            *(folder(name) for name in _FOLDERS),
            file("bin/busybox", boot.busybox, 0o755),
            *(link(f"bin/{name}", "busybox") for name in _APPLETS),
            Entry(name="dev/console", mode=stat.S_IFCHR | 0o600, device=(5, 1)),
            Entry(name="dev/null", mode=stat.S_IFCHR | 0o666, device=(1, 3)),
            # insmod has no dependencies: the shell's sorted glob is the order of loading.
            *(
                file(f"modules/{at:02d}-{module.name}.ko", module.data)
                for at, module in enumerate(boot.modules)
            ),
        ]
    )


def overlay(init: bytes, agent: bytes) -> bytes:
    """Return the archive with the first program and the agent, to follow `base`."""
    return archive([file("init", init, 0o755), file("agent.pyz", agent)])
