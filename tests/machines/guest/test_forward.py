"""Offered ports, seen from both ends without the host's code."""

import json
import os
import socket
import time

import pytest

from runnerd.machines.guest import forward, wire

from .conftest import Host


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def connect(host: Host, port: int) -> tuple[socket.socket, int]:
    """A client in the machine, and the stream on which the host hears of it."""
    client = socket.create_connection(("127.0.0.1", port), timeout=10)
    kind, _, stream, payload = host.receive()
    assert kind == wire.REQ
    assert stream & wire.GUEST
    assert json.loads(payload) == {"op": "accept", "port": port}
    return client, stream


def test_bytes_go_both_ways_and_half_closes_are_kept(host: Host, port: int) -> None:
    """Each direction ends on its own; the exchange is over when both have."""
    assert host.call("listen", port=port) == {}
    client, stream = connect(host, port)
    with client:
        client.sendall(b"ask")
        client.shutdown(socket.SHUT_WR)
        assert host.receive() == (wire.DATA, 0, stream | wire.FROM_GUEST, b"ask")
        assert host.receive() == (wire.EOF, 0, stream | wire.FROM_GUEST, b"")
        host.send(wire.DATA, stream | wire.TO_GUEST, b"answer")
        host.send(wire.EOF, stream | wire.TO_GUEST)
        assert client.makefile("rb").read() == b"answer"
    assert host.receive() == (wire.EXIT, 0, stream, b"{}")


def test_reset_delivers_what_was_sent_before(host: Host, port: int) -> None:
    """A host that closes is not heard of again, but what it sent arrives whole."""
    host.call("listen", port=port)
    client, stream = connect(host, port)
    data = os.urandom(wire.WINDOW_SIZE)
    with client:
        for start in range(0, len(data), 32768):
            host.send(wire.DATA, stream | wire.TO_GUEST, data[start : start + 32768])
        host.send(wire.RESET, stream)
        assert client.makefile("rb").read() == data
    kinds = [host.receive()[0] for _ in range(3)]
    assert kinds == [wire.WINDOW, wire.WINDOW, wire.EXIT]


def test_client_that_never_ends_is_cut(host: Host, port: int) -> None:
    """A connection that the host has closed does not live for ever because its other side does."""
    host.call("listen", port=port)
    client, stream = connect(host, port)
    with client:
        started = time.monotonic()
        host.send(wire.RESET, stream)
        assert host.receive() == (wire.EXIT, 0, stream, b"{}")
        assert time.monotonic() - started < forward.LINGER + 30


def test_client_that_vanishes_ends_the_exchange(host: Host, port: int) -> None:
    """A connection that breaks gets its EXIT although the host has not closed."""
    host.call("listen", port=port)
    client, stream = connect(host, port)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    frame = host.receive()
    if frame[0] == wire.EOF:  # the hang-up was seen before the reset
        host.send(wire.DATA, stream | wire.TO_GUEST, b"x")
        frame = host.receive()
    assert frame[:3] == (wire.EXIT, 0, stream)


def test_without_credit_the_client_waits(host: Host, port: int) -> None:
    """No more than a window of a connection's bytes is sent unasked."""
    host.call("listen", port=port)
    client, stream = connect(host, port)
    client.setblocking(False)
    with client:
        try:
            for _ in range(1000):
                client.send(b"x" * 65536)
        except BlockingIOError:
            pass
        taken = 0
        while taken < wire.WINDOW_SIZE:
            taken += len(host.receive()[3])
        assert taken == wire.WINDOW_SIZE
        assert host.call("ping") == {}
        host.send(wire.WINDOW, stream | wire.FROM_GUEST, (7).to_bytes(4, "little"))
        assert len(host.receive()[3]) == 7
    host.send(wire.RESET, stream)


def test_connections_are_bounded(host: Host, port: int) -> None:
    """Above the limit connections wait until one ends."""
    host.call("listen", port=port)
    clients = [connect(host, port) for _ in range(forward.CONNECTIONS)]
    waiting = socket.create_connection(("127.0.0.1", port), timeout=10)
    assert host.call("ping") == {}  # and no accept before the answer
    host.send(wire.RESET, clients[0][1])
    clients[0][0].close()
    assert host.receive()[:3] == (wire.EXIT, 0, clients[0][1])
    assert host.receive()[0] == wire.REQ
    for client, _ in clients:
        client.close()
    waiting.close()


def test_offering_twice_is_once_and_a_taken_port_is_an_error(host: Host, port: int) -> None:
    """The same port may be offered again; one that another process has is refused."""
    assert host.call("listen", port=port) == {}
    assert host.call("listen", port=port) == {}
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert "in use" in host.call("listen", port=other.getsockname()[1])["error"]
