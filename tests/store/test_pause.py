"""Behaviour of runnerd.store.pause."""

from runnerd.model import Pause
from runnerd.store import pause


def test_a_pause_is_kept_replaced_and_ended(desk):
    """One pause holds at a time, the newest, until it is ended; ending it twice is no error."""
    assert pause.read(desk.connection) is None
    pause.write(desk.connection, Pause(reason="a disk is changed", since=1.0))
    pause.write(desk.connection, Pause(reason="", since=2.0))
    assert pause.read(desk.connection) == Pause(reason="", since=2.0)
    pause.write(desk.connection, None)
    pause.write(desk.connection, None)
    assert pause.read(desk.connection) is None
