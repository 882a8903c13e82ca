"""One daemon per state directory: a lock that the kernel drops with the process that holds it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from runnerd.store.errors import CannotOpen


class StateLock:
    """The exclusive lock on a state directory, held from construction until `release`.

    The directory is made when it is absent. Raises `CannotOpen` naming the process that holds the lock.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / "lock"
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file: int | None = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise CannotOpen(f"the state directory {directory} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._file, 32, 0).decode(errors="replace").strip() or "unknown"
            self.release()
            raise CannotOpen(
                f"the state directory {directory} is in use by the process {holder}: "
                "stop that one first, or configure another state directory"
            ) from error
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the lock up; safe to call twice. The file stays: removing it would let two hold it."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
