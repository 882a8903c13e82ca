"""Finds what a machine boots from in a tar of unpacked packages: kernel, modules in loading order, busybox.

Nothing here runs a maintainer script or needs `depmod`: a module names the ones it needs in itself.
"""

from __future__ import annotations

import lzma
import re
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

import msgspec

PACKAGES = ("linux-image-cloud-amd64", "busybox-static")

MODULES = (
    *("virtio_mmio", "virtio_pci", "virtio_blk", "virtio_console", "overlay", "squashfs"),
    *("pvpanic_mmio", "pvpanic_pci", "vmw_vsock_virtio_transport"),
)
"""What the machine's devices and file systems need of the Debian cloud kernel, under QEMU and Firecracker."""

_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")


class Module(msgspec.Struct, frozen=True, kw_only=True):
    """One kernel module, uncompressed."""

    name: str
    data: bytes


class Boot(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine boots from."""

    release: str
    """The kernel's release, as `uname -r` will say it."""
    kernel: bytes
    modules: tuple[Module, ...]
    """In the order in which they can be inserted."""
    busybox: bytes


def read(tar: Path, wanted: Iterable[str] = MODULES) -> Boot:
    """Take kernel, modules and busybox from a tar that holds `PACKAGES`, unpacked.

    Raises ValueError that names what is not in there. A module that this kernel has built in is no error.
    """
    with tarfile.open(tar) as archive:
        found: dict[str, tarfile.TarInfo] = {}
        modules: dict[str, tarfile.TarInfo] = {}
        for member in archive:
            path = PurePosixPath("/", member.name)
            if not member.isfile():
                continue
            if path.parent.name == "boot" and path.name.startswith("vmlinuz-"):
                found["kernel"] = member
            elif path.name == "modules.builtin" or (path.parent.name, path.name) == ("bin", "busybox"):
                found[path.name] = member
            elif re.search(r"\.ko(\.xz)?$", path.name):
                modules[_module_name(path.name)] = member
        for name in ("kernel", "busybox", "modules.builtin"):
            if name not in found:
                raise ValueError(f"the unpacked packages {', '.join(PACKAGES)} hold no {name}")
        builtin = _content(archive, found["modules.builtin"]).decode().splitlines()

        def module(name: str) -> bytes | None:
            return _content(archive, modules[name]) if name in modules else None

        return Boot(
            release=PurePosixPath(found["kernel"].name).name.removeprefix("vmlinuz-"),
            kernel=_content(archive, found["kernel"]),
            modules=load_order(wanted, module, map(_module_name, builtin)),
            busybox=_content(archive, found["busybox"]),
        )


def load_order(
    wanted: Iterable[str], content: Callable[[str], bytes | None], builtin: Iterable[str] = ()
) -> tuple[Module, ...]:
    """Return the wanted modules and all they depend on, each after what it needs.

    `content` gives a module's bytes by its name, or None. Raises ValueError when a module is neither
    there nor built in, or when modules need each other.
    """
    done: dict[str, Module] = {}
    there = frozenset(builtin)

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in done or name in there:
            return
        if name in above:
            raise ValueError(f"kernel modules need each other: {' -> '.join((*above, name))}")
        data = content(name)
        if data is None:
            raise ValueError(
                f"the kernel has no module {name!r}" + (f", which {above[-1]} needs" if above else "")
            )
        for needed in dependencies(data):
            visit(needed, (*above, name))
        done[name] = Module(name=name, data=data)

    for name in wanted:
        visit(name, ())
    return tuple(done.values())


def dependencies(module: bytes) -> tuple[str, ...]:
    """Return the modules that a module's own `.modinfo` says it needs."""
    found = _DEPENDS.search(module)
    names = found.group(1).decode("ascii").split(",") if found else []
    return tuple(name.replace("-", "_") for name in names if name)


def _module_name(path: str) -> str:
    return PurePosixPath(path).name.partition(".ko")[0].replace("-", "_")


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    data = file.read() if file else b""
    return lzma.decompress(data) if member.name.endswith(".xz") else data
