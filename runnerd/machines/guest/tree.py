"""The files under one folder, resolved by the kernel so that no link made by a job leads out of it."""

from __future__ import annotations

import ctypes
import errno
import os
import stat

_libc = ctypes.CDLL(None, use_errno=True)
_OPENAT2 = 437  # the same number on every architecture
_NO_MAGICLINKS, _BENEATH, _IN_ROOT = 0x02, 0x08, 0x10


class _How(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


class Tree:
    """The folder `root`. Absolute paths mean files in it as if it were `/`, unless `confined`:

    then they mean what they say, and one outside of `root` is refused.
    """

    def __init__(self, root: str, *, confined: bool = False) -> None:
        self.root = root.rstrip("/") or "/"
        self._confined = confined
        self._fd = os.open(root, os.O_PATH | os.O_DIRECTORY)

    def open(self, path: str, flags: int) -> int:
        """Open an existing file; the last component is not followed when it is a link."""
        return self._open(self._inside(path), flags | os.O_NOFOLLOW)

    def stat(self, path: str) -> os.stat_result:
        """What is at the end of all links; raises OSError."""
        fd = self._open(self._inside(path), os.O_PATH)
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def folder(self, path: str, user: int | None) -> int:
        """Open a folder (O_PATH), making it and its parents, owned by `user`, where they are missing."""
        return self._folder(self._inside(path), user)

    def close(self) -> None:
        """Let go of the root."""
        os.close(self._fd)

    def _inside(self, path: str) -> str:
        if "\0" in path or not path.startswith("/"):
            raise ValueError(f"not an absolute path: {path!r}")
        if not self._confined:
            return path.lstrip("/") or "."
        if path != self.root and not path.startswith(self.root + "/"):
            raise PermissionError(errno.EACCES, f"{path} is outside of the machine's folder")
        return path[len(self.root) :].lstrip("/") or "."

    def _folder(self, path: str, user: int | None) -> int:
        try:
            return self._open(path, os.O_PATH | os.O_DIRECTORY)
        except FileNotFoundError:
            parent, name = os.path.split(path.rstrip("/"))
            if name in ("", ".", ".."):
                raise
        above = self._folder(parent or ".", user)
        try:
            os.mkdir(name, 0o755, dir_fd=above)
            if user is not None:
                os.chown(name, user, user, dir_fd=above, follow_symlinks=False)
        except FileExistsError:  # made meanwhile, or a dangling link: the next open tells
            pass
        finally:
            os.close(above)
        return self._open(path, os.O_PATH | os.O_DIRECTORY)

    def _open(self, path: str, flags: int) -> int:
        resolve = _NO_MAGICLINKS | (_BENEATH if self._confined else _IN_ROOT)
        how = _How(flags | os.O_CLOEXEC, 0, resolve)
        for _ in range(16):  # EAGAIN: somebody renamed a folder on the way
            fd = int(
                _libc.syscall(_OPENAT2, self._fd, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how))
            )
            if fd >= 0:
                return fd
            number = ctypes.get_errno()
            if number != errno.EAGAIN:
                break
        raise OSError(number, os.strerror(number), f"{self.root if self._confined else ''}/{path}")


def regular(fd: int, limit: int) -> int:
    """The size of a regular file; raises ValueError for another kind and for one above `limit`."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("not a regular file")
    if found.st_size > limit:
        raise ValueError(f"{found.st_size} bytes, {limit} are allowed")
    return found.st_size
