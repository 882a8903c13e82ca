"""One request to an agent, or one connection it took: what has arrived, and the credit of its streams."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
import trio

from runnerd.machines.driver import MachineLost
from runnerd.machines.frames import (
    DATA,
    EOF,
    LIMIT,
    REQ,
    RESET,
    TO_GUEST,
    WINDOW,
    WINDOW_SIZE,
    Breach,
    pack,
)

CHUNK = 32768
"""Payload of one DATA frame to the guest."""
PIECES = 1024
"""Pieces waiting above which new ones join older ones of their stream."""


class Answer(msgspec.Struct, frozen=True):
    """The answer to the request."""

    fields: dict[str, Any]


class Chunk(msgspec.Struct):
    """Bytes of one stream."""

    kind: int
    data: bytearray


class End(msgspec.Struct, frozen=True):
    """The agent's last word."""

    fields: dict[str, Any]


class Eof(msgspec.Struct, frozen=True):
    """The connection sends nothing more."""


Item = Answer | Chunk | Eof | End


class Outlet(Protocol):
    """Where an exchange puts its frames."""

    reason: str

    @property
    def ended(self) -> bool:
        """Whether the machine is lost."""
        ...

    def close(self, reason: str) -> None:
        """End the machine."""
        ...

    def send(self, frame: bytes) -> None:
        """Queue a control frame."""
        ...

    async def send_data(self, frame: bytes) -> None:
        """Queue a data frame, waiting for room."""
        ...

    def send_in_order(self, frame: bytes) -> None:
        """Queue a small frame behind the data queued before it."""
        ...


class Exchange:
    """The host's half. The reader task calls `arrived…`, one other task waits for what comes of it."""

    def __init__(self, outlet: Outlet, stream: int) -> None:
        self.stream = stream
        self.answered = False
        """The agent has answered."""
        self.accepted = False
        """Its answer was taken, and was no refusal."""
        self.over = False
        """The agent has sent its last frame."""
        self._outlet = outlet
        self._inbox: deque[Item] = deque()
        self._given: dict[int, int] = {}
        self._unreturned: dict[int, int] = {}
        self._credit = WINDOW_SIZE
        self._eof = False
        self._discarding = False
        self._news = trio.lowlevel.ParkingLot()

    # What the reader task reports; each raises Breach for what an agent must not send.

    def arrived_data(self, kind: int, payload: bytes) -> None:
        """Keep a piece of a stream; never more than the credit given."""
        left = self._given.get(kind, WINDOW_SIZE) - len(payload)
        if not payload or left < 0 or self._eof:
            raise Breach(
                "data beyond its credit" if left < 0 else "an empty frame of data, or data after its end"
            )
        self._given[kind] = left
        if self._discarding:
            return self.took(kind, len(payload))
        back = 2 if len(self._inbox) > PIECES else 1
        for at in range(1, min(back, len(self._inbox)) + 1):
            if isinstance(item := self._inbox[-at], Chunk) and item.kind == kind:
                item.data += payload
                break
        else:
            self._inbox.append(Chunk(kind, bytearray(payload)))
        self.wake()

    def arrived_window(self, payload: bytes) -> None:
        """Take credit back that the agent returns."""
        count = int.from_bytes(payload, "little")
        if len(payload) != 4 or not 0 < count <= WINDOW_SIZE - self._credit:
            raise Breach("credit that was never given")
        self._credit += count
        self.wake()

    def arrived(self, item: Item, *, over: bool) -> None:
        """Keep an answer or an end."""
        if isinstance(item, Answer):
            if self.answered:
                raise Breach("two answers to one request")
            self.answered = True
        if isinstance(item, Eof):
            if self._eof:
                raise Breach("two ends of one stream")
            self._eof = True
        self.over = over
        self._inbox.append(item)
        self.wake()

    def wake(self) -> None:
        """Make whoever waits look again."""
        self._news.unpark_all()

    # What the task of the exchange does.

    async def next(self) -> Item:
        """The next thing that arrived. Raises MachineLost."""
        await self._until(lambda: bool(self._inbox))
        return self._inbox.popleft()

    async def answer(self) -> dict[str, Any]:
        """The answer's fields.

        Raises what the agent said is wrong, OSError or ValueError, and MachineLost.
        """
        item = await self.next()
        if not isinstance(item, Answer):
            raise self.broken("it sent something else than an answer")
        if error := refusal(item.fields):
            raise error
        self.accepted = True
        return item.fields

    def broken(self, reason: str) -> MachineLost:
        """The error to raise for an answer that makes no sense; ends the machine."""
        self._outlet.close(f"it broke the protocol: {reason}")
        return MachineLost(self._outlet.reason)

    async def wait_over(self) -> None:
        """Wait for the agent's last frame. Raises MachineLost."""
        await self._until(lambda: self.over)

    def took(self, kind: int, count: int) -> None:
        """Return credit for bytes that were dealt with."""
        count += self._unreturned.get(kind, 0)
        if count >= WINDOW_SIZE // 2 and not self.over:
            self._given[kind] = self._given.get(kind, WINDOW_SIZE) + count
            self._outlet.send(pack(WINDOW, self.stream | kind, count.to_bytes(4, "little")))
            count = 0
        self._unreturned[kind] = count

    async def request(self, operation: str, arguments: dict[str, Any]) -> None:
        """Send the request; what is too long for one frame follows as data."""
        whole = json.dumps(arguments | {"op": operation}).encode("utf-8", "surrogateescape")
        if len(whole) <= LIMIT:
            self._outlet.send(pack(REQ, self.stream, whole))
        else:
            self._outlet.send(
                pack(REQ, self.stream, json.dumps({"op": operation, "rest": len(whole)}).encode())
            )
            await self.send(whole)

    async def send(self, data: bytes | memoryview) -> None:
        """Send bytes as far as credit comes; stops in the middle when the exchange is over."""
        view = memoryview(data)
        while len(view) and not self.over:
            await self._until(lambda: self._credit > 0 or self.over)
            piece = view[: min(CHUNK, self._credit)]
            self._credit -= len(piece)
            view = view[len(piece) :]
            await self._outlet.send_data(pack(DATA, self.stream | TO_GUEST, bytes(piece)))

    def send_eof(self) -> None:
        """Say that no more bytes follow."""
        if not self.over:
            self._outlet.send_in_order(pack(EOF, self.stream | TO_GUEST))

    def drop(self) -> None:
        """Let the agent end this now, behind what was sent, and throw away what still comes. Safe twice."""
        if self._discarding:
            return
        self._discarding = True
        for item in self._inbox:
            if isinstance(item, Chunk):
                self.took(item.kind, len(item.data))
        self._inbox.clear()
        if not self.over:
            self._outlet.send_in_order(pack(RESET, self.stream))

    async def _until(self, ready: Callable[[], bool]) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        while not ready():
            if self._outlet.ended:
                raise MachineLost(self._outlet.reason)
            await self._news.park()


def refusal(fields: dict[str, Any]) -> OSError | ValueError | None:
    """What an answer says is wrong, if it does: OSError with its number, or ValueError.

    The sentence is the guest's: bounded, and made printable.
    """
    if "error" not in fields:
        return None
    said = "".join(sign if sign.isprintable() else "?" for sign in str(fields["error"])[:1000])
    number = fields.get("errno")
    if isinstance(number, int) and 0 < number < 4096:
        return OSError(number, said)
    return ValueError(said)


def decode(payload: bytes) -> dict[str, Any]:
    """The fields of a control frame. Raises Breach."""
    try:
        return msgspec.json.decode(payload, type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Breach(f"a control frame that is not a JSON object: {error}") from error
