"""`runnerd shell` with a real daemon and real microVMs: what a person finds before the step that failed."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from runnerd.machines import launcher, reaper

from .conftest import Daemon, Sample, wait_for

pytestmark = [pytest.mark.system, pytest.mark.vm]

WORKFLOW = """\
on: push
env: {GREETING: hello}
jobs:
  build:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - name: Make
        run: |
          echo "made at $GREETING" > note
          echo "FLAVOUR=plain" >> "$GITHUB_ENV"
          mkdir tools && printf '#!/bin/sh\\necho a tool\\n' > tools/tool && chmod +x tools/tool
          echo "$PWD/tools" >> "$GITHUB_PATH"
          cat /proc/sys/kernel/random/boot_id > boot
      - id: spoils
        run: echo spoilt > note; exit 3
"""

LOOK = """\
cat note VERSION
echo "$GREETING $FLAVOUR in $GITHUB_WORKSPACE as $(id -un)"
test "$PWD" = "$GITHUB_WORKSPACE" && tool
test "$(cat boot)" != "$(cat /proc/sys/kernel/random/boot_id)" && echo another machine
echo step $GITHUB_STEP_SUMMARY
git log --format=%s -1 | wc -l
echo spoilt by a visitor > note
exit 42
"""


def shell(daemon: Daemon, *arguments: str, script: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a script would."""
    command = [*argv(daemon), *arguments]
    return subprocess.run(command, input=script, capture_output=True, text=True, timeout=120, check=False)


def argv(daemon: Daemon) -> Sequence[str]:
    return [sys.executable, "-m", "runnerd", "shell", "--socket", daemon.client.path]


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is not waited for when the test has failed."""
    with process:
        try:
            yield process
        finally:
            process.kill()


def on_a_terminal(daemon: Daemon, *arguments: str) -> int:
    """Be a person: a prompt, the terminal's size, a command that is interrupted, and the shell's own end."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
    shown = b""

    def until(text: bytes) -> None:
        nonlocal shown
        while text not in shown:
            assert select.select([master], [], [], 60)[0], shown
            shown += os.read(master, 4096)

    ends = {"stdin": slave, "stdout": slave, "stderr": slave}
    with ended(subprocess.Popen([*argv(daemon), *arguments], start_new_session=True, **ends)) as process:
        until(b"$ ")
        os.write(master, b"stty size; cat note; sh -c 'echo $((6 * 7)); exec sleep 1000'\r")
        until(b"33 99\r\n")
        until(b"made at hello\r\n")
        until(b"42\r\n")
        shown = b""
        os.write(master, b"\x03")
        until(b"$ ")
        os.write(master, b"exit 9\r")
        status = process.wait(60)
    os.close(master)
    os.close(slave)
    return status


@contextmanager
def busy_shell(daemon: Daemon, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A shell in which something runs that does not end."""
    ends = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with ended(subprocess.Popen([*argv(daemon), *arguments], **ends)) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"echo up; sleep 1000\n")
        process.stdin.flush()
        assert select.select([process.stdout], [], [], 60)[0]
        assert os.read(process.stdout.fileno(), 100) == b"up\n"
        yield process


def leased(daemon: Daemon) -> list[Any]:
    return [each for each in daemon.client.pool()["machines"] if each["job"] is not None]


def test_a_person_looks_at_what_failed(vm_daemon: Daemon, sample: Sample) -> None:
    """The files and the environment before the step that failed, each time anew, over a restart as well.

    What a visitor does stays in their copy, which is gone when they are: also when they vanish.
    """
    sha = sample.commit({".github/workflows/ci.yml": WORKFLOW, "VERSION": "1.2.3\n"})
    daemon = vm_daemon
    with (daemon.folder / "config.toml").open("a") as config:
        config.write('\n[snapshots]\nmode = "on-failure"\n')
    daemon.start().wait_ready()
    delivery = daemon.deliver(sha)
    assert daemon.wait_done(delivery)["conclusion"] == "failure"
    run = daemon.runs_of(delivery)[0]["id"]
    [job] = daemon.jobs_of(run)

    for at in ((), ("--at", "spoils"), ("--at", "3")):
        looked = shell(daemon, str(run), "--job", "build", *at, script=LOOK)
        assert looked.stdout.splitlines() == [
            "made at hello",
            "1.2.3",
            "hello plain in /home/runner/work/repo/repo as runner",
            "a tool",
            "another machine",
            "step /home/runner/work/_temp/_runner_file_commands/step_summary_3",
            "1",
        ], looked.stderr
        assert looked.returncode == 42
        assert f"runnerd: job {job['id']} (build) of run {run}, before step 3" in looked.stderr
        if not at:  # what is kept outlives the daemon
            assert daemon.stop() == 0
            daemon.start().wait_ready()

    none = shell(daemon, str(run), "--job", "build", "--at", "Make", script="exit 0\n")
    assert (none.returncode, none.stdout) == (4, "")
    assert (
        "is kept from before step 2 (Make), only from before 3 (Run echo spoilt > note; exit 3)"
        in none.stderr
    )

    assert on_a_terminal(daemon, str(run), "--job", "build") == 9

    # A person who vanishes takes the machine along, whatever runs in it; a daemon that drains says so.
    with busy_shell(daemon, str(run), "-j", str(job["id"])) as process:
        assert len(leased(daemon)) == 1
        process.kill()
    wait_for(lambda: not leased(daemon), "the machine was destroyed")
    with busy_shell(daemon, str(run), "-j", "build") as process:
        assert daemon.stop() == 0
        assert process.stderr is not None
        assert b"the daemon is draining: the shell was ended" in process.stderr.read()
        assert process.wait(30) == 5

    assert launcher.strays(reaper.mark(daemon.state)) == {}
    assert [path.name for path in daemon.state.glob("kept/*/*")] == ["step-03"]
