"""The agent's loop: one poll(), no threads; frames in, frames out, and what runs between them."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from . import system
from .names import Names
from .tree import Tree
from .wire import (
    DATA,
    EOF,
    EXIT,
    GUEST,
    HELLO,
    HELLO_ACK,
    MORE,
    PING,
    PONG,
    REQ,
    RES,
    RESET,
    TO_GUEST,
    VERSION,
    WINDOW,
    WINDOW_SIZE,
    Frames,
    pack,
)

CHUNK = 32768 - 16
"""Payload of one DATA frame: with its header it fills one buffer of a virtio port."""
FULL, LOW = 131072, 65536
"""Above FULL bytes waiting for the port nothing more is read from the jobs, until below LOW."""
READS = 16
"""Reads from the port before the others have their turn."""

Operation = Callable[["Agent", int, dict[str, Any]], dict[str, Any] | None]
"""Does one request. Returns the answer's fields, or None when an exchange answers later."""


class Timed(Protocol):
    """What has something to do at some time."""

    def due(self, now: float) -> float | None:
        """Do what time asks for; returns the time of the next call, None for none."""


class Exchange:
    """One request that outlives its REQ; it ends with `answer`, `refuse` or `end`."""

    def __init__(self, agent: Agent, stream: int) -> None:
        self.agent = agent
        self.stream = stream
        self._unreturned = 0
        agent.exchanges[stream] = self

    def data(self, payload: bytes) -> None:
        """Bytes from the host."""

    def eof(self) -> None:
        """No more bytes from the host."""

    def window(self, kind: int, count: int) -> None:
        """The host took this many bytes."""

    def reset(self) -> None:
        """The host wants nothing more of this; end it at once."""

    def due(self, now: float) -> float | None:
        """Do what time asks for; returns the time of the next call, None for none."""
        return None

    def answer(self, fields: dict[str, Any]) -> None:
        """End with this answer, unless the host has dropped the exchange."""
        if self._leave():
            self.agent.answer(self.stream, fields)

    def refuse(self, error: Exception) -> None:
        """End with an answer that says what went wrong."""
        if self._leave():
            self.agent.refuse(self.stream, error)

    def end(self, fields: dict[str, Any]) -> None:
        """End with an EXIT, behind the data sent before."""
        if self._leave():
            self.agent.send_in_order(EXIT, self.stream, json.dumps(fields).encode())

    def _leave(self) -> bool:
        if self.agent.exchanges.get(self.stream) is not self:
            return False
        del self.agent.exchanges[self.stream]
        self.agent.timers.pop(self.stream, None)
        return True

    def took(self, count: int) -> None:
        """Return credit for bytes of the host's that were consumed."""
        self._unreturned += count
        if self._unreturned >= WINDOW_SIZE // 2:
            self.agent.send(WINDOW, self.stream | TO_GUEST, self._unreturned.to_bytes(4, "little"))
            self._unreturned = 0


class Gather(Exchange):
    """Takes the part of a request that is too large for its REQ, then does the request."""

    def __init__(self, agent: Agent, stream: int, request: dict[str, Any], size: int) -> None:
        super().__init__(agent, stream)
        self._request = request
        self._size = size
        self._rest = bytearray()

    def data(self, payload: bytes) -> None:
        """Collect; when it is whole, do the request."""
        self._rest += payload
        self.took(len(payload))
        if len(self._rest) >= self._size:
            self._leave()
            self.agent.perform(self.stream, self._request, self._rest)

    def reset(self) -> None:
        """Forget the half request."""
        self.refuse(InterruptedError(errno.EINTR, "the request was taken back"))


