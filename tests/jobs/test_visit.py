"""Behaviour of runnerd.jobs.visit: where a person's shell stands, and what a plain one does on a terminal."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from runnerd.jobs.standing import Standing
from runnerd.jobs.state import Shown
from runnerd.jobs.visit import READY, shell_of
from runnerd.machines.driver import Command, Paths


class Somewhere:
    """A machine as far as its folders and its name go."""

    id = "m-1"
    paths = Paths()


def command(shells: dict[str, str], *, plain: bool = False, **shown: object) -> Command:
    standing = Standing(run=1, job=2, before=3, shells=shells, shown=Shown(status="success", **shown))
    github = {"repository": "o/r", "sha": "c" * 40, "job": "build"}
    return shell_of(
        standing, Somewhere(), github=github, host={"X": "host", "Y": "host"}, term="xterm", plain=plain
    )


def test_it_has_the_jobs_environment() -> None:
    """What steps wrote weighs more than the job's `env`, that more than the host's; the runner's own most."""
    made = command(
        {"bash": "/opt/bash", "sh": "/bin/sh"},
        given={"X": "given", "A": "given", "B": "given"},
        written={"B": "written", "GITHUB_SHA": "forged", "TERM": "forged"},
        paths=("/second", "/first"),
    )
    assert (made.argv, made.cwd, made.user) == (("/opt/bash",), "/home/runner/work/r/r", 1001)
    wanted = {
        "X": "given", "Y": "host", "A": "given", "B": "written", "GITHUB_SHA": "c" * 40, "TERM": "xterm",
        "GITHUB_WORKSPACE": "/home/runner/work/r/r", "RUNNER_NAME": "m-1", "CI": "true",
        "GITHUB_ENV": "/home/runner/work/_temp/_runner_file_commands/set_env_3",
    }  # fmt: skip
    assert made.env.items() >= wanted.items()
    assert made.env["PATH"].startswith("/second:/first:/home/runner/.local/bin:")


def test_without_bash_it_is_sh() -> None:
    """An image may have none; where nothing was found, sh is where it always is."""
    assert command({"sh": "/usr/bin/sh"}).argv == ("/usr/bin/sh",)
    assert command({}).argv == ("/bin/sh",)
    assert command({"sh": "/usr/bin/sh"}, plain=True).argv[-1] == "/usr/bin/sh"


def typed(shell: str, script: bytes, folder: Path) -> tuple[bytes, int]:
    """Run a plain shell on a real terminal as the daemon does; return what it showed, and its status."""
    made = command({"bash": shell, "sh": "/bin/sh"}, plain=True)
    master, slave = os.openpty()
    with subprocess.Popen(
        made.argv, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, cwd=folder,
        env={"PATH": os.environ["PATH"], "TERM": "dumb"},
    ) as process:  # fmt: skip
        os.close(slave)
        shown = b""
        while READY not in shown:
            shown += os.read(master, 1024)
        os.write(master, script)
        shown = shown.partition(READY)[2]
        with suppress(OSError):  # how Linux says that the other side is closed
            while data := os.read(master, 1024):
                shown += data
        os.close(master)
    return shown, process.returncode


@pytest.mark.parametrize("shell", ["/bin/bash", "/bin/sh"])
def test_a_plain_shell_is_a_script(shell: str, tmp_path: Path) -> None:
    """No prompt, no echo, no carriage returns; the status is the last command's, or the script's own."""
    assert typed(shell, b"echo one; (echo two >&2)\nfalse\n\x04", tmp_path) == (b"one\ntwo\n", 1)
    assert typed(shell, b"echo three\nexit 42\n", tmp_path) == (b"three\n", 42)


def test_what_a_command_reads_is_what_was_typed(tmp_path: Path) -> None:
    """Its end of the input is not the script's: that comes with the next."""
    script = b"cat > file\nhello\n\x04cat file\nread line\nyes\necho $line\n\x04"
    assert typed("/bin/bash", script, tmp_path) == (b"hello\nyes\n", 0)
