"""Behaviour of runnerd.web.terminal_client, against a control API served on a real Unix socket."""

from __future__ import annotations

import select
import socket
import subprocess
import sys
import threading
from functools import partial

import pytest
import trio

from runnerd.web import control, guard, listeners, terminal_client
from runnerd.web.client import Refusal, Unreachable
from runnerd.web.control import Refused, Unavailable
from runnerd.web.frames import LIMIT, Kind
from runnerd.web.terminal import Screen


class Shells:
    """An API that has shells alone: `talk` is what they say, `error` what refuses them."""

    def __init__(self):
        self.asked = []
        self.error = None
        self.talk = self.echo
        self.open = 0

    async def shell(self, run, job, at, screen):
        self.asked.append((run, job, at, screen))
        if self.error:
            raise self.error
        return self.counted

    async def counted(self, person):
        self.open += 1
        try:
            await self.talk(person)
        finally:
            self.open -= 1

    async def echo(self, person):
        await person.say("hello")
        while typed := await person.typed():
            await person.show(typed if isinstance(typed, bytes) else b"%dx%d" % typed)
        await person.end(3)


@pytest.fixture
async def served(tmp_path, nursery):
    """What is asked for, and a way to dial it from a thread."""
    shells, path, stop = Shells(), tmp_path / "control.sock", trio.Event()
    app = control.app(shells)
    await nursery.start(
        partial(guard.serve, app, [listeners.open_unix(path)], stop=stop, grace=0.5, max_connections=20)
    )
    yield shells, partial(dial, path)
    stop.set()


def dial(path, at=None, window=(24, 80), term="xterm", plain=False):
    return terminal_client.dial(path, 5, 9, at, window=window, term=term, plain=plain)


def speak(line, *, typing=b"", until=(Kind.STATUS, Kind.FAILED)):
    """Type, say that it is all, and return all frames up to one of a kind."""
    frames = []
    line.type(typing)
    if typing:
        line.end()
    while not any(kind in until for kind, _ in frames):
        ready, _, _ = select.select([line], [line] if line.pending else [], [], 10)
        line.flush()
        if ready:
            frames += line.receive()
    return frames


async def in_thread(function, *arguments, **named):
    with trio.fail_after(30):
        return await trio.to_thread.run_sync(partial(function, *arguments, **named), abandon_on_cancel=True)


async def test_what_was_asked_for_is_asked_for(served):
    """The step, the window and the kind of terminal reach the daemon; a plain one is none."""
    shells, dial = served

    def both():
        with dial("step ünit", (50, 132), "xterm-256color") as line:
            speak(line, until=(Kind.NOTE,))
        with dial(plain=True) as line:
            speak(line, until=(Kind.NOTE,))

    await in_thread(both)
    assert shells.asked == [
        (5, 9, "step ünit", Screen(rows=50, columns=132, term="xterm-256color")),
        (5, 9, None, Screen(rows=24, columns=80, term="xterm", plain=True)),
    ]


async def test_a_conversation(served):
    """What is typed comes back, and the last frame is the status; much goes both ways at once."""
    _, dial = served
    keys = bytes(range(256)) * 8192  # two megabytes, more than every buffer on the way

    def talk():
        with dial() as line:
            line.resize(30, 90)
            return speak(line, typing=keys)

    frames = await in_thread(talk)
    assert frames[0] == (Kind.NOTE, b"hello")
    assert frames[-1] == (Kind.STATUS, b"\x03")
    assert b"".join(data for kind, data in frames if kind is Kind.SCREEN) == b"30x90" + keys


@pytest.mark.parametrize(
    ("error", "status"),
    [(LookupError("no such step"), 404), (Refused("paused"), 409), (Unavailable("draining"), 503)],
)
async def test_a_refusal_is_heard(served, error, status):
    """It carries its sentence, as any other command's."""
    shells, dial = served
    shells.error = error
    with pytest.raises(Refusal, match=str(error)) as refused:
        await in_thread(dial)
    assert refused.value.status == status


