"""Puts the layers of a container image over each other, in memory, and writes what comes out as one tar.

Layers are somebody else's: no path or link leads out of the root, and nothing is unpacked on the host.
Device nodes are left out, as a machine has its own.
"""

from __future__ import annotations

import io
import posixpath
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from runnerd.machines.distribution import EPOCH

MOST_ENTRIES = 1_000_000
LARGEST = 32 << 30
"""Bytes of all files of an image: a sparse one is as large as it says, however little of it is there."""
LARGEST_TEXT = 4 << 20
LONGEST = 4096
"""Bytes of a path, as the kernel has it."""
_LINKS = 40

_HIDES, _OPAQUE = ".wh.", ".wh..wh..opq"
_KEPT_HEADERS = ("SCHILY.xattr.security.capability",)


class _Node:
    """One file; two paths that are hard links share it."""

    def __init__(self, info: tarfile.TarInfo, layer: tarfile.TarFile | None, data: bytes = b"") -> None:
        self.info, self.layer, self.data = info, layer, data


class Tree:
    """A root file system in the making: normal paths without a leading slash, "" is the root."""

    def __init__(self) -> None:
        self._nodes: dict[str, _Node] = {}
        self._children: dict[str, set[str]] = {"": set()}
        self._size = 0

    def apply(self, layer: tarfile.TarFile) -> None:
        """Put a layer over what there is. Raises ValueError for what has no place in a layer."""
        members = [(_plain(member.name), member) for member in members_of(layer)]
        self._size += sum(member.size for _, member in members if member.isreg())
        if self._size > LARGEST:
            raise ValueError(f"its files are larger than {LARGEST >> 30} GiB together")
        # What a layer hides is of the layers below, wherever in the layer it says so.
        for path, _ in members:
            folder, name = posixpath.split(path)
            if name == _OPAQUE:
                self._empty(self._real(folder))
            elif name.startswith(_HIDES):
                hidden = name.removeprefix(_HIDES)
                if hidden in ("", ".", ".."):
                    raise ValueError(f"a layer hides {path!r}, which is no name")
                self._remove(posixpath.join(self._real(folder), hidden))
        for path, member in members:
            if path and not posixpath.basename(path).startswith(_HIDES):
                self._add(path, member, layer)
            if len(self._nodes) > MOST_ENTRIES:
                raise ValueError(f"the image has more than {MOST_ENTRIES} files")

    def folder(self, path: str, *, mode: int = 0o755, owner: int = 0) -> None:
        """Have a real folder at a path, with real folders above; a link or file in its place goes."""
        parts = path.split("/")
        for at in range(1, len(parts) + 1):
            above = "/".join(parts[:at])
            node = self._nodes.get(above)
            last = at == len(parts)
            if last or node is None or not node.info.isdir():
                info = _info(above, tarfile.DIRTYPE, mode if last else 0o755)
                info.uid = info.gid = owner if last else 0
                self._place(above, _Node(info, None))

    def file(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Have a regular file of root's in a folder that there is; a link in its place goes."""
        info = _info(path, tarfile.REGTYPE, mode)
        info.size = len(data)
        self._place(path, _Node(info, None, data))

    def read(self, path: str, limit: int = LARGEST_TEXT) -> bytes | None:
        """The content of a regular file, or None."""
        node = self._nodes.get(path)
        if node is None or not node.info.isreg() or node.info.size > limit:
            return None
        return _content(node).read()

    def has(self, path: str) -> bool:
        """Whether there is anything at a path."""
        return path in self._nodes

    def is_folder(self, path: str) -> bool:
        """Whether a path is a real folder."""
        return path in self._children

    def write(self, out: Path) -> None:
        """Write the tar: sorted, no time after `EPOCH`, a hard link after what it links to."""
        first: dict[int, str] = {}
        with tarfile.open(out, "w", format=tarfile.PAX_FORMAT) as result:
            for path, node in sorted(self._nodes.items()):
                info = _info(path, node.info.type, node.info.mode & 0o7777)
                info.uid, info.gid = node.info.uid, node.info.gid
                info.mtime = min(int(node.info.mtime), EPOCH)
                info.linkname = node.info.linkname
                kept = {k: v for k, v in node.info.pax_headers.items() if k in _KEPT_HEADERS}
                if id(node) in first:
                    info.type, info.linkname = tarfile.LNKTYPE, first[id(node)]
                    result.addfile(info)
                elif node.info.isreg():
                    first[id(node)] = path
                    info.type, info.size, info.pax_headers = tarfile.REGTYPE, node.info.size, kept
                    result.addfile(info, _content(node))
                else:
                    result.addfile(info)

    def _add(self, path: str, member: tarfile.TarInfo, layer: tarfile.TarFile) -> None:
        folder, name = posixpath.split(path)
        above = self._real(folder)
        if above and above not in self._nodes:
            self.folder(above)
        real = posixpath.join(above, name)
        if member.isdir():
            # A folder over a link to a folder is the folder it leads to, as every unpacker has it.
            if (there := self._nodes.get(real)) is not None and there.info.issym():
                target = self._real(real)
                if target in self._children:
                    return
            self._place(real, _Node(member, layer))
        elif member.islnk():
            target_folder, target_name = posixpath.split(_plain(member.linkname))
            target = posixpath.join(self._real(target_folder), target_name)
            node = self._nodes.get(target)
            if node is None or node.info.isdir():
                raise ValueError(f"{path!r} is a hard link to {member.linkname!r}, which is no file of it")
            self._place(real, node)
        elif member.issym() or member.isreg():
            self._place(real, _Node(member, layer))
        elif not (member.isdev() or member.isfifo()):
            raise ValueError(f"{path!r} is of a kind that layers do not have")

    def _real(self, path: str) -> str:
        """The path once every link on it is followed, never out of the root."""
        left = [part for part in path.split("/") if part]
        done: list[str] = []
        followed = 0
        while left:
            part = left.pop(0)
            if part == "..":
                done = done[:-1]
                continue
            if part == ".":
                continue
            here = "/".join([*done, part])
            node = self._nodes.get(here)
            if node is not None and node.info.issym():
                followed += 1
                if followed > _LINKS:
                    raise ValueError(f"{path!r} goes through more than {_LINKS} links")
                target = node.info.linkname
                if target.startswith("/"):
                    done = []
                left = [piece for piece in target.split("/") if piece] + left
            elif node is not None and not node.info.isdir():
                raise ValueError(f"{path!r} goes through {here!r}, which is no folder")
            else:
                done.append(part)
        real = "/".join(done)
        if len(real) > LONGEST:
            raise ValueError(f"{path[:80]!r} leads to a path of more than {LONGEST} characters")
        return real

    def _place(self, path: str, node: _Node) -> None:
        if not (node.info.isdir() and path in self._children):
            self._remove(path)
        self._nodes[path] = node
        self._children.setdefault(posixpath.dirname(path), set()).add(path)
        if node.info.isdir():
            self._children.setdefault(path, set())

    def _remove(self, path: str) -> None:
        if path in self._nodes:
            self._empty(path)
            self._children.pop(path, None)
            self._children[posixpath.dirname(path)].discard(path)
            del self._nodes[path]

    def _empty(self, path: str) -> None:
        left = list(self._children.get(path, ()))
        while left:
            child = left.pop()
            left.extend(self._children.pop(child, ()))
            del self._nodes[child]
        if path in self._children:
            self._children[path] = set()


def members_of(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The entries of somebody's tar. Raises ValueError where they are too many, or have no end."""
    for number, member in enumerate(archive):
        if number == MOST_ENTRIES:
            raise ValueError(f"a tar has more than {MOST_ENTRIES} entries")
        if member.size < 0:  # the next one would be where this one is
            raise ValueError(f"{member.name[:80]!r} has a size below zero")
        if max(len(member.name), len(member.linkname)) > LONGEST:
            raise ValueError(f"a tar has a path of more than {LONGEST} characters")
        yield member


def _plain(name: str) -> str:
    """The normal form of a path in a layer; refuses one that leads upwards."""
    if "\0" in name or ".." in name.split("/"):
        raise ValueError(f"a layer has the path {name!r}, which leads out of it")
    return posixpath.normpath("/" + name).strip("/")


def _info(path: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.type, info.mode, info.mtime = kind, mode, EPOCH
    return info


def _content(node: _Node) -> IO[bytes]:
    if node.layer is None:
        return io.BytesIO(node.data)
    file = node.layer.extractfile(node.info)
    if file is None:
        raise ValueError(f"{node.info.name!r} has no content")
    return file
