"""`runnerd launcher`: who may start it, and that it serves and ends."""

import os
import pwd
import signal
import socket
import sys
from pathlib import Path

import pytest
import trio

from runnerd.machines import cgroups
from runnerd.machines import launch_wire as wire


def test_unknown_user_is_named(invoke, tmp_path) -> None:
    """A daemon's user who does not exist is said so, with the option to change."""
    result = invoke("launcher", "--user", "nobody-at-all", "--socket", str(tmp_path / "l.sock"))
    assert result.exit_code == 2
    assert ("there is no user" in result.stderr) == (os.geteuid() == 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="it is for root")
async def test_it_serves_until_it_is_told_to_stop(tmp_path, eventually) -> None:
    """The named user is served on the socket; SIGTERM ends it with status 0."""
    user = pwd.getpwuid(os.geteuid()).pw_name
    path = tmp_path / "l.sock"
    command = [sys.executable, "-m", "runnerd", "launcher", "--user", user, "--socket", str(path)]
    process = await trio.lowlevel.open_process(command, start_new_session=True)
    try:
        await eventually(path.exists, 20.0)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.connect(str(path))
            client.send(b"no request")
            client.settimeout(10)
            assert await trio.to_thread.run_sync(client.recv, wire.PACKET) == b""
        process.send_signal(signal.SIGTERM)
        with trio.fail_after(20):
            assert await process.wait() == 0
    finally:
        if process.poll() is None:
            process.kill()
            await process.wait()


@pytest.mark.skipif(
    os.geteuid() != 0 or not os.access("/sys/fs/cgroup/memory", os.W_OK),
    reason="it is for root, and this host lends no group of a memory controller of version 1",
)
async def test_it_removes_the_groups_that_a_killed_one_left(tmp_path, eventually) -> None:
    """Its machines ended with it, their groups did not; what is not a machine's stays."""
    name, path = f"runnerd-test-{os.getpid()}", tmp_path / "l.sock"
    parent = Path("/sys/fs/cgroup/memory", name)
    for group in ("runnerd-0-1", "other"):
        (parent / group).mkdir(parents=True)
    words = [
        "--user",
        pwd.getpwuid(os.geteuid()).pw_name,
        "--socket",
        str(path),
        "--cgroup",
        f"memory/{name}",
    ]
    command = [sys.executable, "-m", "runnerd", "launcher", *words]
    process = await trio.lowlevel.open_process(command, start_new_session=True)
    try:
        await eventually(path.exists, 20.0)
        await eventually(lambda: not (parent / "runnerd-0-1").exists())
        assert (parent / "other").exists()
    finally:
        process.kill()
        await process.wait()
        (parent / "other").rmdir()
        for place in cgroups.controllers(parent).values():
            place.rmdir()
