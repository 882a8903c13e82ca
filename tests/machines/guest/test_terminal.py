"""The agent's terminals: what the host's side cannot see. The rest is in `tests/machines/test_shell.py`."""

from __future__ import annotations

import fcntl
import os
import struct

from runnerd.machines.guest.terminal import _set_window


def test_window_is_set_on_the_terminal_itself() -> None:
    """Rows and columns arrive at the process's side; numbers out of range do no harm."""
    master, slave = os.openpty()
    try:
        _set_window(master, 50, 132)
        assert struct.unpack("HHHH", fcntl.ioctl(slave, 0x5413, bytes(8)))[:2] == (50, 132)
        _set_window(master, 65536 + 24, 80)
        assert struct.unpack("HHHH", fcntl.ioctl(slave, 0x5413, bytes(8)))[:2] == (24, 80)
    finally:
        os.close(master)
        os.close(slave)
