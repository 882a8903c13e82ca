"""What systemd hears."""

import os
import socket
from pathlib import Path

import pytest

from runnerd import notify


@pytest.mark.parametrize("abstract", [False, True])
def test_states_arrive(tmp_path: Path, abstract: bool) -> None:
    """States reach the notification socket as one datagram, by path or by abstract name."""
    name = f"runnerd-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("\0" if abstract else "") + name)
        receiver.settimeout(5)
        environ = {"NOTIFY_SOCKET": ("@" if abstract else "") + name}
        assert notify.notify(notify.READY, notify.status("2 warm"), environ=environ)
        assert receiver.recv(4096) == b"READY=1\nSTATUS=2 warm"


@pytest.mark.parametrize("address", [None, "", "relative", "/nonexistent/socket"])
def test_without_systemd(address: str | None) -> None:
    """Without a usable socket nothing is sent and nothing is raised."""
    assert not notify.notify(notify.READY, environ={} if address is None else {"NOTIFY_SOCKET": address})


def test_full_socket_does_not_wait(tmp_path: Path) -> None:
    """A receiver that does not read costs the message, not the daemon's time."""
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(path)
        sent = [notify.notify(notify.WATCHDOG, environ={"NOTIFY_SOCKET": path}) for _ in range(5000)]
    assert sent[0]
    assert not sent[-1]


def test_status_is_one_line() -> None:
    """A status cannot smuggle in another state."""
    assert notify.status("busy\nREADY=1") == "STATUS=busy READY=1"


def test_reloading() -> None:
    """A reload carries the monotonic time in microseconds, as systemd wants it."""
    assert notify.reloading(1.5) == "RELOADING=1\nMONOTONIC_USEC=1500000"


def test_extend_timeout() -> None:
    """More time is asked for in microseconds."""
    assert notify.extend_timeout(30) == "EXTEND_TIMEOUT_USEC=30000000"


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 15.0),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_watchdog_interval(environ: dict[str, str], interval: float | None) -> None:
    """The watchdog is fed twice per period, and only by the process systemd watches."""
    assert notify.watchdog_interval(environ, pid=7) == interval
