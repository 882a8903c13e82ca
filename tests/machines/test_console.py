"""What is kept of a console: bounded, printable, and the part that tells a cause."""

import socket

import trio

from runnerd.machines import console
from runnerd.machines.console import Console


async def listen(said: bytes) -> Console:
    """A console that heard something and then ended."""
    ours, theirs = socket.socketpair()
    heard = Console(ours)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(heard.run)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
        await stream.send_all(said)
        await stream.aclose()
    return heard


async def test_a_panic_is_told_before_what_follows_it():
    """The line with the cause is found among register dumps."""
    dump = b"".join(b"[    4.1] R%d: 0000000000000246\r\n" % number for number in range(20))
    heard = await listen(b"[    4.0] Kernel panic - not syncing: Attempted to kill init!\r\n" + dump)
    assert heard.tail() == "[ 4.0] Kernel panic - not syncing: Attempted to kill init!".replace(
        "[ 4", "[    4"
    )


async def test_without_a_cause_the_last_lines_are_told():
    """The end of ordinary output, without escape codes and empty lines, as one printable line."""
    heard = await listen(b"one\ntwo\n\n\x1b[31mthree\x00\xff\n\nfour\n")
    assert heard.tail() == "two | [31mthree | four"


async def test_a_flood_is_bounded_in_memory_and_in_time():
    """Only the end of a flood is kept, and reading it pauses so that others have their turn."""
    started = trio.current_time()
    heard = await listen(b"x" * (20 * console.KEPT) + b"\nthe end\n")
    assert len(heard.text) == console.KEPT
    assert heard.text.endswith(b"the end\n")
    assert len(heard.tail()) <= 500
    assert trio.current_time() - started > 0.1


async def test_what_was_said_last_can_be_taken_without_waiting():
    """`drain` takes what has arrived, minds neither silence nor a closed console."""
    ours, theirs = socket.socketpair()
    heard = Console(ours)
    heard.drain()
    theirs.send(b"No space left on device\n")
    heard.drain()
    assert heard.tail() == "No space left on device"
    theirs.close()
    heard.drain()
    heard.close()
    heard.drain()


async def test_its_lines_are_printable_and_whole():
    """Control codes become spaces, other scripts stay; when the beginning was cut off, so is its line."""
    heard = await listen("one\r\n\n\x1b[31mtwo\ttabs\x07\nd\u00e9j\u00e0\n".encode() + b"\xff end")
    assert heard.lines() == ("one", " [31mtwo\ttabs", "d\u00e9j\u00e0", "\ufffd end")
    flooded = await listen(b"x" * console.KEPT + b"y\nthe end\n")
    assert flooded.lines() == ("the end",)
