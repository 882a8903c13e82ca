"""What the agent makes of a stream of bytes."""

import random

from runnerd.machines import frames
from runnerd.machines.guest import wire


def hello() -> bytes:
    return wire.pack(wire.HELLO, 0, b"{}")


def test_both_sides_speak_the_same() -> None:
    """The agent's copy of the format's constants is that of the host."""
    for name in ("VERSION", "MAGIC", "LIMIT", "WINDOW_SIZE", "MORE", "GUEST"):
        assert getattr(wire, name) == getattr(frames, name)
    for name in ("CONTROL", "TO_GUEST", "FROM_GUEST", "ERRORS"):
        assert getattr(wire, name) == getattr(frames, name)
    kinds = ("HELLO", "HELLO_ACK", "REQ", "RES", "DATA", "WINDOW", "EOF", "EXIT", "PING", "PONG", "RESET")
    for name in kinds:
        assert getattr(wire, name) == getattr(frames, name)
    assert wire.HEADER.format == frames.HEADER.format
    assert wire.HEADER.size == 16
    assert wire.pack(wire.DATA, 7, b"x", 1) == frames.pack(frames.DATA, 7, b"x", 1)
    assert frames.FILLER.count(wire.FILLER) == wire.LIMIT + wire.HEADER.size


def test_frames_come_out_however_they_are_cut() -> None:
    """Frames are found whole when their bytes arrive one by one or all together."""
    sent = hello() + wire.pack(wire.DATA, 5, b"a" * 300) + wire.pack(wire.PING, 0, b"")
    whole = wire.Frames().feed(sent)
    slow = wire.Frames()
    single = [frame for byte in sent for frame in slow.feed(bytes([byte]))]
    assert whole == single
    assert [(kind, len(payload)) for kind, _, _, payload in whole] == [
        (wire.HELLO, 2),
        (wire.DATA, 300),
        (wire.PING, 0),
    ]


def test_nothing_is_heard_before_a_hello() -> None:
    """Stale frames and noise before the first HELLO are dropped."""
    noise = random.Random(1).randbytes(5000)
    assert wire.Frames().feed(noise + wire.pack(wire.REQ, 4, b"{}") + hello()) == [(wire.HELLO, 0, 0, b"{}")]


def test_out_of_step_it_waits_for_the_next_hello() -> None:
    """A frame that cannot be one makes everything up to the next HELLO unheard."""
    for wrong in (b"XXXX" + bytes(12), wire.HEADER.pack(wire.MAGIC, wire.DATA, 0, 0, 4, wire.LIMIT + 1)):
        parser = wire.Frames()
        assert len(parser.feed(hello())) == 1
        assert parser.feed(wrong + wire.pack(wire.REQ, 4, b"{}")) == []
        assert parser.lost
        assert parser.feed(hello()) == [(wire.HELLO, 0, 0, b"{}")]
        assert not parser.lost


def test_a_filler_pushes_out_half_a_frame() -> None:
    """After a host that died in the middle of a frame, filler and HELLO bring the agent back."""
    parser = wire.Frames()
    parser.feed(hello() + wire.HEADER.pack(wire.MAGIC, wire.DATA, 0, 0, 4, wire.LIMIT) + b"half")
    found = parser.feed(frames.FILLER + hello())
    assert found[-1] == (wire.HELLO, 0, 0, b"{}")
    assert parser.feed(wire.pack(wire.PING, 0)) == [(wire.PING, 0, 0, b"")]


def test_filler_between_frames_is_nothing() -> None:
    """An agent in step skips filler, however it is cut."""
    parser = wire.Frames()
    found = parser.feed(hello() + b"\xff\xff")
    found += parser.feed(b"\xff" + wire.pack(wire.PING, 0) + b"\xff")
    assert [frame[0] for frame in found] == [wire.HELLO, wire.PING]
