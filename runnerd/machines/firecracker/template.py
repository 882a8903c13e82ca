"""A frozen Firecracker machine on disk: memory, state and the disk as it was; complete or not used."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import msgspec

from runnerd.machines.driver import Size
from runnerd.machines.firecracker import requests
from runnerd.machines.firecracker.versions import Version

PREPARATION = 1
"""Counts the ways in which a template is brought to rest."""
FILES = ("memory", "state", "upper")


class _Saved(msgspec.Struct, frozen=True, kw_only=True):
    key: str
    sizes: dict[str, int]
    state: str
    """sha256: Firecracker trusts this file."""


def key(*, version: Version, image: str, size: Size, processor: str, kernel: str) -> str:
    """All that a machine must have in common with what it is loaded from.

    `image` is the image's digest, `processor` and `kernel` are the host's: a state loads on no others.
    """
    parts = [
        str(version),
        image,
        msgspec.to_builtins(size),
        processor,
        kernel,
        requests.cold_boot(size, version),
        PREPARATION,
    ]
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32]


def save(work: Path, final: Path, key_: str) -> None:
    """Make a folder with `FILES` a template, for reading only: it appears whole or not at all. Blocks."""
    saved = _Saved(
        key=key_,
        sizes={name: (work / name).stat().st_size for name in FILES},
        state=_digest(work / "state"),
    )
    for name in FILES:
        (work / name).chmod(0o444)
    (work / "template.json").write_bytes(msgspec.json.encode(saved))
    shutil.rmtree(final, ignore_errors=True)
    work.rename(final)


def load(folder: Path, key_: str) -> bool:
    """Whether a folder holds the template of this key, unharmed as far as a look at sizes and state shows."""
    try:
        saved = msgspec.json.decode((folder / "template.json").read_bytes(), type=_Saved)
        return (
            saved.key == key_
            and all((folder / name).stat().st_size == saved.sizes.get(name) for name in FILES)
            and saved.state == _digest(folder / "state")
        )
    except (OSError, msgspec.MsgspecError):
        return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def take(jail: Path, work: Path) -> None:
    """Move a frozen machine's files out of its jail; they are root's from now on. Blocks. Raises OSError."""
    for name in FILES:
        source = jail / name
        if source.is_symlink() or not source.is_file():
            raise OSError(f"the frozen machine has no file {name}")
        shutil.move(source, work / name)
        os.chown(work / name, os.geteuid(), os.getegid())
