"""Tells systemd how the daemon is: ready, stopping, alive. Does nothing, quietly, without systemd."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

READY = "READY=1"
STOPPING = "STOPPING=1"
WATCHDOG = "WATCHDOG=1"


def status(text: str) -> str:
    """Return the state that shows one line in `systemctl status`."""
    return "STATUS=" + " ".join(text.split())[:500]


def reloading(monotonic: float) -> str:
    """Return the state that announces a reload, ended by READY; `monotonic` is that clock in seconds."""
    return f"RELOADING=1\nMONOTONIC_USEC={int(monotonic * 1_000_000)}"


def extend_timeout(seconds: float) -> str:
    """Return the state that asks for that much more time to start or to stop."""
    return f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}"


def notify(*states: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Send states to `$NOTIFY_SOCKET`; returns whether they were sent. Never raises and never waits."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as channel:
            channel.sendto("\n".join(states).encode(), address.replace("@", "\0", 1))
    except OSError:
        return False
    return True


def watchdog_interval(environ: Mapping[str, str] = os.environ, *, pid: int | None = None) -> float | None:
    """Return the seconds between two WATCHDOG states, half of what systemd allows, or None."""
    meant = environ.get("WATCHDOG_PID")
    allowed = environ.get("WATCHDOG_USEC", "")
    if not allowed.isascii() or not allowed.isdigit() or int(allowed) == 0:
        return None
    if meant and meant != str(os.getpid() if pid is None else pid):
        return None
    return int(allowed) / 2_000_000
