"""Reads container images from disk, an OCI layout or a tar of one, and makes one tar of their layers.

Everything in it is somebody else's: each blob is checked against its digest, whole and unpacked.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import posixpath
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Protocol, cast

import msgspec

from runnerd.machines.layers import Tree, members_of

if sys.version_info >= (3, 14):
    from compression.zstd import DecompressionParameter, ZstdError, ZstdFile
else:
    from backports.zstd import DecompressionParameter, ZstdError, ZstdFile

LARGEST_TEXT = 4 << 20
LARGEST_IMAGE = 32 << 30
"""Bytes of all layers together, unpacked."""
MOST_LAYERS = 127
WINDOW = 27
"""Log2 of the memory that unpacking a layer may take: what the zstd program takes unless told otherwise."""

_GZIP = ("application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.docker.image.rootfs.diff.tar.gzip")
_ZSTD = ("application/vnd.oci.image.layer.v1.tar+zstd",)
_PLAIN = ("application/vnd.oci.image.layer.v1.tar",)
_INDEX = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MANIFEST = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)


_DAMAGE = (
    *(tarfile.TarError, msgspec.MsgspecError, UnicodeError),
    *(EOFError, zlib.error, gzip.BadGzipFile, ZstdError),
)


class Platform(msgspec.Struct, frozen=True):
    """What a manifest of an index runs on."""

    os: str = ""
    architecture: str = ""


class Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    """A blob: its digest and its size."""

    media_type: str
    digest: str
    size: int
    platform: Platform | None = None


class _Index(msgspec.Struct, frozen=True):
    manifests: tuple[Descriptor, ...]


class _Manifest(msgspec.Struct, frozen=True):
    config: Descriptor
    layers: tuple[Descriptor, ...]


class _RootFs(msgspec.Struct, frozen=True):
    diff_ids: tuple[str, ...]


class _Config(msgspec.Struct, frozen=True):
    rootfs: _RootFs


class _Store(Protocol):
    def open(self, name: str) -> IO[bytes]: ...


class _Folder:
    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self, name: str) -> IO[bytes]:
        try:
            return (self._path / name).open("rb")
        except OSError as error:
            raise ValueError(f"{self._path} {_no_layout(name)} ({error.strerror})") from error


class _Tar:
    def __init__(self, path: Path, archive: tarfile.TarFile) -> None:
        self._path = path
        self._archive = archive
        files = (member for member in members_of(archive) if member.isreg())
        self._members = {posixpath.normpath(member.name): member for member in files}

    def open(self, name: str) -> IO[bytes]:
        member = self._members.get(name)
        file = self._archive.extractfile(member) if member else None
        if file is None:
            raise ValueError(f"{self._path} {_no_layout(name)}")
        return file


def _no_layout(name: str) -> str:
    """Say what is missing; without an index it is of another kind, as `docker save` of old wrote."""
    if name != "index.json":
        return f"has no {name}"
    return (
        "is no OCI layout, for it has no index.json: make one with "
        "skopeo copy docker-archive:/its/path oci-archive:/another.tar"
    )


@contextmanager
def opened(path: Path, work: Path) -> Iterator[Tree]:
    """Give the tree of the one image for 64-bit x86 Linux in a layout, every digest of it checked.

    Layers are unpacked to unnamed files in `work` for as long as the context lasts. Raises ValueError with
    what is wrong with the image, OSError when it cannot be read.
    """
    try:
        with ExitStack() as stack:
            store = _store(path, stack)
            manifest = _manifest(store, path)
            config = msgspec.json.decode(_text(store, manifest.config), type=_Config)
            if len(config.rootfs.diff_ids) != len(manifest.layers) or len(manifest.layers) > MOST_LAYERS:
                raise ValueError("its configuration and its manifest disagree about its layers")
            tree, left = Tree(), LARGEST_IMAGE
            for layer, wanted in zip(manifest.layers, config.rootfs.diff_ids, strict=True):
                plain = stack.enter_context(tempfile.TemporaryFile(dir=work))
                left -= _unpack(store, layer, wanted, plain, left)
                sparing = cast(IO[bytes], _Sparing(plain))
                tree.apply(stack.enter_context(tarfile.open(fileobj=sparing, mode="r:")))
            yield tree
    except _DAMAGE as error:
        raise ValueError(f"{path} is damaged or no OCI image: {error}") from error


def identity(path: Path) -> str:
    """The digest of the manifest that a layout leads to: the same for the same image.

    Raises ValueError and OSError as `opened` does.
    """
    try:
        with ExitStack() as stack:
            store = _store(path, stack)
            return _chosen(store, path).digest
    except _DAMAGE as error:
        raise ValueError(f"{path} is damaged or no OCI image: {error}") from error


def _store(path: Path, stack: ExitStack) -> _Store:
    if path.is_dir():
        return _Folder(path)
    try:
        return _Tar(path, stack.enter_context(tarfile.open(path)))
    except tarfile.ReadError as error:
        raise ValueError(f"{path} is no OCI image: neither a folder nor a tar of one") from error


def _chosen(store: _Store, path: Path) -> Descriptor:
    with store.open("index.json") as file:
        found = list(msgspec.json.decode(file.read(LARGEST_TEXT), type=_Index).manifests)
    for _ in range(3):
        if all(each.media_type not in _INDEX for each in found):
            break
        nested = [each for each in found if each.media_type in _INDEX]
        found = [each for each in found if each.media_type not in _INDEX]
        for each in nested:
            found += msgspec.json.decode(_text(store, each), type=_Index).manifests
    ours = [
        each
        for each in found
        if each.media_type in _MANIFEST
        and (each.platform is None or each.platform == Platform("linux", "amd64"))
    ]
    if len({each.digest for each in ours}) != 1:
        raise ValueError(
            f"{path} holds {len(ours)} images for linux/amd64 and one is wanted: copy one out with "
            f"skopeo copy oci:{path}:TAG oci:/another/folder"
        )
    return ours[0]


def _manifest(store: _Store, path: Path) -> _Manifest:
    return msgspec.json.decode(_text(store, _chosen(store, path)), type=_Manifest)


def _blob(store: _Store, descriptor: Descriptor) -> IO[bytes]:
    kind, _, digest = descriptor.digest.partition(":")
    if kind != "sha256" or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise ValueError(f"{descriptor.digest[:80]!r} is no sha256 digest")
    return store.open(f"blobs/sha256/{digest}")


def _text(store: _Store, descriptor: Descriptor) -> bytes:
    with _blob(store, descriptor) as file:
        data = file.read(LARGEST_TEXT)
    _check(descriptor, hashlib.sha256(data).hexdigest())
    return data


def _check(descriptor: Descriptor, found: str) -> None:
    if descriptor.digest != f"sha256:{found}":
        raise ValueError(f"the blob {descriptor.digest} is damaged: its content has the digest {found}")


class _Sparing:
    """A layer's tar, of which nobody reads much at once: a header says itself how long it is."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if size > 2 * LARGEST_TEXT:
            raise ValueError(f"a header of a layer has {size} bytes")
        return self._file.read(size)