async def test_a_term_that_is_none_is_refused(served):
    """What becomes a variable in the machine is a name, and nothing was asked for otherwise."""
    shells, dial = served
    with pytest.raises(Refusal, match="kind of terminal"):
        await in_thread(dial, term="x\ny")
    with pytest.raises(Refusal, match="1000 characters"):
        await in_thread(dial, at="x" * 2000)
    assert shells.asked == []


async def test_who_speaks_another_version_is_told(served, monkeypatch):
    """A client of another protocol is refused before anything is asked."""
    shells, dial = served
    monkeypatch.setattr(terminal_client, "PROTOCOL", "runnerd-terminal/9")
    with pytest.raises(Refusal, match="runnerd-terminal/1") as refused:
        await in_thread(dial)
    assert (refused.value.status, shells.asked) == (426, [])


async def test_vanishing_clients_leave_nothing(served, eventually):
    """As many as may connect come and go without a word; each talk ends, and the next is served."""
    shells, dial = served

    def come_and_go():
        lines = [dial() for _ in range(18)]
        for line in lines:
            speak(line, until=(Kind.NOTE,))
        assert shells.open == 18
        for line in lines:
            line.__exit__(None, None, None)

    await in_thread(come_and_go)
    await eventually(lambda: shells.open == 0)

    def talk():
        with dial() as line:
            return speak(line, typing=b"x")

    assert (await in_thread(talk))[-1] == (Kind.STATUS, b"\x03")


async def test_a_fault_of_the_daemon_is_said(served):
    """A talk that fails ends with a sentence."""
    shells, dial = served

    async def broken(person):
        raise RuntimeError("private")

    shells.talk = broken

    def talk():
        with dial() as line:
            return speak(line)

    assert (await in_thread(talk))[-1][0] is Kind.FAILED


def answering(tmp_path, data):
    """Something that is no daemon, and answers one connection with these bytes."""
    path = tmp_path / "other.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def answer():
        with listener, listener.accept()[0] as connection:
            connection.recv(1 << 16)
            connection.sendall(data)

    thread = threading.Thread(target=answer)
    thread.start()
    return path, thread


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 500 OK\r\ncontent-length: x\r\n\r\n",
        b"HTTP/1.1 many OK\r\n\r\n",
        b"x" * 200_000,
    ],
)
def test_what_is_no_daemon_is_said_so(tmp_path, data):
    """No answer, another protocol's and a harmed one are all `Unreachable`, with a sentence."""
    path, thread = answering(tmp_path, data)
    with pytest.raises(Unreachable, match="did not answer as a daemon does"):
        dial(path)
    thread.join()


def test_the_end_without_a_last_word_is_said(tmp_path):
    """A daemon that dies leaves a sentence; frames that came before it are not lost."""
    note = b"\x11\x00\x02hi"
    path, thread = answering(tmp_path, b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + note)
    with dial(path) as line:
        frames = speak(line, until=(Kind.NOTE,))
        assert frames == [(Kind.NOTE, b"hi")]
        with pytest.raises(Unreachable, match="ended the connection"):
            speak(line, typing=b"x" * LIMIT * 10)
    thread.join()


def test_a_frame_that_is_none_is_said(tmp_path):
    """What answers as no daemon does after the upgrade is `Unreachable` as well."""
    path, thread = answering(tmp_path, b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x63\x00\x00")
    with dial(path) as line, pytest.raises(Unreachable, match="did not answer as a daemon does"):
        speak(line)
    thread.join()


def test_nobody_listens(tmp_path):
    """The sentence says what to look at."""
    with pytest.raises(Unreachable, match="no daemon listens"):
        dial(tmp_path / "control.sock")


def test_it_costs_a_command_nothing():
    """Beside the standard library nothing is loaded."""
    heavy = ("trio", "quart", "httpx", "msgspec")
    code = f"import sys, runnerd.web.terminal_client; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
