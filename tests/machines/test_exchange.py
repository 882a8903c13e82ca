"""One exchange without a channel: credit, order and refusals."""

from __future__ import annotations

import json

import pytest
import trio
import trio.testing

from runnerd.machines import frames
from runnerd.machines.driver import MachineLost
from runnerd.machines.exchange import PIECES, Answer, Chunk, End, Exchange, decode, refusal
from runnerd.machines.frames import Breach


class Outbox:
    """Keeps what an exchange sends."""

    def __init__(self) -> None:
        self.reason = ""
        self.frames: list[tuple[int, int, bytes]] = []

    @property
    def ended(self) -> bool:
        return bool(self.reason)

    def close(self, reason: str) -> None:
        self.reason = self.reason or reason

    def send(self, frame: bytes) -> None:
        kind, stream = frames.HEADER.unpack_from(frame)[1], frames.HEADER.unpack_from(frame)[4]
        self.frames.append((kind, stream, frame[16:]))

    send_in_order = send

    async def send_data(self, frame: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.send(frame)


@pytest.fixture
def outbox() -> Outbox:
    return Outbox()


@pytest.fixture
def exchange(outbox: Outbox) -> Exchange:
    return Exchange(outbox, 8)


async def test_pieces_keep_their_order_and_neighbours_are_joined(exchange: Exchange) -> None:
    """The two outputs come out in the order they came in; pieces of one that follow each other are one."""
    for kind, data in ((2, b"a"), (2, b"b"), (3, b"c"), (2, b"d")):
        exchange.arrived_data(kind, data)
    items = [await exchange.next() for _ in range(3)]
    assert items == [Chunk(2, bytearray(b"ab")), Chunk(3, bytearray(b"c")), Chunk(2, bytearray(b"d"))]


async def test_confetti_does_not_cost_more_than_its_bytes(exchange: Exchange) -> None:
    """A window of single bytes that alternate between two outputs is kept in few pieces, and whole."""
    for _ in range(frames.WINDOW_SIZE):
        exchange.arrived_data(2, b"o")
        exchange.arrived_data(3, b"e")
    assert len(exchange._inbox) <= PIECES + 1
    with pytest.raises(Breach, match="beyond its credit"):
        exchange.arrived_data(2, b"o")
    counts = {2: 0, 3: 0}
    while exchange._inbox:
        item = await exchange.next()
        assert isinstance(item, Chunk)
        counts[item.kind] += len(item.data)
    assert counts == {2: frames.WINDOW_SIZE, 3: frames.WINDOW_SIZE}


async def test_credit_goes_back_only_for_what_was_taken(exchange: Exchange, outbox: Outbox) -> None:
    """Nothing is returned for data that waits; from half a window on it is, and no more fits."""
    exchange.arrived_data(2, bytes(frames.WINDOW_SIZE))
    assert outbox.frames == []
    exchange.took(2, frames.WINDOW_SIZE // 2 - 1)
    assert outbox.frames == []
    exchange.took(2, 1)
    half = (frames.WINDOW_SIZE // 2).to_bytes(4, "little")
    assert outbox.frames == [(frames.WINDOW, 8 | 2, half)]
    exchange.arrived_data(2, bytes(frames.WINDOW_SIZE // 2))
    with pytest.raises(Breach):
        exchange.arrived_data(2, b"x")


async def test_dropped_exchange_keeps_nothing(exchange: Exchange, outbox: Outbox) -> None:
    """After a drop a reset is sent once, what comes is thrown away, and its credit goes back."""
    exchange.arrived_data(2, bytes(1000))
    exchange.drop()
    exchange.drop()
    assert [kind for kind, _, _ in outbox.frames] == [frames.RESET]
    for _ in range(10):
        exchange.arrived_data(2, bytes(frames.WINDOW_SIZE // 2))
    assert len(exchange._inbox) == 0
    exchange.arrived(End({}), over=True)
    await exchange.wait_over()


async def test_waiting_ends_when_the_machine_does(exchange: Exchange, outbox: Outbox) -> None:
    """Whoever waits hears that the machine is lost; what had arrived before is still given out."""
    exchange.arrived(Answer({"a": 1}), over=False)
    outbox.close("it melted")
    assert await exchange.next() == Answer({"a": 1})
    with pytest.raises(MachineLost, match="it melted"):
        await exchange.next()


async def test_something_else_than_an_answer_ends_the_machine(exchange: Exchange, outbox: Outbox) -> None:
    """Data where an answer belongs is a breach that the caller meets as MachineLost."""
    exchange.arrived_data(2, b"x")
    with pytest.raises(MachineLost, match="broke the protocol"):
        await exchange.answer()
    assert outbox.ended


async def test_long_request_is_announced_and_follows(exchange: Exchange, outbox: Outbox) -> None:
    """A request above one frame's limit says how much follows, and sends exactly that."""
    await exchange.request("exec", {"env": {"A": "x" * 100_000}})
    kind, stream, payload = outbox.frames[0]
    assert (kind, stream) == (frames.REQ, 8)
    rest = b"".join(
        data for kind, stream, data in outbox.frames[1:] if (kind, stream) == (frames.DATA, 8 | 1)
    )
    assert json.loads(payload) == {"op": "exec", "rest": len(rest)}
    assert json.loads(rest)["env"] == {"A": "x" * 100_000}


async def test_sending_stops_when_the_agent_has_said_its_last(exchange: Exchange, outbox: Outbox) -> None:
    """A put that is refused half-way does not go on, and does not wait for credit that never comes."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange.send, bytes(frames.WINDOW_SIZE * 2))
        await trio.testing.wait_all_tasks_blocked()
        exchange.arrived(Answer({"error": "no space", "errno": 28}), over=True)
    assert sum(len(data) for _, _, data in outbox.frames) == frames.WINDOW_SIZE
    with pytest.raises(OSError, match="no space"):
        await exchange.answer()


@pytest.mark.parametrize(
    ("fields", "kind", "said"),
    [
        ({"error": "gone", "errno": 2}, FileNotFoundError, "gone"),
        ({"error": "no", "errno": 13}, PermissionError, "no"),
        ({"error": "odd", "errno": None}, ValueError, "odd"),
        ({"error": "odd", "errno": "x"}, ValueError, "odd"),
        ({"error": "odd", "errno": -1}, ValueError, "odd"),
        ({"error": "odd", "errno": 10**30}, ValueError, "odd"),
        ({"error": "\x1b[31mred\n"}, ValueError, "?[31mred?"),
        ({"error": {"a": 1}}, ValueError, "{'a': 1}"),
    ],
)
def test_refusals_are_errors_with_a_harmless_sentence(
    fields: dict[str, object], kind: type[Exception], said: str
) -> None:
    """A sensible errno makes its OSError, everything else a ValueError; no control character gets through."""
    error = refusal(fields)
    assert type(error) is kind
    assert said in str(error)


def test_refusal_is_bounded() -> None:
    """However long the agent's sentence is, the host's is not."""
    assert str(refusal({"error": "x" * 60_000})) == "x" * 1000
    assert refusal({"fine": True}) is None


def test_control_frames_are_objects() -> None:
    """Anything but a JSON object is a breach."""
    assert decode(b'{"a": [1]}') == {"a": [1]}
    for payload in (b"", b"1", b"null", b"[" * 30_000, b"\xff"):
        with pytest.raises(Breach):
            decode(payload)
