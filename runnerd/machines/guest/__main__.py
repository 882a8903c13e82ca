"""The agent's command line: `--port NAME | --vsock N | --fd N [--init] [--root DIR]`; see `main`."""

from __future__ import annotations

import os
import signal
import sys

from . import archive, files, forward, layout, life, memory, process, system, terminal
from .agent import Agent, Operation, end_descendants

OPERATIONS: dict[str, Operation] = {
    "ping": lambda agent, stream, request: {},
    "thaw": life.thaw,
    "clock": life.clock,
    "mount_root": life.mount_root,
    "quiesce": life.quiesce,
    "end": life.end,
    "exec": process.start,
    "signal": process.send_signal,
    "shell": terminal.start,
    "resize": terminal.resize,
    "put": files.put,
    "get": files.get,
    "lay_out": layout.lay_out,
    "unpack": archive.unpack,
    "listen": forward.listen,
}


_WAYS = "--port NAME, --vsock N or --fd N"


def main(arguments: list[str]) -> int:
    """Serve a host; one of three ways to it is named.

    `--port` is a virtio port, `--vsock` a port of the machine's own address where the host connects, `--fd`
    an open socket whose end ends the agent and all its processes. `--init`: this is the first process of a
    machine, which it may mount and set up. `--root` is where files may be written and read without `--init`.
    """
    options = _options(arguments)
    init = "init" in options
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.umask(0o022)
    if init:
        life.boot()
    if os.getpid() != 1:
        system.become_subreaper()
    _keep_descriptors_from_jobs()
    listener, port = None, -1
    if "vsock" in options:
        listener = system.vsock_listener(int(options["vsock"]))
    elif "fd" in options:
        port = int(options["fd"])
    else:
        port = os.open(system.virtio_port(options["port"], 30), os.O_RDWR)
    if listener is None:
        os.set_blocking(port, False)
    root = options.get("root", "/")
    agent = Agent(port, OPERATIONS, ends="fd" in options, init=init, root=root, listener=listener)
    if init:
        memory.guard(agent)
    signal.signal(signal.SIGTERM, lambda *_: setattr(agent, "alive", agent.init))
    agent.run()
    end_descendants(5)
    return 0


def _keep_descriptors_from_jobs() -> None:
    """Let no descriptor that was handed to the agent pass on to what it starts."""
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            os.set_inheritable(fd, fd <= 2)
        except OSError:  # the one that listed them
            pass


def _options(arguments: list[str]) -> dict[str, str]:
    """Read `--name value` pairs, and `--init`, which has none."""
    options: dict[str, str] = {}
    words = iter(arguments)
    for word in words:
        if word == "--init":
            options["init"] = ""
        elif word in ("--port", "--vsock", "--fd", "--root") and (value := next(words, None)) is not None:
            options[word[2:]] = value
        else:
            sys.exit(f"runnerd-agent: {word}: use {_WAYS}, [--init] [--root DIR]")
    if len({"fd", "port", "vsock"} & options.keys()) != 1:
        sys.exit(f"runnerd-agent: use either {_WAYS}")
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
