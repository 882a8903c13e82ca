"""`runnerd setup`: installs what machines need from the distribution, or says the one command that does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence

import typer

from runnerd.cli.output import Code, fail

Run = Callable[[Sequence[str]], int]
"""Runs a program with the terminal's own input and output and returns its exit status."""


def setup() -> None:
    """Install QEMU and the other programs that machines need, through apt-get, with sudo where needed."""
    install(run=lambda command: subprocess.run(command, check=False).returncode, may_sudo=_may_sudo())


def install(*, run: Run, may_sudo: bool, root: bool = os.geteuid() == 0, apt: bool | None = None) -> None:
    """Install what is missing, or end with exit status 2 and the exact command to type.

    `may_sudo` says whether sudo can work here at all: without a password, or with somebody to ask for it.
    """
    from runnerd.machines import host

    missing = host.missing()
    if not missing:
        return
    names = ", ".join(missing)
    if not (shutil.which("apt-get") if apt is None else apt):
        fail(f"this host lacks {names}, and it has no apt-get: install them with its own package manager")
    command = host.install_command(missing, root=root)
    if not root and not may_sudo:
        fail(f"this host lacks {names}; install them with:\n  {command}")
    typer.echo(f"this host lacks {names}: {command}")
    update = ["apt-get", "update", "-q"]
    run(update if root else ["sudo", *update])  # stale lists may still do; the installation decides
    environment = ["env", "DEBIAN_FRONTEND=noninteractive"]
    words = command.split()
    words = [*environment, *words] if root else ["sudo", *environment, *words[1:]]
    status = run(words)
    if status or (left := host.missing()):
        reason = f"ended with status {status}" if status else f"left {', '.join(left)} missing"
        fail(f"`{command}` {reason}", Code.USAGE)


def _may_sudo() -> bool:
    if shutil.which("sudo") is None:
        return False
    silent = subprocess.run(["sudo", "-n", "true"], check=False, capture_output=True)
    return silent.returncode == 0 or sys.stdin.isatty()
