"""Behaviour of runnerd.web.terminal, over real Unix sockets."""

from __future__ import annotations

import socket

import pytest
import trio

from runnerd.web.frames import LIMIT, Decoder, Kind, encode, encode_all, encode_window
from runnerd.web.terminal import AHEAD, CHUNK, converse

TO_PERSON = (Kind.SCREEN, Kind.NOTE, Kind.STATUS, Kind.FAILED)


class Client:
    """The raw other end."""

    def __init__(self, stream):
        self.stream = stream
        self.decoder = Decoder(*TO_PERSON)
        self.got = []

    async def send(self, *frames):
        await self.stream.send_all(b"".join(frames))

    async def until(self, kind):
        """All frames up to the first of this kind."""
        with trio.fail_after(10):
            while not any(frame[0] is kind for frame in self.got):
                data = await self.stream.receive_some()
                assert data, f"the end came before {kind!r}: {self.got}"
                self.got += self.decoder.feed(data)
        return self.got

    async def to_the_end(self):
        with trio.fail_after(10):
            try:
                while data := await self.stream.receive_some():
                    self.got += self.decoder.feed(data)
            except trio.BrokenResourceError:
                pass
        return self.got


@pytest.fixture
async def talking(nursery):
    """Have something speak with a person over a Unix socket; gives the raw other end and how it ended."""
    clients = []

    def begin(talk):
        ours, theirs = (
            trio.SocketStream(trio.socket.from_stdlib_socket(each)) for each in socket.socketpair()
        )
        clients.append(theirs)
        over = trio.Event()

        async def run():
            try:
                await converse(ours, talk)
            except RuntimeError:
                pass
            finally:
                over.set()
                await trio.aclose_forcefully(ours)

        nursery.start_soon(run)
        return Client(theirs), over

    yield begin
    for each in clients:
        await trio.aclose_forcefully(each)


async def echo(person):
    """Show what is typed and how the window changes, until the end."""
    await person.say("hello")
    while typed := await person.typed():
        await person.show(typed if isinstance(typed, bytes) else b"%dx%d" % typed)
    await person.end(7)


async def test_a_conversation(talking):
    """Keys and windows arrive in order, and the last frame is the exit status."""
    client, over = talking(echo)
    await client.send(encode(Kind.KEYS, b"ls"), encode_window(40, 120), encode(Kind.KEYS), encode(Kind.END))
    assert await client.to_the_end() == [
        (Kind.NOTE, b"hello"),
        (Kind.SCREEN, b"ls"),
        (Kind.SCREEN, b"40x120"),
        (Kind.STATUS, b"\x07"),
    ]
    await over.wait()


async def test_a_client_that_vanishes_cancels_the_talk(talking):
    """Whatever is awaited then: keys, or something that has nothing to do with the person."""
    seen = []

    async def waits(person):
        await person.say("up")
        try:
            await trio.sleep_forever()
        finally:
            seen.append("cancelled")

    for _ in range(2):
        client, over = talking(waits)
        await client.until(Kind.NOTE)
        await client.stream.aclose()
        with trio.fail_after(5):
            await over.wait()
    assert seen == ["cancelled", "cancelled"]


async def test_a_client_that_vanishes_while_it_is_shown_much(talking):
    """A screen that nobody reads any more ends the talk as well."""

    async def floods(person):
        while True:
            await person.show(b"x" * LIMIT)

    client, over = talking(floods)
    await client.until(Kind.SCREEN)
    await client.stream.aclose()
    with trio.fail_after(5):
        await over.wait()


async def test_a_client_that_vanishes_with_much_left_to_be_read(talking):
    """It is missed although what it typed before is still to be taken."""

    async def deaf(person):
        await trio.sleep_forever()

    client, over = talking(deaf)
    with trio.move_on_after(0.5):
        await client.send(encode_all(Kind.KEYS, b"x" * LIMIT * (AHEAD + 20)))
    await client.stream.aclose()
    with trio.fail_after(10):
        await over.wait()


@pytest.mark.parametrize(
    ("hostile", "problem"),
    [
        (encode(Kind.SCREEN, b"x"), "kind 16"),
        (b"\xff\xff\xff", "kind 255"),
        (encode(Kind.WINDOW, b"12345"), "four bytes"),
        (encode(Kind.END) + encode(Kind.KEYS, b"x"), "after the end"),
    ],
)
async def test_a_client_that_breaks_the_protocol_is_told(talking, hostile, problem):
    """It hears why, and the talk is cancelled."""

    async def waits(person):
        await trio.sleep_forever()

    client, over = talking(waits)
    await client.send(hostile)
    [(kind, sentence)] = await client.to_the_end()
    assert kind is Kind.FAILED
    assert problem in sentence.decode()
    await over.wait()


async def test_what_is_typed_ahead_is_bounded(talking):
    """A person who types faster than anybody reads is held back, and nothing is lost."""
    go, got = trio.Event(), bytearray()

    async def slow(person):
        await go.wait()
        while typed := await person.typed():
            got.extend(typed)
        await person.end(0)

    client, _ = talking(slow)
    keys = bytes(range(256)) * 40_000  # ten megabytes
    sent = 0
    frames = encode_all(Kind.KEYS, keys)
    with trio.move_on_after(1.0):
        while sent < len(frames):
            sent += await client.stream.socket.send(frames[sent : sent + CHUNK])
    assert sent < AHEAD * LIMIT * 2  # the queue, the socket's own buffer and a piece being read
    go.set()
    await client.stream.send_all(frames[sent:] + encode(Kind.END))
    await client.until(Kind.STATUS)
    assert bytes(got) == keys


async def test_the_last_word_follows_whole_frames(talking):
    """A screen cut short by a cancellation is shown to its end before the sentence that says why."""

    async def cut(person):
        with trio.move_on_after(0.2):
            while True:
                await person.show(b"y" * LIMIT)
        await person.fail("it was ended")

    client, _ = talking(cut)
    await trio.testing.wait_all_tasks_blocked(0.3)
    got = await client.to_the_end()
    assert {payload for kind, payload in got if kind is Kind.SCREEN} == {b"y" * LIMIT}
    assert got[-1] == (Kind.FAILED, b"it was ended")


async def test_our_own_fault_is_told_without_its_text(talking):
    """The person learns what kind of error it was, and the error goes on to whoever serves."""

    async def broken(person):
        raise RuntimeError("private")

    client, _ = talking(broken)
    [(kind, sentence)] = await client.to_the_end()
    assert (kind, b"RuntimeError" in sentence, b"private" in sentence) == (Kind.FAILED, True, False)
