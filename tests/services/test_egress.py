"""The proxy of a job: what it refuses and logs, its bounds, and its end."""

from __future__ import annotations

import os

import pytest
import trio

from runnerd.services import egress
from runnerd.services.egress_policy import Pattern, Policy


async def hold(stream: trio.SocketStream) -> None:
    """Says nothing until the client ends."""
    while await stream.receive_some():
        pass


async def opened(world, port: int):
    """A client with an open tunnel."""
    client = world.client()
    await client.stream.send_all(f"CONNECT here.example:{port} HTTP/1.0\r\n\r\n".encode())
    assert b" 200 " in await client.hear(b"\r\n\r\n")
    return client


async def test_a_refusal_is_in_the_answer_and_in_the_log(world) -> None:
    """A name that resolves to an inner address is refused by that address, at once, and logged once."""
    world.names["inner.example"] = ["192.168.7.7"]
    async with world.open():
        for _ in range(3):
            said = await world.client().ask("CONNECT inner.example:443 HTTP/1.0\r\n\r\n")
            assert b"403 runnerd: the network policy refuses inner.example:443: 192.168.7.7 is" in said
    assert world.lines == [
        "##[warning]The network policy refused a connection to inner.example:443: "
        "192.168.7.7 is a private address.",
        "##[warning]The network policy refused 2 more connections of this job.",
    ]


async def test_the_judged_address_is_the_one_connected_to(world) -> None:
    """A name is looked up once per connection: what it resolves to later leads nowhere else."""
    port = await world.server(hold)
    answers = [["127.0.0.1"], ["10.0.0.1"]]
    async with world.open():

        async def rebind(host: str):
            world.names["here.example"] = answers.pop(0)
            return await world.resolve(host)

        world.egress.resolve = rebind
        await opened(world, port)
        assert world.looked_up == ["here.example"]
        said = await world.client().ask(f"CONNECT here.example:{port} HTTP/1.0\r\n\r\n")
    assert b"403" in said


async def test_loopback_is_refused_under_the_default_policy(world) -> None:
    """This host's own servers are not reached, by name, by number, nor by an odd spelling of it."""
    port = await world.server(hold)
    world.names |= {"localhost": ["::1", "127.0.0.1"], "0x7f.1": ["127.0.0.1"]}
    async with world.open(Policy()):
        for host in ("localhost", "here.example", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "0x7f.1"):
            said = await world.client().ask(f"CONNECT {host}:{port} HTTP/1.0\r\n\r\n")
            assert said.startswith(b"HTTP/1.1 403 "), host


async def test_without_a_network_nothing_is_looked_up(world) -> None:
    """`none` refuses every place by its rule, and an allowlist every other, before any look-up."""
    async with world.open(Policy(kind="none", reason="forks have none")):
        assert b"forks have none" in await world.client().ask("CONNECT here.example:1 HTTP/1.0\r\n\r\n")
    async with world.open(Policy(kind="allowlist", allow=(Pattern("a.example"),))):
        assert b"allowlist" in await world.client().ask("CONNECT here.example:1 HTTP/1.0\r\n\r\n")
    assert world.looked_up == []


async def test_a_dead_server_is_a_bad_gateway(world) -> None:
    """A refused connection is said to be that, and no policy is blamed."""
    port = await world.server(hold)
    async with world.open():
        said = await world.client().ask(f"CONNECT here.example:{port ^ 1} HTTP/1.0\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 502 runnerd: no connection to here.example")
    assert world.lines == []


async def test_names_that_take_too_long_are_given_up(world, autojump_clock) -> None:
    """504 after the time for look-ups, not later."""

    async def never(host: str):
        await trio.sleep_forever()

    async with world.open(resolve_seconds=5):
        world.egress.resolve = never
        started = trio.current_time()
        said = await world.client().ask("CONNECT slow.example:1 HTTP/1.0\r\n\r\n")
        assert trio.current_time() - started == pytest.approx(5)
    assert said.startswith(b"HTTP/1.1 504 ")


async def test_connections_are_bounded(world) -> None:
    """One connection too many, of the job or of the host, is told so; room comes back when one ends."""
    port = await world.server(hold)
    async with world.open(connections=2, everywhere=99):
        first, _ = await opened(world, port), await opened(world, port)
        assert b"503 runnerd: this job has 2" in await world.client().rest()
        await first.stream.send_eof()
        assert await first.rest() == b""
        while world.egress.connections > 1:
            await trio.lowlevel.checkpoint()
        await opened(world, port)
    async with world.open(connections=9, everywhere=1):
        await opened(world, port)
        assert b"503 runnerd: this host has 1" in await world.client().rest()
    assert world.egress.connections == 0


async def test_the_end_of_a_job_ends_its_connections(world) -> None:
    """Open tunnels are cut when the job's context is left, none is taken any more, no descriptor is kept."""
    port = await world.server(hold)
    before = len(os.listdir("/proc/self/fd"))
    async with world.open():
        clients = [await opened(world, port) for _ in range(5)]
    assert world.egress.connections == 0
    for client in clients:
        assert await client.rest() == b""
    assert await world.client().rest() == b""
    while len(os.listdir("/proc/self/fd")) > before:  # the servers' ends follow
        await trio.lowlevel.checkpoint()
    assert f"here.example:{port}: 5 connections, 0 bytes sent, 0 bytes received" in world.lines


async def test_a_fault_of_ours_costs_one_connection(world) -> None:
    """What no one foresaw ends its own connection, and the proxy serves on."""
    port = await world.server(hold)
    async with world.open():

        async def broken(host: str):
            raise RuntimeError("unforeseen")

        resolve, world.egress.resolve = world.egress.resolve, broken
        assert await world.client().ask("CONNECT a.example:1 HTTP/1.0\r\n\r\n") == b""
        world.egress.resolve = resolve
        await opened(world, port)


async def test_a_client_that_goes_away_ends_its_tunnel(world) -> None:
    """The server's side is closed as well."""
    ended = trio.Event()

    async def wait(stream: trio.SocketStream) -> None:
        await hold(stream)
        ended.set()

    port = await world.server(wait)
    async with world.open():
        client = await opened(world, port)
        await client.stream.aclose()
        await ended.wait()


def test_every_tool_is_told() -> None:
    """Variables in both spellings; sudo keeps every one of them, apt knows the proxy without any."""
    told = egress.variables(1234)
    assert told["http_proxy"] == told["HTTPS_PROXY"] == "http://127.0.0.1:1234"
    assert "127.0.0.1" in told["no_proxy"].split(",")
    files = egress.files(1234)
    kept = files["/etc/sudoers.d/runnerd-proxy"].decode()
    assert kept.startswith("Defaults env_keep += ")
    assert all(name in kept for name in told)
    assert b'Acquire::http::Proxy "http://127.0.0.1:1234";' in files["/etc/apt/apt.conf.d/90runnerd-proxy"]
