"""Makes the small root that the agent runs in: a Python of its own and nothing else.

The agent depends on nothing in an image, so no image can break it.
"""

from __future__ import annotations

import io
import posixpath
import re
import tarfile
from pathlib import Path

PACKAGES = ("python3-minimal", "libpython3-stdlib")

FOLDERS = ("dev", "job", "lower", "proc", "run", "sys", "tmp", "upper")
"""Empty folders to mount on; the root itself is read-only."""

_LIBRARIES = (
    "ld-linux-x86-64",
    "libc",
    "libm",
    "libz",
    "libexpat",
    "libffi",
    "libdl",
    "libpthread",
    "libgcc_s",
)

_LEFT_OUT = re.compile(
    r"/(?:asyncio|config-[^/]*|concurrent|curses|dbm|distutils|email|ensurepip|html|http|idlelib|lib2to3|"
    r"multiprocessing|pydoc_data|sqlite3|test|tkinter|turtledemo|unittest|venv|wsgiref|xml|xmlrpc)(?:/|$)|"
    r"/lib-dynload/(?:_codecs|_ctypes_test|_curses|_dbm|_hashlib|_sqlite3|_ssl|_test|_xx|nis|ossaudiodev|"
    r"readline|xx)"
)


def wanted(path: str) -> bool:
    """Whether a path of the unpacked packages (absolute, under a merged /usr) belongs to the agent's root."""
    if re.fullmatch(r"/usr/bin/python3(?:\.\d+)?", path):
        return True
    if re.match(r"/usr/lib/python3\.\d+/", path):
        return not _LEFT_OUT.search(path)
    name = posixpath.basename(path)
    return path.startswith("/usr/lib") and name.partition(".so")[0].partition("-2.")[0] in _LIBRARIES


def compose(packages: Path, out: Path) -> None:
    """Write the tar of the agent's root from a tar of `PACKAGES`, unpacked.

    The same packages give the same bytes. Raises ValueError when they hold no Python.
    """
    kept: dict[str, tuple[tarfile.TarInfo, bytes]] = {}
    with tarfile.open(packages) as archive:
        for member in archive:
            path = _merged(member.name)
            if (member.isfile() or member.issym()) and wanted(path):
                file = archive.extractfile(member) if member.isfile() else None
                kept[path] = (_entry(path, member), file.read() if file else b"")
    if "/usr/bin/python3" not in kept:
        raise ValueError(f"the unpacked packages {', '.join(PACKAGES)} hold no Python")
    folders = {parent for path in kept for parent in _parents(path)} | {f"/{name}" for name in FOLDERS}
    for path in folders:
        kept[path] = (_folder(path), b"")
    for name in ("bin", "lib", "lib64"):
        kept[f"/{name}"] = (_link(f"/{name}", f"usr/{name}"), b"")
    with tarfile.open(out, "w", format=tarfile.GNU_FORMAT) as result:
        for _, (info, data) in sorted(kept.items()):
            result.addfile(info, io.BytesIO(data))


def _merged(name: str) -> str:
    """The absolute path of a member once /bin, /lib and /lib64 are links into /usr."""
    path = posixpath.normpath("/" + name)
    return "/usr" + path if path.split("/")[1] in ("bin", "lib", "lib64") else path


def _parents(path: str) -> list[str]:
    parents = []
    while (path := posixpath.dirname(path)) != "/":
        parents.append(path)
    return parents


def _entry(path: str, member: tarfile.TarInfo) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path[1:])
    info.mode = 0o755 if member.mode & 0o111 else 0o644
    info.type, info.size, info.linkname = member.type, member.size, member.linkname
    return info


def _folder(path: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path[1:])
    info.type, info.mode = tarfile.DIRTYPE, 0o755
    return info


def _link(path: str, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path[1:])
    info.type, info.mode, info.linkname = tarfile.SYMTYPE, 0o777, target
    return info
