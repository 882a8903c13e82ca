"""Behaviour of runnerd.web.listeners."""

from __future__ import annotations

import os
import socket
import stat

import pytest
import trio

from runnerd.web import listeners


async def knock(path):
    """Connect, and return whether a server took it."""
    stream = await trio.open_unix_socket(str(path))
    await stream.aclose()


async def test_tcp_listens_on_a_free_port():
    """Port 0 gives a port that connections reach."""
    [listener] = await listeners.open_tcp("127.0.0.1", 0)
    async with listener:
        port = listener.socket.getsockname()[1]
        async with await trio.open_tcp_stream("127.0.0.1", port), await listener.accept():
            pass


async def test_tcp_says_which_address_is_taken():
    """The error names host and port, and the setting that has them."""
    [listener] = await listeners.open_tcp("127.0.0.1", 0)
    async with listener:
        port = listener.socket.getsockname()[1]
        with pytest.raises(OSError, match=f"127.0.0.1:{port}: Address already in use: end .* mend .a. b$"):
            await listeners.open_tcp("127.0.0.1", port, setting="[a] b")


async def test_a_unix_socket_has_its_mode_and_goes_with_its_server(tmp_path):
    """Owner and group may connect, others may not; closing removes the file and may be repeated."""
    path = tmp_path / "control.sock"
    listener = listeners.open_unix(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    await knock(path)
    async with await listener.accept():
        pass
    await listener.aclose()
    await listener.aclose()
    assert list(tmp_path.iterdir()) == []


async def test_a_stale_socket_is_replaced(tmp_path):
    """A file that a killed daemon left behind is in nobody's use."""
    path = tmp_path / "control.sock"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    async with listeners.open_unix(path):
        await knock(path)


async def test_a_live_socket_is_never_stolen(tmp_path):
    """A second daemon is refused and the first one goes on."""
    path = tmp_path / "control.sock"
    async with listeners.open_unix(path):
        with pytest.raises(OSError, match="another daemon"):
            listeners.open_unix(path)
        await knock(path)
        assert [child.name for child in tmp_path.iterdir()] == ["control.sock"]


async def test_a_socket_that_took_our_place_stays(tmp_path):
    """Closing removes only our own file."""
    path = tmp_path / "control.sock"
    first = listeners.open_unix(path)
    path.unlink()
    async with listeners.open_unix(path):
        await first.aclose()
        await knock(path)


def test_another_file_is_not_touched(tmp_path):
    """What is no socket stays as it is."""
    path = tmp_path / "control.sock"
    path.write_text("precious")
    with pytest.raises(FileExistsError, match="no socket"):
        listeners.open_unix(path)
    assert path.read_text() == "precious"


def test_a_path_that_is_too_long_or_has_no_folder_is_said(tmp_path):
    """The error names the path, and nothing is left behind."""
    for path in (tmp_path / ("x" * 150), tmp_path / "none" / "control.sock"):
        with pytest.raises(OSError, match="cannot listen on"):
            listeners.open_unix(path)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def handed_over(monkeypatch):
    """A listening socket as systemd's first descriptor."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(listeners, "FIRST_DESCRIPTOR", server.fileno())
        yield server


def environ(**changes):
    return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "webhook", **changes}


async def test_systemds_sockets_are_found_by_name_and_survive_a_restart(handed_over):
    """A server may close its copy; the next start gets another, with the connections that waited."""
    address = handed_over.getsockname()
    for _ in range(3):
        waiting = await trio.open_tcp_stream(*address)
        [listener] = listeners.systemd(["webhook"], environ(), os.getpid())["webhook"]
        async with listener, waiting, await listener.accept():
            pass


def test_sockets_for_others_are_left_alone(handed_over):
    """Another process's sockets, other names, and none at all give nothing."""
    assert listeners.systemd(["webhook"], environ(LISTEN_PID="1"), os.getpid()) == {}
    assert listeners.systemd(["webhook"], {}, os.getpid()) == {}
    assert listeners.systemd(["control"], environ(), os.getpid()) == {}
    assert listeners.systemd(["webhook"], environ(LISTEN_FDNAMES=""), os.getpid()) == {}


def test_a_descriptor_that_does_not_listen_is_said(monkeypatch, tmp_path):
    """A file, or a connected socket, is a mistake in the unit."""
    with (tmp_path / "file").open("w") as file:
        monkeypatch.setattr(listeners, "FIRST_DESCRIPTOR", file.fileno())
        with pytest.raises(OSError, match="is no socket"):
            listeners.systemd(["webhook"], environ(), os.getpid())
    one, other = socket.socketpair()
    with one, other:
        monkeypatch.setattr(listeners, "FIRST_DESCRIPTOR", one.fileno())
        with pytest.raises(OSError, match="does not listen"):
            listeners.systemd(["webhook"], environ(), os.getpid())