class _Hashing(io.RawIOBase):
    """Reads a file and hashes all that is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self._file.read(len(buffer))
        self.digest.update(data)
        buffer[: len(data)] = data
        return len(data)


def _unpack(store: _Store, layer: Descriptor, diff_id: str, out: IO[bytes], left: int) -> int:
    """Write a layer's tar to a file and return its size, which is at most `left`.

    Both digests are checked: of what is stored, and of what it unpacks to.
    """
    if layer.media_type not in (*_GZIP, *_ZSTD, *_PLAIN):
        raise ValueError(
            f"a layer is of the kind {layer.media_type!r}, which is not read here: convert the image with "
            "skopeo copy --dest-compress-format gzip"
        )
    plain, size = hashlib.sha256(), 0
    with _blob(store, layer) as file:
        stored = _Hashing(file)
        source = cast(IO[bytes], stored)
        if layer.media_type in _GZIP:
            source = cast(IO[bytes], gzip.GzipFile(fileobj=stored))
        elif layer.media_type in _ZSTD:
            limit: dict[int, int] = {DecompressionParameter.window_log_max: WINDOW}
            source = cast(IO[bytes], ZstdFile(stored, options=limit))
        while data := source.read(1 << 20):
            size += len(data)
            if size > left:
                raise ValueError(f"its layers unpack to more than {LARGEST_IMAGE >> 30} GiB")
            plain.update(data)
            out.write(data)
        while stored.read(1 << 20):
            pass
    _check(layer, stored.digest.hexdigest())
    if diff_id != f"sha256:{plain.hexdigest()}":
        raise ValueError(f"a layer is not what the image's configuration says it is ({diff_id[:80]})")
    out.seek(0, os.SEEK_SET)
    return size
