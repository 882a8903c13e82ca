"""Files written and read as one stream, encrypted where there is a key, and bounded while they grow.

What is encrypted is cut into pieces of 1 MiB, each sealed by AES-256-GCM under a key of the file's own. The
nonce counts the pieces and says which is the last (the STREAM construction of Hoang, Reyhanitabar, Rogaway
and Vizár), so that none can be changed, moved, left out or cut off unseen.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

PIECE = 1 << 20
KEY = 32
"""Bytes of a key."""
RESERVE = 1 << 30
"""Bytes of the disk that are never used for this; of a small disk the tenth part."""
_LOOK = 16 << 20
"""Bytes that are written between two looks at it."""
_MAGIC = b"runnerd sealed 1"
_SALT = 32
_TAG = 16


class Unsealed(Exception):
    """The file is not what was written: harmed, or of another key."""


class TooLarge(Exception):
    """More was written than there is room for."""


class Room:
    """How many bytes may still be written, for all files of one snapshot together.

    What is left free of the disk of `folder` is looked at again and again: others write there as well.
    """

    def __init__(self, left: int, folder: Path | None = None) -> None:
        self.left = left
        self._folder = folder
        self._unseen = 0

    def take(self, count: int) -> None:
        """Use some of it. Raises TooLarge, and OSError where the disk is nearly full."""
        if count > self.left:
            raise TooLarge("it is larger than there is room for")
        self.left -= count
        self._unseen += count
        if self._folder is not None and self._unseen >= _LOOK:
            self._unseen = 0
            disk = shutil.disk_usage(self._folder)
            if disk.free < min(RESERVE, disk.total // 10):
                raise OSError("the disk is nearly full")


class Writer:
    """A new file; a context that has written everything when it is left without an error.

    Nothing waits for the disk: what a crash of the host harms is seen by the file's hash.
    """

    def __init__(self, path: Path, key: bytes | None, room: Room) -> None:
        self._path = path
        self._key = key
        self._room = room
        self._hash = hashlib.sha256()
        self._rest = bytearray()
        self._count = 0

    @property
    def digest(self) -> str:
        """The sha256 of the file as it lies on the disk; known when the context was left."""
        return self._hash.hexdigest()

    def __enter__(self) -> Writer:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._file: BinaryIO = os.fdopen(descriptor, "wb", buffering=0)
        if self._key is not None:
            salt = os.urandom(_SALT)
            self._cipher = _cipher(self._key, salt)
            self._put(_MAGIC + salt)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._file:
            if kind is None and self._key is not None:
                self._seal(last=True)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes. Raises TooLarge and OSError."""
        if self._key is None:
            self._put(data)
            return
        self._rest += data
        while len(self._rest) > PIECE:
            self._seal(last=False)

    def _seal(self, *, last: bool) -> None:
        piece = bytes(self._rest[:PIECE])
        del self._rest[:PIECE]
        self._put(self._cipher.encrypt(_nonce(self._count, last), piece, None))
        self._count += 1

    def _put(self, data: bytes | bytearray | memoryview) -> None:
        self._room.take(len(data))
        self._hash.update(data)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) or 0 :]


def read(path: Path, key: bytes | None, digest: str, take: Callable[[bytes], object]) -> None:
    """Give a file's bytes to `take`, in order, once all of it was seen to be what was written.

    Raises Unsealed, OSError, and what `take` raises.
    """
    with path.open("rb", buffering=0) as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != digest:
            raise Unsealed(f"{path.name} is not what was written")
        file.seek(0)
        if key is None:
            while piece := file.read(PIECE):
                take(piece)
        else:
            _read_sealed(path.name, file, key, take)


def _read_sealed(name: str, file: BinaryIO, key: bytes, take: Callable[[bytes], object]) -> None:
    from cryptography.exceptions import InvalidTag

    head = file.read(len(_MAGIC) + _SALT)
    if not head.startswith(_MAGIC) or len(head) != len(_MAGIC) + _SALT:
        raise Unsealed(f"{name} is not encrypted as it should be")
    cipher = _cipher(key, head[len(_MAGIC) :])
    left = os.fstat(file.fileno()).st_size - len(head)
    count = 0
    while True:
        piece = file.read(min(PIECE + _TAG, left))
        left -= len(piece)
        try:
            take(cipher.decrypt(_nonce(count, left == 0), piece, None))
        except InvalidTag:
            raise Unsealed(f"{name} was encrypted with another key, or was changed") from None
        count += 1
        if left == 0:
            return


def _nonce(count: int, last: bool) -> bytes:
    return count.to_bytes(11, "big") + bytes([last])


def _cipher(key: bytes, salt: bytes) -> AESGCM:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    if len(key) != KEY:
        raise ValueError(f"a key has {KEY} bytes, not {len(key)}")
    return AESGCM(HKDF(algorithm=SHA256(), length=KEY, salt=salt, info=_MAGIC).derive(key))
