"""The sockets a server accepts on: TCP, Unix with its mode and without theft, those of systemd."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import trio

Listen = Callable[[], Awaitable[Sequence[trio.abc.Listener[trio.SocketStream]]]]
"""Opens a server's listeners; called at each start, because a server closes what it was given."""

BACKLOG = 1024
FIRST_DESCRIPTOR = 3
"""Where systemd's descriptors begin (sd_listen_fds(3))."""


class UnixListener(trio.abc.Listener[trio.SocketStream]):
    """Accepts on a Unix socket; closing it removes its file, unless another has taken its place."""

    def __init__(self, listener: trio.SocketListener, path: Path) -> None:
        self.socket = listener.socket
        self.path = path
        self._listener = listener
        self._identity = _identity(path)

    async def accept(self) -> trio.SocketStream:
        """Take the next connection."""
        return await self._listener.accept()

    async def aclose(self) -> None:
        """Stop accepting; safe to call twice."""
        if self._identity is not None and _identity(self.path) == self._identity:
            self.path.unlink(missing_ok=True)
        self._identity = None
        await self._listener.aclose()

    async def __aenter__(self) -> UnixListener:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


async def open_tcp(host: str, port: int, *, setting: str = "") -> list[trio.SocketListener]:
    """Listen on a host's addresses; port 0 takes a free one.

    Raises OSError with the address in it, and the `setting` that names another.
    """
    try:
        return await trio.open_tcp_listeners(port, host=host, backlog=BACKLOG)
    except OSError as error:
        said = f"cannot listen on {host}:{port}: {error.strerror or error}"
        cure = f": end what listens there, or mend {setting}" if setting else ""
        raise OSError(error.errno, said + cure) from error


def open_unix(path: Path, mode: int = 0o660) -> UnixListener:
    """Listen on a Unix socket with this mode from its first moment.

    A socket file that nobody listens on any more is replaced. Raises OSError, and touches nothing, when
    somebody does, when the path is something else, or when it is too long for a socket.
    """
    _make_way(path)
    # Bound under another name first: nobody can connect before the mode is right, and the rename is atomic.
    hidden = path.with_name(f".{path.name}.{os.getpid()}")
    hidden.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(str(hidden))
        hidden.chmod(mode)
        listening.listen(BACKLOG)
        hidden.rename(path)
    except OSError as error:
        listening.close()
        hidden.unlink(missing_ok=True)
        raise OSError(error.errno, f"cannot listen on {path}: {error.strerror or error}") from error
    listening.setblocking(False)
    return UnixListener(trio.SocketListener(trio.socket.from_stdlib_socket(listening)), path)


def systemd(
    names: Sequence[str], environ: Mapping[str, str], pid: int
) -> dict[str, list[trio.SocketListener]]:
    """Return the listeners that systemd's socket units hand over, by `FileDescriptorName`.

    Each call duplicates the descriptors, so that a server may close what it got and be started anew while
    connections wait in the kernel. Names without a socket are absent; sockets of other names are left
    alone. Raises OSError for a descriptor that is no listening stream socket.
    """
    if environ.get("LISTEN_PID") != str(pid):
        return {}
    given = environ.get("LISTEN_FDNAMES", "").split(":")
    found: dict[str, list[trio.SocketListener]] = {}
    for number in range(int(environ.get("LISTEN_FDS", "0"))):
        name = given[number] if number < len(given) else ""
        if name in names:
            found.setdefault(name, []).append(_adopt(FIRST_DESCRIPTOR + number, name))
    return found


def _adopt(descriptor: int, name: str) -> trio.SocketListener:
    try:
        copy = socket.socket(fileno=os.dup(descriptor))
    except OSError as error:
        raise OSError(
            error.errno, f"descriptor {descriptor} ({name}) is no socket: {error.strerror}"
        ) from error
    if not copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        copy.close()
        raise OSError(f"descriptor {descriptor} ({name}) does not listen: use Accept=no in its socket unit")
    copy.setblocking(False)
    return trio.SocketListener(trio.socket.from_stdlib_socket(copy))


def _make_way(path: Path) -> None:
    """Remove a socket file that nobody listens on; raise OSError for anything else in the way."""
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise FileExistsError(f"cannot listen on {path}: it exists and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:  # a full backlog or missing rights: somebody may well be there
            raise OSError(error.errno, f"cannot listen on {path}: it is in use ({error})") from error
    raise OSError(f"cannot listen on {path}: another daemon listens there")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
