"""Tar archives into the machine."""

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from runnerd.machines.guest import archive, wire

from .conftest import Host


def tar(*members: tuple[str, str, Any]) -> bytes:
    """An archive of (name, kind, content or target)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as out:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.mode = 0o755
            info.mtime = 1_000_000_000
            info.type = {
                "file": tarfile.REGTYPE,
                "folder": tarfile.DIRTYPE,
                "link": tarfile.SYMTYPE,
                "hard": tarfile.LNKTYPE,
                "device": tarfile.CHRTYPE,
            }[kind]
            if kind == "file":
                info.size = len(content)
                out.addfile(info, io.BytesIO(content))
            else:
                info.linkname = content or ""
                out.addfile(info)
    return buffer.getvalue()


def unpack(host: Host, data: bytes, into: Path) -> dict[str, Any]:
    stream = host.request("unpack", into=str(into), user=1001)
    for start in range(0, min(len(data), wire.WINDOW_SIZE), 32768):
        host.send(wire.DATA, stream | wire.TO_GUEST, data[start : start + 32768])
    host.send(wire.EOF, stream | wire.TO_GUEST)
    while True:
        kind, _, sender, payload = host.receive()
        if kind == wire.RES:
            assert sender == stream
            return dict(json.loads(payload))


GOOD = (
    ("a/", "folder", None),
    ("a/file", "file", b"content"),
    ("a/link", "link", "file"),
    ("a/hard", "hard", "a/file"),
    ("dangling", "link", "/etc/nowhere"),
)


def check(root: Path) -> None:
    assert (root / "a/file").read_bytes() == b"content"
    assert os.access(root / "a/file", os.X_OK)
    assert (root / "a/file").stat().st_mtime == 1_000_000_000
    assert os.readlink(root / "a/link") == "file"
    assert (root / "a/hard").samefile(root / "a/file")
    assert os.readlink(root / "dangling") == "/etc/nowhere"


def test_archive_is_unpacked_by_the_machines_tar(host: Host) -> None:
    """Files, modes, times and links are as in the archive; the folder is made."""
    assert unpack(host, tar(*GOOD), host.root / "x/y") == {}
    check(host.root / "x/y")


def test_what_tar_complains_of_is_the_error(host: Host) -> None:
    """An archive that is none is refused with tar's own words, and the agent goes on."""
    answer = unpack(host, b"this is not a tar" * 1000, host.root / "x")
    assert answer["error"].startswith("cannot unpack: tar:")
    assert host.call("ping") == {}


def test_device_is_read_instead_of_the_channel(host: Host) -> None:
    """With a device the archive comes from there; one that is no block device is refused."""
    (host.root / "image").write_bytes(tar(*GOOD))
    assert "error" in host.call(
        "unpack", into=str(host.root / "x"), user=1001, device=str(host.root / "image")
    )
    assert (
        "no disk with the serial" in host.call("unpack", into=str(host.root), device="serial:none")["error"]
    )


def extract(data: bytes, into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    into.mkdir()
    monkeypatch.chdir(into)
    archive.extract(io.BytesIO(data), tarfile)


def test_own_extraction_does_what_tar_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a tar in the image the agent's own extraction gives the same tree."""
    extract(tar(*GOOD), tmp_path / "x", monkeypatch)
    check(tmp_path / "x")


@pytest.mark.parametrize(
    "members",
    [
        [("../out", "file", b"x")],
        [("/out", "file", b"x")],
        [("a/../../out", "file", b"x")],
        [("null", "device", None)],
        [("hard", "hard", "../secret")],
    ],
)
def test_own_extraction_refuses_what_leads_out(
    members: list[tuple[str, str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names that leave the folder, devices and hard links to the outside are refused."""
    (tmp_path / "secret").write_text("secret")
    with pytest.raises((ValueError, OSError)):
        extract(tar(*members), tmp_path / "x", monkeypatch)
    assert sorted(os.listdir(tmp_path)) == ["secret", "x"]
    assert os.listdir(tmp_path / "x") == []


def test_own_extraction_never_writes_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member below an archive's own link does not follow it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    with pytest.raises(OSError, match="exists"):
        extract(tar(("way", "link", str(outside)), ("way/file", "file", b"x")), tmp_path / "x", monkeypatch)
    assert os.listdir(outside) == []
