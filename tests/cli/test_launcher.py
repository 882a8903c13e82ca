"""`runnerd launcher`: who may start it, and that it serves and ends."""

import os
import pwd
import signal
import socket
import sys

import pytest
import trio

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
