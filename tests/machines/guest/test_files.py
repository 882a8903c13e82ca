"""Single files in and out."""

import os
import socket
import stat
from pathlib import Path

import pytest

from runnerd.machines.guest import wire

from .conftest import Host


def put(host: Host, path: str | Path, data: bytes, mode: int = 0o644) -> dict[str, object]:
    stream = host.request("put", path=str(path), mode=mode, user=1001)
    for start in range(0, len(data), 32768):
        host.send(wire.DATA, stream | wire.TO_GUEST, data[start : start + 32768])
    host.send(wire.EOF, stream | wire.TO_GUEST)
    return host.answer(stream)


def get(host: Host, path: str | Path, limit: int = 1 << 20) -> bytes | dict[str, object]:
    stream = host.request("get", path=str(path), limit=limit)
    answer = host.answer(stream)
    return answer if "error" in answer else host.finish(stream)[1]


def test_file_goes_in_and_comes_out(host: Host) -> None:
    """Folders are made, mode and content are as given, and the file is read back."""
    path = host.root / "a/b/file"
    data = os.urandom(100_000)
    assert put(host, path, data, 0o750) == {}
    assert path.read_bytes() == data
    assert stat.S_IMODE(path.stat().st_mode) == 0o750
    assert get(host, path) == data
    assert put(host, path, b"") == {}
    assert get(host, path) == b""
    assert os.listdir(path.parent) == ["file"]


def test_larger_than_the_window_comes_out_under_credit(host: Host) -> None:
    """A file beyond one window is sent as credit returns."""
    data = os.urandom(wire.WINDOW_SIZE * 2 + 5)
    (host.root / "file").write_bytes(data)
    assert get(host, host.root / "file") == data


def test_link_in_the_last_place_is_replaced_and_not_read(
    host: Host, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A put replaces a link itself; a get of one says that it is no regular file."""
    outside = tmp_path_factory.mktemp("outside") / "file"
    outside.write_text("secret")
    link = host.root / "link"
    link.symlink_to(outside)
    assert get(host, link)["error"] == "not a regular file"
    assert put(host, link, b"new") == {}
    assert (outside.read_text(), link.read_text(), link.is_symlink()) == ("secret", "new", False)


def test_links_on_the_way_lead_nowhere_else(host: Host, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Through a folder that is a link to the outside nothing is read or written."""
    outside = tmp_path_factory.mktemp("outside")
    (outside / "file").write_text("secret")
    (host.root / "way").symlink_to(outside)
    assert "error" in get(host, host.root / "way/file")
    assert "error" in put(host, host.root / "way/file", b"new")
    assert "error" in put(host, host.root / "way/sub/file", b"new")
    assert os.listdir(outside) == ["file"]
    assert (outside / "file").read_text() == "secret"


def test_what_is_no_file_is_refused_at_once(host: Host) -> None:
    """Fifos, sockets, folders and devices hold nothing up."""
    os.mkfifo(host.root / "fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(host.root / "socket"))
        for name in ("fifo", "socket", ""):
            assert get(host, f"{host.root}/{name}")["error"] == "not a regular file"


def test_sizes_are_bounded(host: Host) -> None:
    """A file above the limit is refused by its size, also when it is a hole."""
    with (host.root / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    assert "are allowed" in get(host, host.root / "sparse")["error"]
    assert get(host, host.root / "absent")["errno"] == 2


def test_put_that_cannot_be_leaves_nothing(host: Host) -> None:
    """A folder in the file's place, or no folder on the way, refuses the put and leaves no part behind."""
    (host.root / "folder").mkdir()
    assert put(host, host.root / "folder", b"x")["errno"] == 21
    assert "error" in put(host, f"{host.root}/folder/", b"x")
    (host.root / "file").write_text("")
    assert put(host, host.root / "file/x", b"x")["errno"] == 20
    assert sorted(os.listdir(host.root)) == ["file", "folder"]


def test_half_a_put_is_never_seen(host: Host) -> None:
    """A put that is taken back leaves the old file and no part."""
    (host.root / "file").write_text("old")
    stream = host.request("put", path=str(host.root / "file"), mode=0o644, user=0)
    host.send(wire.DATA, stream | wire.TO_GUEST, b"new")
    host.send(wire.RESET, stream)
    assert "taken back" in host.answer(stream)["error"]
    assert (host.root / "file").read_text() == "old"
    assert os.listdir(host.root) == ["file"]
