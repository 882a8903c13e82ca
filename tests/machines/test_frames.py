"""Frames as the host reads them from an agent that may send anything."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runnerd.machines import frames
from runnerd.machines.frames import Breach, Decoder, Frame, pack


def synchronised() -> Decoder:
    decoder = Decoder()
    decoder.synchronised = True
    return decoder


def feed(decoder: Decoder, data: bytes) -> list[Frame]:
    return list(decoder.feed(data))


@given(st.lists(st.tuples(st.sampled_from(sorted(frames.FROM_AGENT)), st.binary(max_size=300))), st.data())
def test_frames_come_out_however_they_are_cut(sent: list[tuple[int, bytes]], data: st.DataObject) -> None:
    """Every frame comes out once, whole and in order, wherever the stream is cut."""
    whole = b"".join(pack(kind, 5, payload) for kind, payload in sent)
    decoder = synchronised()
    found = []
    while whole:
        cut = data.draw(st.integers(1, len(whole)))
        found += feed(decoder, whole[:cut])
        whole = whole[cut:]
    assert found == [Frame(kind, 0, 5, payload) for kind, payload in sent]


@given(st.binary(min_size=16, max_size=2000))
def test_any_bytes_are_frames_or_a_breach(noise: bytes) -> None:
    """Nothing but Breach is ever raised, and no payload is longer than the limit."""
    for decoder in (Decoder(), synchronised()):
        try:
            assert all(len(frame.payload) <= frames.LIMIT for frame in decoder.feed(noise))
        except Breach:
            pass


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (frames.HEADER.pack(b"RDA2", frames.DATA, 0, 0, 6, 1), "bad magic 52444132"),
        (frames.HEADER.pack(b"RDA1", frames.DATA, 0, 0, 6, 65537), "a frame of 65537 bytes"),
        (frames.HEADER.pack(b"RDA1", frames.DATA, 0, 0, 6, 0xFFFFFFFF), "4294967295 bytes"),
        (frames.HEADER.pack(b"RDA1", frames.DATA, 2, 0, 6, 1), "unknown flags"),
        (frames.HEADER.pack(b"RDA1", frames.DATA, 0, 1, 6, 1), "unknown flags"),
        (frames.HEADER.pack(b"RDA1", frames.REQ - 2, 0, 0, 6, 1), "type 1"),
        (frames.HEADER.pack(b"RDA1", 200, 0, 0, 6, 1), "type 200"),
        (frames.HEADER.pack(b"RDA1", frames.PING, 0, 0, 6, 1), "never sends"),
        (frames.HEADER.pack(b"RDA1", frames.RESET, 0, 0, 6, 1), "never sends"),
    ],
)
def test_header_is_judged_before_its_payload_is_waited_for(header: bytes, said: str) -> None:
    """A header that no agent sends is a breach as soon as it is there."""
    with pytest.raises(Breach, match=said):
        feed(synchronised(), header)


def test_everything_before_the_answer_to_hello_is_skipped() -> None:
    """Stale frames, halves of frames and noise are passed over to the HELLO_ACK."""
    stale = (
        pack(frames.DATA, 6, b"old") + pack(frames.EXIT, 4, b"{}") + b"RDA1\x02 no header" + b"\xff" * 5000
    )
    decoder = Decoder()
    found = []
    for byte in stale + pack(frames.HELLO_ACK, 0, b"{}") + pack(frames.DATA, 6, b"new"):
        for frame in decoder.feed(bytes([byte])):
            found.append(frame)
            decoder.synchronised = True
    assert found == [Frame(frames.HELLO_ACK, 0, 0, b"{}"), Frame(frames.DATA, 0, 6, b"new")]


def test_synchronising_in_the_middle_of_a_piece_takes_effect_at_once() -> None:
    """What follows the HELLO_ACK in the same piece is read as frames."""
    decoder = Decoder()
    kinds = []
    for frame in decoder.feed(pack(frames.HELLO_ACK, 0, b"{}") + pack(frames.PONG, 0) + pack(frames.EXIT, 4)):
        decoder.synchronised = True
        kinds.append(frame.kind)
    assert kinds == [frames.HELLO_ACK, frames.PONG, frames.EXIT]


def test_noise_before_the_answer_is_bounded() -> None:
    """An agent that sends for ever without answering is given up, and nothing of it is kept."""
    decoder = Decoder()
    for _ in range(frames.MISFIT // 65536):
        assert feed(decoder, bytes(65536)) == []
        assert len(decoder._buffer) < 65536
    with pytest.raises(Breach, match="before its HELLO_ACK"):
        feed(decoder, bytes(65536))
