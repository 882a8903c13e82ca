"""Container images on disk: every digest checked, folders and tars alike."""

import hashlib
import json
import tarfile

import pytest

from runnerd.machines import oci

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
        (lambda layout: (layout / "index.json").unlink(), "has no index.json"),
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


def test_an_image_for_another_processor_is_refused(tmp_path):
    """Only 64-bit x86 Linux runs in a machine; the cure is named."""
    layout = write(tmp_path / "layout", LAYERS, architecture="arm64")
    with pytest.raises(ValueError, match=r"0 images for linux/amd64.*skopeo copy"):
        oci.identity(layout)
