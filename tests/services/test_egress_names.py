"""Look-ups and connections of the proxy's host."""

from __future__ import annotations

import os
import socket
import threading
from ipaddress import ip_address

import pytest
import trio

from runnerd.services import egress_names
from runnerd.services.egress_names import Names, NoAddress, dial, is_own


async def test_a_name_has_its_addresses() -> None:
    """Every address, each once; what has none says why."""
    assert ip_address("127.0.0.1") in await Names().resolve("localhost")
    assert await Names().resolve("127.1") == [ip_address("127.0.0.1")]
    with pytest.raises(NoAddress, match=r"\w"):
        await Names().resolve("a..b")


async def test_a_look_up_that_hangs_is_left_behind(monkeypatch) -> None:
    """Cancelling does not wait for a name server, and a hanging look-up keeps no more than its thread."""
    release = threading.Event()

    def hang(host: str) -> list:
        release.wait(30)
        return []

    monkeypatch.setattr(egress_names, "_look_up", hang)
    names = Names(threads=1)
    try:
        with trio.move_on_after(0.01) as scope:
            await names.resolve("slow.example")
        assert scope.cancelled_caught
        with trio.move_on_after(0.01) as scope:
            await names.resolve("next.example")  # no thread is free
        assert scope.cancelled_caught
    finally:
        release.set()
    with trio.fail_after(30):
        assert await names.resolve("next.example") == []


async def test_the_next_address_is_tried(monkeypatch) -> None:
    """An address that does not answer is followed by the next one; the last error is raised."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        dead, alive = ip_address("127.0.0.2"), ip_address("127.0.0.1")
        before = len(os.listdir("/proc/self/fd"))
        async with await dial([dead, alive], port, each=5) as stream:
            assert stream.socket.getpeername() == ("127.0.0.1", port)
        with pytest.raises(ConnectionRefusedError):
            await dial([dead], port, each=5)
        assert len(os.listdir("/proc/self/fd")) == before


def test_the_host_knows_its_own_addresses() -> None:
    """Loopback is ours, what others have is not."""
    assert is_own(ip_address("127.0.0.1"))
    assert not is_own(ip_address("192.0.2.1"))
