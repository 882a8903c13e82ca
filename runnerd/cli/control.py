"""The way from a command to the daemon: which socket, and what its refusals mean for the exit status."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runnerd.cli.output import Code, clean, fail
from runnerd.web.client import Client, Refusal, Unreachable

SYSTEM_SOCKET = Path("/run/runnerd/control.sock")
"""Where the daemon of systemd/runnerd.service listens; its environment is not the user's."""


@contextmanager
def daemon(given: Path | None) -> Iterator[Client]:
    """Give a client of the daemon; no answer ends the command with status 3, an unknown id with 4."""
    try:
        yield Client(socket_path(given))
    except Unreachable as error:
        fail(str(error), Code.UNREACHABLE)
    except Refusal as error:
        fail(clean(error), Code.NOTHING if error.status == 404 else Code.NOT_GREEN)


def socket_path(given: Path | None) -> Path:
    """Return the socket that is meant: the one given, the environment's, else the system's if it is there."""
    from runnerd.config import paths

    if given is not None:
        return given
    own = paths.control_socket(os.environ)
    if not own.exists() and "RUNNERD_SOCKET" not in os.environ and SYSTEM_SOCKET.exists():
        return SYSTEM_SOCKET
    return own
