"""Writes OCI layouts for tests: one image of the layers given, each the bytes of a tar."""

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

KIND = "application/vnd.oci.image"


def tarred(files):
    """A tar of name -> (mode, content)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, (mode, data) in files.items():
            info = tarfile.TarInfo(name)
            info.mode, info.size = mode, len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def write(path: Path, layers, *, architecture="amd64", form="gzip", pack=gzip.compress):
    """Make a layout in a folder and return it; layers are of the `form` that `pack` gives them."""
    blobs = path / "blobs/sha256"
    blobs.mkdir(parents=True, exist_ok=True)

    def blob(kind, data):
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": f"{KIND}.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    ids = [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in layers]
    config = blob("config.v1+json", json.dumps({"rootfs": {"type": "layers", "diff_ids": ids}}).encode())
    packed = [blob(f"layer.v1.tar+{form}", pack(data)) for data in layers]
    manifest = blob(
        "manifest.v1+json", json.dumps({"schemaVersion": 2, "config": config, "layers": packed}).encode()
    )
    manifest["platform"] = {"os": "linux", "architecture": architecture}
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    return path
