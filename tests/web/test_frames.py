"""Behaviour of runnerd.web.frames: however the bytes are cut the frames are the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from runnerd.web.frames import (
    LIMIT,
    BadFrame,
    Decoder,
    Kind,
    encode,
    encode_all,
    encode_text,
    encode_window,
    window_of,
)

frames = some.lists(some.tuples(some.sampled_from(Kind), some.binary(max_size=300)), max_size=10)


@given(frames, some.lists(some.integers(1, 400), min_size=1, max_size=20))
def test_frames_arrive_however_they_are_cut(sent, sizes):
    """What was encoded is decoded, whatever pieces it comes in."""
    data = b"".join(encode(*frame) for frame in sent)
    decoder, got, at, turn = Decoder(*Kind), [], 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        got += decoder.feed(data[at : at + size])
        at, turn = at + size, turn + 1
    assert got == sent


@given(some.binary(max_size=2000))
def test_any_bytes_are_frames_or_refused(data):
    """Hostile bytes give allowed frames or `BadFrame`, and no other error."""
    decoder = Decoder(Kind.KEYS, Kind.WINDOW)
    try:
        got = decoder.feed(data)
    except BadFrame:
        return
    assert {kind for kind, _ in got} <= {Kind.KEYS, Kind.WINDOW}


def test_what_this_end_may_not_get_is_refused_at_once():
    """A frame of another kind is refused by its head, before its bytes have come."""
    with pytest.raises(BadFrame, match="kind 16"):
        Decoder(Kind.KEYS).feed(encode(Kind.SCREEN, b"x" * 100)[:3])
    with pytest.raises(BadFrame, match="kind 0"):
        Decoder(*Kind).feed(b"\0\0\0")


def test_much_is_many_frames():
    """Bytes beyond one frame's limit go in several; none go in none."""
    data = bytes(range(256)) * 1000
    got = Decoder(Kind.SCREEN).feed(encode_all(Kind.SCREEN, data))
    assert [len(payload) for _, payload in got] == [LIMIT, LIMIT, LIMIT, 256_000 - 3 * LIMIT]
    assert b"".join(payload for _, payload in got) == data
    assert encode_all(Kind.SCREEN, b"") == b""


def test_a_sentence_is_cut_and_always_text():
    """One frame holds it, also where it has half a surrogate pair."""
    [(kind, payload)] = Decoder(Kind.NOTE).feed(encode_text(Kind.NOTE, "\ud800é" * LIMIT))
    assert (kind, len(payload)) == (Kind.NOTE, LIMIT)
    assert payload.decode(errors="replace").startswith("?é")


@pytest.mark.parametrize(
    ("size", "got"), [((24, 80), (24, 80)), ((0, -5), (1, 1)), ((10**9, 70000), (LIMIT, LIMIT))]
)
def test_windows(size, got):
    """A window has at least one row and column, and at most what two bytes hold."""
    [(_, payload)] = Decoder(Kind.WINDOW).feed(encode_window(*size))
    assert window_of(payload) == got


def test_a_window_of_another_length_is_refused():
    """Four bytes, or it is none; a hostile zero counts as one."""
    with pytest.raises(BadFrame):
        window_of(b"123")
    assert window_of(b"\0\0\0\0") == (1, 1)