class Agent:
    """Serves one host over one file descriptor until that ends (`ends`) or for ever (a virtio port).

    With a `listener` in place of a port it serves whoever connects, the latest only.
    """

    def __init__(
        self,
        port: int,
        operations: dict[str, Operation],
        *,
        ends: bool,
        init: bool,
        root: str,
        listener: socket.socket | None = None,
    ) -> None:
        self.init = init
        self.operations = operations
        self.exchanges: dict[int, Exchange] = {}
        self.children: dict[int, Callable[[int], None]] = {}
        self.timers: dict[int, Timed] = {}
        """Whose `due` wants to be called: exchanges, by their stream, and the guard of the memory."""
        self.listeners: dict[int, Any] = {}
        self.connections = 0
        """How many were ever taken; numbers the next one."""
        self.job_root: str | None = None
        self.files = Tree(root, confined=not init)
        self.names: Names | None = None
        """Set together with `job_root`."""
        self.identity: dict[str, str] = {}
        self.generation = 0
        self.alive = True
        self.null = os.open("/dev/null", os.O_RDWR)
        self._port = port
        self._ends = ends
        self._session: str | None = None
        self._frames = Frames()
        self._urgent: deque[bytes] = deque()
        self._bulk: deque[bytes] = deque()
        self._waiting = 0
        self._out = b""
        self._sent = 0
        self._blocked = False
        self._congested = False
        self._unplugged = False
        self._watched: dict[int, tuple[int, Callable[[int], None]]] = {}
        self._poll = select.poll()
        self._listener = listener
        if listener is None:
            self._poll.register(port, select.POLLIN)
        else:
            self._unplugged = True
            self._poll.register(listener, select.POLLIN)
        self._bell, ring = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll.register(self._bell, select.POLLIN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(ring, warn_on_full_buffer=False)

    def run(self) -> None:
        """Serve until the host is gone."""
        while self.alive:
            self._flush()
            for fd, events in self._poll.poll(self._patience()):
                if fd == self._port:
                    self._hear(events)
                elif fd == self._bell:
                    self._reap()
                elif self._listener is not None and fd == self._listener.fileno():
                    self._accept(self._listener)
                elif fd in self._watched:
                    self._watched[fd][1](events)

    def watch(self, fd: int, mask: int, handler: Callable[[int], None]) -> None:
        """Call the handler when the descriptor is ready; a handler survives a call for nothing.

        Reading pauses by itself while too much waits for the port.
        """
        if mask:
            self._watched[fd] = (mask, handler)
            self._apply(fd, mask)
        elif self._watched.pop(fd, None):
            self._apply(fd, 0)

    def send(self, kind: int, stream: int, payload: bytes = b"", flags: int = 0) -> None:
        """Queue a control frame; it goes out before all data."""
        self._urgent.append(pack(kind, stream, payload, flags))

    def send_in_order(self, kind: int, stream: int, payload: bytes = b"") -> None:
        """Queue a frame behind the data queued before it."""
        frame = pack(kind, stream, payload)
        self._bulk.append(frame)
        self._waiting += len(frame)
        if self._waiting >= FULL and not self._congested:
            self._congest(True)

    def answer(self, stream: int, fields: dict[str, Any], *, more: bool = False) -> None:
        """Send the answer to a request; without `more` it ends the exchange."""
        self.send(RES, stream, json.dumps(fields).encode(), MORE if more else 0)

    def refuse(self, stream: int, error: Exception) -> None:
        """Answer a request with what went wrong."""
        self.answer(stream, refusal(error))

    def perform(self, stream: int, request: dict[str, Any], rest: bytes | bytearray = b"{}") -> None:
        """Do one request and answer it."""
        try:
            request |= json.loads(rest)
            operation = self.operations[str(request.pop("op"))]
            fields = operation(self, stream, request)
        except (OSError, KeyError, TypeError, ValueError) as error:
            wrong = (
                error if isinstance(error, (OSError, ValueError)) else ValueError(f"bad request: {error!r}")
            )
            self.refuse(stream, wrong)
        else:
            if fields is not None:
                self.answer(stream, fields)

    def drop(self) -> None:
        """End every exchange and offer; for a new session and for the freezing."""
        dropped = list(self.exchanges.values())
        for stream in self.exchanges:
            self.timers.pop(stream, None)
        self.exchanges.clear()  # first, so that none of them says anything more
        for exchange in dropped:
            exchange.reset()
        for listener in list(self.listeners.values()):
            listener.close()

    def leave_session(self) -> None:
        """Listen for nothing but a HELLO from here on."""
        self._session = None
        self._frames.clear()

    def _hear(self, events: int) -> None:
        if events & select.POLLOUT:
            self._blocked = False
            self._poll.register(self._port, select.POLLIN)
        if not events & ~select.POLLOUT:
            return
        for _ in range(READS):
            try:
                data = os.read(self._port, 65536)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                return self._unplug()
            for kind, flags, stream, payload in self._frames.feed(data):
                self._take(kind, flags, stream, payload)

    def _unplug(self) -> None:
        """The host closed its end. A virtio port reports that for ever, so it is asked now and then."""
        if self._ends:
            self.alive = False
            return
        self.leave_session()
        self._poll.unregister(self._port)
        self._unplugged = True
        if self._listener is not None:
            os.close(self._port)
            self._port = -1

    def _accept(self, listener: socket.socket) -> None:
        """A host connected: it is the one from now on, for the one before may be gone without a word."""
        try:
            connection, _ = listener.accept()
        except OSError:  # it went away again
            return
        if not self._unplugged:
            self._unplug()
        self._port = connection.detach()
        os.set_blocking(self._port, False)
        self._poll.register(self._port, select.POLLIN)
        self._unplugged = self._blocked = False

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == HELLO:
            self._greet(payload)
            return
        if self._session is None:
            return
        if kind == PING:
            self.send(PONG, stream, payload)
        elif kind == REQ:
            self._request(stream, payload)
        elif exchange := self.exchanges.get(stream & ~3):  # none: it ended while the frame was under way
            if kind == DATA:
                exchange.data(payload)
            elif kind == EOF:
                exchange.eof()
            elif kind == WINDOW:
                exchange.window(stream & 3, int.from_bytes(payload[:4], "little"))
            elif kind == RESET:
                exchange.reset()

    def _greet(self, payload: bytes) -> None:
        try:
            nonce = str(json.loads(payload)["nonce"])
        except (ValueError, KeyError, TypeError):
            return self.leave_session()
        if nonce != self._session:
            self.drop()
            self._urgent.clear()
            self._bulk.clear()
            self._out = b""
            self._waiting = self._sent = 0
            self._congest(False)
            self._session = nonce
        fields = {"nonce": nonce, "protocol": VERSION, "generation": self.generation, "pid": os.getpid()}
        self.send(HELLO_ACK, 0, json.dumps(fields).encode())

    def _request(self, stream: int, payload: bytes) -> None:
        if stream & (GUEST | 3) or stream in self.exchanges:
            return self.refuse(stream, ValueError("bad request: not a free stream"))
        try:
            request = dict(json.loads(payload))
            rest = int(request.pop("rest", 0))
        except (ValueError, TypeError) as error:
            return self.refuse(stream, ValueError(f"bad request: {error}"))
        if rest:
            Gather(self, stream, request, rest)
        else:
            self.perform(stream, request)

    def _flush(self) -> None:
        while not self._blocked and not self._unplugged:
            if self._sent == len(self._out):
                self._next()
                if not self._out:
                    return
            try:
                self._sent += os.write(self._port, memoryview(self._out)[self._sent :])
            except BlockingIOError:
                self._blocked = True
                self._poll.register(self._port, select.POLLIN | select.POLLOUT)
            except OSError:
                return self._unplug()

    def _next(self) -> None:
        """Choose what is written next: everything urgent, or else one data frame."""
        self._sent = 0
        if self._urgent:
            self._out = b"".join(self._urgent)
            self._urgent.clear()
        elif self._bulk:
            self._out = self._bulk.popleft()
            self._waiting -= len(self._out)
            if self._congested and self._waiting < LOW:
                self._congest(False)
        else:
            self._out = b""

    def _congest(self, congested: bool) -> None:
        self._congested = congested
        for fd, (mask, _) in self._watched.items():
            self._apply(fd, mask)

    def _apply(self, fd: int, mask: int) -> None:
        if self._congested:
            mask &= ~select.POLLIN
        if mask:
            self._poll.register(fd, mask)
        else:
            try:
                self._poll.unregister(fd)
            except KeyError:  # was paused already
                pass

    def _patience(self) -> int | None:
        """Milliseconds poll may wait, after doing what is due."""
        absent = self._unplugged and self._listener is None
        soonest: float | None = 0.05 if absent else None
        if absent:
            self._look_for_the_host()
        if self.timers:
            now = time.monotonic()
            for timed in list(self.timers.values()):
                due = timed.due(now)
                if due is not None:
                    soonest = min(due - now, soonest if soonest is not None else due - now)
            self._flush()  # what came due may have spoken
        return None if soonest is None else max(0, int(soonest * 1000) + 1)

    def _look_for_the_host(self) -> None:
        probe = select.poll()
        probe.register(self._port, select.POLLIN)
        if not any(events & select.POLLHUP for _, events in probe.poll(0)):
            self._unplugged = self._blocked = False
            self._poll.register(self._port, select.POLLIN)

    def _reap(self) -> None:
        try:
            os.read(self._bell, 512)
        except BlockingIOError:
            pass
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            ended = self.children.pop(pid, None)
            if ended:
                ended(status)


def refusal(error: Exception) -> dict[str, Any]:
    """An answer's fields that say what went wrong."""
    number = error.errno if isinstance(error, OSError) else None
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, OSError) and error.filename is not None:
        said = f"{said}: {error.filename}"
    return {"error": said[:1000], "errno": number}


def end_descendants(seconds: float) -> bool:
    """Kill every process below this one, whatever sessions they fled to; True when none is left."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for pid in system.children(os.getpid()):
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:  # gone, or another user's
                pass
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return True  # as subreaper we would have inherited their children
        time.sleep(0.002)
    return False
