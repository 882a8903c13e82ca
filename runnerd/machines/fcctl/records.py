"""What this daemon asked the service for, kept on disk: the service has no labels to know machines by."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from runnerd.machines import disks


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One machine that was asked for; `vm` is empty until the service named it."""

    name: str
    """What it was to be called: it stays, whatever becomes of the machine."""
    machine: str = ""
    """What it is called here since it was rolled back; empty while that is `name`."""
    vm: str = ""
    asked: float
    """Seconds since the epoch."""

    @property
    def ours(self) -> str:
        """What the journal calls it."""
        return self.machine or self.name


class Records:
    """A folder with a file for each machine. Its methods block: call them in a thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, record: Record) -> None:
        """Make a record durable, before what it tells of is done."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._path(record.name)
        new = path.with_suffix(".new")
        with new.open("wb") as file:
            file.write(msgspec.json.encode(record))
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        disks.sync(self._folder)  # or the name might not be there after a power cut, and the machine would

    def drop(self, name: str) -> None:
        """Forget a machine that is gone; nothing when it is forgotten."""
        self._path(name).unlink(missing_ok=True)

    def all(self) -> list[Record]:
        """Every record; what cannot be read was cut off while written, before a machine was asked for."""
        found = []
        for path in sorted(self._folder.glob("*.json")):
            try:
                found.append(msgspec.json.decode(path.read_bytes(), type=Record))
            except (OSError, msgspec.MsgspecError):
                path.unlink(missing_ok=True)
        return found

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"
