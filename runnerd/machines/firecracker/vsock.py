"""The host's way to the agent in a Firecracker machine: its vsock device is a Unix socket here."""

from __future__ import annotations

from pathlib import Path

import trio

FIRST_PAUSE = 0.005
LONGEST_PAUSE = 0.1
LINE = 64


async def connect(path: Path, port: int, *, deadline: float) -> trio.SocketStream:
    """Connect to a port in the machine, waiting for somebody to listen there.

    Firecracker's `docs/vsock.md`: `CONNECT PORT` is answered by `OK NUMBER`, or by the end of the connection
    when nobody listens. Raises `trio.TooSlowError` after `deadline` seconds.
    """
    pause = FIRST_PAUSE
    with trio.fail_after(deadline):
        while True:
            if (stream := await _try(path, port)) is not None:
                return stream
            await trio.sleep(pause)
            pause = min(LONGEST_PAUSE, pause * 2)


async def _try(path: Path, port: int) -> trio.SocketStream | None:
    try:
        stream = await trio.open_unix_socket(path)
    except OSError:
        return None
    try:
        await stream.send_all(b"CONNECT %d\n" % port)
        line = b""
        # Byte by byte: what follows the line is the agent's already.
        while not line.endswith(b"\n") and len(line) < LINE:
            if not (byte := await stream.receive_some(1)):
                break
            line += byte
        if line.startswith(b"OK ") and line.endswith(b"\n"):
            return stream
    except trio.BrokenResourceError:
        pass
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    await trio.aclose_forcefully(stream)
    return None
