"""Ports on the machine's loopback whose connections lead through the channel to the host."""

from __future__ import annotations

import json
import select
import socket
import time
from typing import Any

from .agent import CHUNK, Agent, Exchange
from .wire import DATA, EOF, FROM_GUEST, GUEST, REQ, WINDOW_SIZE

CONNECTIONS = 64
"""Connections at the same time, all ports together; more wait in the kernel's queue."""

LINGER = 5.0
"""Seconds without progress after which a connection that the host has closed is cut."""


class Listener:
    """One offered port."""

    def __init__(self, agent: Agent, port: int) -> None:
        self.port = port
        self._agent = agent
        self._socket = socket.socket()
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(("127.0.0.1", port))
            self._socket.listen(CONNECTIONS)
        except BaseException:
            self._socket.close()
            raise
        self._socket.setblocking(False)
        self.resume()

    def resume(self) -> None:
        """Take connections again, as far as there is room."""
        room = sum(isinstance(one, Connection) for one in self._agent.exchanges.values()) < CONNECTIONS
        self._agent.watch(self._socket.fileno(), select.POLLIN if room else 0, self._accept)

    def close(self) -> None:
        """Withdraw the offer; connections live on."""
        self._agent.watch(self._socket.fileno(), 0, self._accept)
        self._agent.listeners.pop(self.port, None)
        self._socket.close()

    def _accept(self, _: int) -> None:
        try:
            accepted, _address = self._socket.accept()
        except OSError:  # it went away again, or no descriptor is free: the next turn tries again
            return
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        Connection(self._agent, accepted, self.port)
        self.resume()


class Connection(Exchange):
    """One connection: over when both sides have said so and all that the host sent is written."""

    def __init__(self, agent: Agent, accepted: socket.socket, port: int) -> None:
        agent.connections += 1
        super().__init__(agent, GUEST | (agent.connections << 2 & 0x7FFFFFFC))
        self._socket = accepted
        self._credit = WINDOW_SIZE
        self._pending = bytearray()
        self._heard = False
        self._told = False
        self._deaf = False
        self._patience = 0.0
        # Behind all data, so that the host has seen the end of those before when it counts this one.
        agent.send_in_order(REQ, self.stream, json.dumps({"op": "accept", "port": port}).encode())
        self._watch()

    def data(self, payload: bytes) -> None:
        """Pass on to the connection."""
        self._pending += payload
        self._write()

    def eof(self) -> None:
        """Close the sending side once all is written."""
        self._told = True
        self._write()

    def window(self, kind: int, count: int) -> None:
        """Read on."""
        self._credit += count
        self._watch()

    def reset(self) -> None:
        """Close once all is written and the other side has ended too; what it still says is for nobody.

        A socket closed with unread bytes in it would take back what was written last.
        """
        self._deaf = self._told = True
        self._patience = time.monotonic() + LINGER
        self.agent.timers[self.stream] = self
        self._write()

    def due(self, now: float) -> float | None:
        """Give up a side that neither takes what is left nor ends."""
        if now < self._patience:
            return self._patience
        self._close()
        return None

    def _watch(self) -> None:
        mask = select.POLLOUT if self._pending else 0
        if not self._heard and (self._deaf or self._credit > 0):
            mask |= select.POLLIN
        self.agent.watch(self._socket.fileno(), mask, self._ready)

    def _ready(self, events: int) -> None:
        if events & (select.POLLOUT | select.POLLERR):
            self._write()
        if events & ~select.POLLOUT and self._socket.fileno() >= 0:
            self._read()

    def _read(self) -> None:
        if self._heard or (self._credit <= 0 and not self._deaf):
            return
        try:
            data = self._socket.recv(CHUNK if self._deaf else min(CHUNK, self._credit))
        except BlockingIOError:
            return
        except OSError:
            return self._close()
        if data and self._deaf:
            return
        if data:
            self._credit -= len(data)
            self.agent.send_in_order(DATA, self.stream | FROM_GUEST, data)
        else:
            self._heard = True
            if not self._deaf:
                self.agent.send_in_order(EOF, self.stream | FROM_GUEST)
        self._settle()

    def _write(self) -> None:
        try:
            count = self._socket.send(self._pending) if self._pending else 0
        except BlockingIOError:
            count = 0
        except OSError:
            return self._close()
        del self._pending[:count]
        if count:
            self.took(count)
            self._patience = time.monotonic() + LINGER
        if self._told and not self._pending:
            try:
                self._socket.shutdown(socket.SHUT_WR)
            except OSError:  # closed by the other side already
                pass
        self._settle()

    def _settle(self) -> None:
        if self._heard and self._told and not self._pending:
            self._close()
        else:
            self._watch()

    def _close(self) -> None:
        self.agent.watch(self._socket.fileno(), 0, self._ready)
        self.agent.timers.pop(self.stream, None)
        self._socket.close()
        self.end({})
        for listener in self.agent.listeners.values():
            listener.resume()


def listen(agent: Agent, stream: int, request: dict[str, Any]) -> dict[str, Any]:
    """Operation `listen`: port. Offering a port twice is the same as once."""
    port = int(request["port"])
    if port not in agent.listeners:
        agent.listeners[port] = Listener(agent, port)
    return {}
