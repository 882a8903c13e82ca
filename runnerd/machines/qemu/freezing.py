"""What a machine does once before it is frozen as a template, so that its clones have it behind them."""

from __future__ import annotations

from runnerd.machines.channel import Channel
from runnerd.machines.driver import Command
from runnerd.machines.qemu.box import QemuBox
from runnerd.machines.qemu.starter import explained
from runnerd.machines.remote import AgentMachine

_WARM = (
    (
        "/bin/bash",
        "--noprofile",
        "--norc",
        "-eo",
        "pipefail",
        "-c",
        "ls -la / | cat; date; uname -a; mkdir -p /tmp",
    ),
    ("/bin/sh", "-e", "-c", "echo $PATH; env; test -e /; sleep 0"),
    ("/usr/bin/git", "--version"),
    ("/usr/bin/git", "config", "--list"),
    ("/usr/bin/python3", "-c", "import json, os, pathlib, re, subprocess, sys"),
    ("/usr/bin/tar", "--version"),
)
"""What a template does before it is frozen, so that its clones have these programs in memory at once."""

_WARM_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/home/runner", "LANG": "C.UTF-8"}


SLOWER = 3.0
"""How many times as long a template may take to come up where machines are emulated, and share few cores."""


def patience(build_timeout: float, *, emulated: bool) -> float:
    """Seconds that a template has to come up, of those that it has on a processor of its own."""
    return build_timeout * (SLOWER if emulated else 1.0)


async def warm(machine: AgentMachine, box: QemuBox, channel: Channel, *, timeout: float) -> None:
    """Wait for the agent, put the job's root together, run what jobs run, and bring all to rest.

    Raises MachineLost when the machine ends or does not rest within `timeout` seconds.
    """
    await machine.thaw()
    for argv in _WARM:
        try:
            await machine.exec(Command(argv=argv, env=_WARM_ENVIRONMENT), _ignored)
        except (OSError, ValueError):
            pass  # an image without this program
    # Rehearsed on a mounted root, as every clone will do it.
    await machine.thaw()
    await explained(box, channel.call("quiesce", deadline=timeout))


async def _ignored(stream: str, data: bytes) -> None:
    """What a template's programs print concerns nobody."""
