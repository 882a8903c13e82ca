"""Container images on disk: every digest checked, folders and tars alike."""

import gzip
import hashlib
import json
import os
import sys
import tarfile

import pytest

from runnerd.machines import oci

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from .oci_layout import tarred, write

LAYERS = [tarred({"etc/os": (0o644, b"one"), "bin/sh": (0o755, b"sh")}), tarred({"etc/os": (0o644, b"two")})]


def read(path, work, name):
    with oci.opened(path, work) as tree:
        return tree.read(name)


def test_a_folder_and_a_tar_are_the_same_image(tmp_path):
    """The upper layer's file is found either way, and the identity is one."""
    layout = write(tmp_path / "layout", LAYERS)
    with tarfile.open(tmp_path / "layout.tar", "w") as archive:
        archive.add(layout, ".")
    for path in (layout, tmp_path / "layout.tar"):
        assert read(path, tmp_path, "etc/os") == b"two"
        assert oci.identity(path) == oci.identity(layout)


def test_a_changed_blob_is_found(tmp_path):
    """Whatever blob is touched, nothing is read from the image."""
    layout = write(tmp_path / "layout", LAYERS)
    for path in sorted((layout / "blobs/sha256").iterdir()):
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(ValueError, match="damaged"):
            read(layout, tmp_path, "etc/os")
        path.write_bytes(data)
    assert read(layout, tmp_path, "etc/os") == b"two"


def test_a_layer_must_be_what_the_configuration_says(tmp_path):
    """Layers in another order than the image's own are refused, though each blob is whole."""
    layout = write(tmp_path / "layout", LAYERS)
    index = json.loads((layout / "index.json").read_text())
    blobs = layout / "blobs/sha256"
    manifest = json.loads((blobs / index["manifests"][0]["digest"][7:]).read_text())
    manifest["layers"].reverse()
    data = json.dumps(manifest).encode()
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    index["manifests"][0] |= {"digest": f"sha256:{digest}", "size": len(data)}
    (layout / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="not what the image's configuration says"):
        read(layout, tmp_path, "etc/os")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda layout: (layout / "index.json").write_text("{"), "damaged or no OCI image"),
        (lambda layout: (layout / "index.json").unlink(), r"layout is no OCI layout.*skopeo copy"),
        (
            lambda layout: (layout / "index.json").write_text(
                '{"manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", '
                '"digest": "sha256:../../../../etc/passwd", "size": 1}]}'
            ),
            "no sha256 digest",
        ),
    ],
)
def test_what_is_no_layout_is_refused(tmp_path, change, problem):
    """The error says what is wrong with it."""
    layout = write(tmp_path / "layout", LAYERS)
    change(layout)
    with pytest.raises(ValueError, match=problem):
        read(layout, tmp_path, "etc/os")


def test_what_is_no_image_at_all_is_refused_in_a_line(tmp_path):
    """With its path, whatever a tar reader says of it; also the tar that `docker save` wrote of old."""
    (tmp_path / "script").write_text("echo")
    with tarfile.open(tmp_path / "saved.tar", "w") as saved:
        saved.add(tmp_path / "script", "manifest.json")
    for name, problem in (
        ("script", "script is no OCI image: neither"),
        ("saved.tar", "it has no index.json"),
    ):
        with pytest.raises(ValueError, match=problem) as caught:
            oci.identity(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path))
        assert "\n" not in str(caught.value)


def test_an_image_for_another_processor_is_refused(tmp_path):
    """Only 64-bit x86 Linux runs in a machine; the cure is named."""
    layout = write(tmp_path / "layout", LAYERS, architecture="arm64")
    with pytest.raises(ValueError, match=r"0 images for linux/amd64.*skopeo copy"):
        oci.identity(layout)


def chunked(data):
    """Several frames and a skippable one, as builders write for readers who want a part."""
    half = len(data) // 2
    skippable = (0x184D2A50).to_bytes(4, "little") + (5).to_bytes(4, "little") + b"index"
    return zstd.compress(data[:half]) + zstd.compress(data[half:]) + skippable


@pytest.mark.parametrize("pack", [zstd.compress, chunked])
def test_layers_of_zstd(tmp_path, pack):
    """They are read as those of gzip are, with both digests checked."""
    layout = write(tmp_path / "layout", LAYERS, form="zstd", pack=pack)
    assert read(layout, tmp_path, "etc/os") == b"two"
    assert read(layout, tmp_path, "bin/sh") == b"sh"


@pytest.mark.parametrize(
    ("pack", "problem"),
    [
        (lambda data: zstd.compress(data)[:-9], "damaged"),
        (lambda data: b"\x28\xb5\x2f\xfd" + os.urandom(99), "damaged"),
        (lambda data: zstd.compress(data) + b"more", "damaged"),
        (lambda data: zstd.compress(data + bytes(512)), "not what the image's configuration says"),
    ],
)
def test_layers_of_zstd_that_are_harmed(tmp_path, pack, problem):
    """Cut off, no zstd, followed by something else, or of other content: refused."""
    layout = write(tmp_path / "layout", LAYERS, form="zstd", pack=pack)
    with pytest.raises(ValueError, match=problem):
        read(layout, tmp_path, "etc/os")


def windowed(data):
    """A frame that asks for 256 MiB of memory."""
    packer = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 28})
    return packer.compress(data) + packer.flush()


def test_a_layer_that_wants_too_much_memory(tmp_path):
    """A frame says how much memory its unpacking takes: more than is customary is refused."""
    layout = write(tmp_path / "layout", LAYERS, form="zstd", pack=windowed)
    with pytest.raises(ValueError, match=r"damaged or no OCI image.*memory"):
        read(layout, tmp_path, "etc/os")


@pytest.mark.parametrize(("form", "pack"), [("zstd", zstd.compress), ("gzip", gzip.compress)])
def test_layers_unpack_to_a_bounded_size(tmp_path, monkeypatch, form, pack):
    """All of them together: a few KiB that unpack to anything fill no disk."""
    monkeypatch.setattr(oci, "LARGEST_IMAGE", 3 << 20)
    bomb = tarred({"zeros": (0o644, bytes(2 << 20))})
    assert len(pack(bomb)) < 10_000
    assert read(write(tmp_path / "one", [bomb], form=form, pack=pack), tmp_path, "absent") is None
    with pytest.raises(ValueError, match="unpack to more than"):
        read(write(tmp_path / "two", [bomb, bomb], form=form, pack=pack), tmp_path, "absent")


def test_a_header_of_a_layer_is_bounded(tmp_path):
    """What a header says of its own length is not read into memory."""
    info = tarfile.TarInfo("long")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 9 << 20
    layout = write(tmp_path / "layout", [info.tobuf(tarfile.GNU_FORMAT) + bytes(9 << 20)])
    with pytest.raises(ValueError, match="a header of a layer has 9437184 bytes"):
        read(layout, tmp_path, "x")


def test_a_tar_without_an_end(tmp_path):
    """A tar of a layout whose entry leads back to itself is refused."""
    info = tarfile.TarInfo("a")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = (-512).to_bytes(12, "big", signed=True)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    first = tarfile.TarInfo("x").tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "layout.tar").write_bytes(first + header + bytes(1024))
    with pytest.raises(ValueError, match="below zero"):
        oci.identity(tmp_path / "layout.tar")


def test_a_layer_of_another_form(tmp_path):
    """The form is named, and the program that converts it."""
    layout = write(tmp_path / "layout", LAYERS, form="bzip2")
    with pytest.raises(ValueError, match=r"tar\+bzip2.*skopeo copy --dest-compress-format gzip"):
        read(layout, tmp_path, "etc/os")
