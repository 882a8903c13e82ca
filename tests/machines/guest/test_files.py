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
    return get_all(host, {path: limit})[0]


def get_all(host: Host, files: dict[str | Path, int]) -> list[bytes | dict[str, object]]:
    """The content of each file, or the answer's entry that says why there is none."""
    stream = host.request("get", files=[(str(path), limit) for path, limit in files.items()])
    entries, content = host.answer(stream)["files"], b""
    if any(entry.get("size") for entry in entries):
        ended, content, _ = host.finish(stream)
        entries = ended["files"]
    found: list[bytes | dict[str, object]] = []
    for entry in entries:
        found.append(entry if "error" in entry else content[: entry["size"]])
        content = content[entry.get("size", 0) :]
    assert content == b""
    return found


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


def test_files_come_out_together(host: Host) -> None:
    """One request reads many, each under its own limit; what one of them lacks does not touch the others."""
    contents = {
        "a": b"",
        "b": os.urandom(wire.WINDOW_SIZE + 1),
        "c": b"c",
        "big": b"12345",
        "d": b"d" * 40000,
    }
    for name, data in contents.items():
        (host.root / name).write_bytes(data)
    limits: dict[str | Path, int] = {host.root / name: len(data) for name, data in contents.items()}
    found = get_all(host, limits | {host.root / "absent": 5, host.root / "big": 4, host.root: 5})
    assert [found[0], found[1], found[2], found[4]] == [contents[name] for name in "abcd"]
    assert found[3]["error"] == "5 bytes, 4 are allowed"
    assert found[5]["errno"] == 2
    assert found[6]["error"] == "not a regular file"


def test_file_that_shrinks_meanwhile_is_as_long_as_it_says(host: Host) -> None:
    """What is announced is a bound; what came is said at the end, and the next file begins there."""
    shrinks = host.root / "shrinks"
    shrinks.write_bytes(bytes(wire.WINDOW_SIZE * 3))
    (host.root / "next").write_bytes(b"next")
    stream = host.request("get", files=[(str(shrinks), 1 << 20), (str(host.root / "next"), 4)])
    host.answer(stream)
    host.queue.appendleft(host.receive())
    shrinks.write_bytes(b"")  # its first window is under way
    ended, content, _ = host.finish(stream)
    size = ended["files"][0]["size"]
    assert 0 < size < wire.WINDOW_SIZE * 3
    assert (ended["files"][1], content[size:]) == ({"size": 4}, b"next")


def test_reading_that_is_taken_back_ends(host: Host) -> None:
    """Nothing stays open of it."""
    (host.root / "file").write_bytes(bytes(wire.WINDOW_SIZE * 2))
    before = len(os.listdir(f"/proc/{host.process.pid}/fd"))
    stream = host.request("get", files=[(str(host.root / "file"), 1 << 20)] * 3)
    host.answer(stream)
    host.send(wire.RESET, stream)
    host.finish(stream)
    assert host.call("ping") == {}
    assert len(os.listdir(f"/proc/{host.process.pid}/fd")) == before


def test_number_of_files_is_bounded(host: Host) -> None:
    """More than can be open at once are refused."""
    assert "64 are allowed" in host.call("get", files=[("/x", 1)] * 65)["error"]
    assert "bad request" in host.call("get", files=[1])["error"]
