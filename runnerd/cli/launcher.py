"""`runnerd launcher`: the root process that starts machines for a daemon without rights. For its unit."""

from __future__ import annotations

import os
import signal
import socket
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runnerd.cli.output import fail

if TYPE_CHECKING:
    from runnerd.machines.cgroups import Groups

FIRST_DESCRIPTOR = 3
"""Where systemd hands over a socket (sd_listen_fds(3))."""


def launcher(
    user: Annotated[str, typer.Option(help="The daemon's user, who alone is served.")] = "runnerd",
    path: Annotated[
        Path, typer.Option("--socket", help="Where to listen, unless systemd hands over a socket.")
    ] = Path("/run/runnerd-launcher.sock"),
    cgroup: Annotated[
        str, typer.Option(help="The control group of machines, as [machines] cgroup says it.")
    ] = "auto",
) -> None:
    """Start machines for the daemon of another user, each under a user of its own, until SIGTERM."""
    import pwd

    import trio

    from runnerd import log
    from runnerd.machines import host, launch_server
    from runnerd.machines.cgroups import usable

    if os.geteuid() != 0:
        fail("the launcher gives machines users of their own, which only root can: start it by its unit")
    try:
        daemon = pwd.getpwnam(user)
        qemu, *_ = host.require("qemu-system-x86_64", "choom", "prlimit", "setpriv")
        groups = usable(cgroup)
        listener = _handed_over() or launch_server.listen(path, group=daemon.pw_gid)
    except KeyError:
        fail(f"there is no user {user!r}: name the daemon's with --user")
    except OSError as error:
        fail(str(error))
    log.configure()
    if groups is None:
        log.get(__name__).warning("machines have no control groups: none is handed over", cgroup=cgroup)
    else:
        for name in groups.left("runnerd-"):
            groups.leave(name)  # of a launcher that was killed; its machines ended with it
        log.get(__name__).info("machines have control groups", path=groups.path, bounds=groups.controllers)
    with listener:
        trio.run(partial(_serve, listener, qemu, daemon.pw_uid, groups))


async def _serve(listener: socket.socket, qemu: str, user: int, groups: Groups | None) -> None:
    import trio

    from runnerd.machines import launch_server
    from runnerd.machines.launcher import open_launcher
    from runnerd.notify import READY, notify

    async with open_launcher(groups=groups) as inside, trio.open_nursery() as nursery:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            await nursery.start(partial(launch_server.serve, listener, inside, qemu=qemu, users=[user]))
            notify(READY)
            async for _ in signals:
                break
        nursery.cancel_scope.cancel()


def _handed_over() -> socket.socket | None:
    """The socket of the unit, where there is one; it has to be one of packets."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        return None
    listener = socket.socket(fileno=FIRST_DESCRIPTOR)
    if listener.type != socket.SOCK_SEQPACKET:
        fail("the unit's socket is not one of packets: it needs ListenSequentialPacket=")
    listener.setblocking(False)
    return listener
