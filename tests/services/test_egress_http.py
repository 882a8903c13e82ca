"""What the proxy does with HTTP: tunnels, requests passed on, and everything that is not as it should be."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from runnerd.services.egress_account import Traffic
from runnerd.services.egress_http import Refused, converse


async def echo(stream: trio.SocketStream) -> None:
    """Says back what it hears, and ends when the other side has."""
    while data := await stream.receive_some():
        await stream.send_all(data)
    await stream.send_eof()


def answers(text: bytes, heard: list[bytes], head_of):
    """A server that answers each connection's first request with these bytes, and notes its head."""

    async def serve(stream: trio.SocketStream) -> None:
        heard.append(await head_of(stream))
        await stream.send_all(text)

    return serve


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


async def test_a_tunnel_carries_bytes_and_each_end_of_them(world) -> None:
    """What a client sends after CONNECT arrives, with what it sent too early; each side closes for itself."""
    port = await world.server(echo)
    async with world.open():
        client = world.client()
        await client.stream.send_all(f"CONNECT here.example:{port} HTTP/1.0\r\n\r\nearly ".encode())
        assert (await client.hear(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 Connection established")
        big = b"x" * 1_000_000
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.stream.send_all, big)
            assert await client.hear(b"early ") == b"early "
            heard = bytearray()
            while len(heard) < len(big):
                heard += await client.stream.receive_some()
        await client.stream.send_all(b"last")
        await client.stream.send_eof()
        assert await client.rest() == b"last"
    assert f"here.example:{port}: 1 connection, 1,000,010 bytes sent, 1,000,010 bytes received" in world.lines


async def test_a_request_is_passed_on_in_origin_form(world, head_of) -> None:
    """Path, query and headers arrive; what concerns the proxy's connection alone, and credentials, do not."""
    heard: list[bytes] = []
    port = await world.server(answers(OK, heard, head_of))
    async with world.open():
        client = world.client()
        said = await client.ask(
            f"GET http://user:pw@here.example:{port}/a/b?c=d HTTP/1.1\r\nHost: other.example\r\n"
            "Proxy-Authorization: Basic eA==\r\nProxy-Connection: keep-alive\r\nConnection: close, X-One\r\n"
            "X-One: 1\r\nX-Two: 2\r\n\r\n"
        )
    head = heard[0].lower()
    assert head.startswith(b"get /a/b?c=d http/1.1\r\n")
    assert f"host: here.example:{port}\r\n".encode() in head
    assert b"x-two: 2" in head
    for absent in (b"proxy-", b"x-one", b"other.example", b"pw"):
        assert absent not in head
    assert said.startswith(b"HTTP/1.1 200 OK")
    assert said.endswith(b"\r\n\r\nhello")


async def test_a_client_may_ask_again(world, head_of) -> None:
    """One connection serves request after request, also those that were sent ahead; each is decided anew."""
    heard: list[bytes] = []
    port = await world.server(answers(OK, heard, head_of))
    async with world.open():
        client = world.client()
        request = f"GET http://here.example:{port}/ HTTP/1.1\r\nHost: h\r\n\r\n"
        await client.stream.send_all(request.encode() * 2)
        for _ in range(2):
            assert (await client.hear(b"hello")).startswith(b"HTTP/1.1 200 OK")
        said = await client.ask("GET http://10.0.0.1/ HTTP/1.1\r\nHost: h\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 403 ")
    assert len(heard) == 2


async def test_bodies_go_both_ways(world) -> None:
    """An upload with a length or in chunks arrives whole, after a `100 Continue` for who waits for one."""

    async def serve(stream: trio.SocketStream) -> None:
        heard = bytearray()
        while not heard.endswith(b"0\r\n\r\n") and b"12345" not in heard:
            heard += await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")

    port = await world.server(serve)
    async with world.open():
        client = world.client()
        head = f"PUT http://here.example:{port}/ HTTP/1.1\r\nHost: h\r\n"
        await client.stream.send_all(f"{head}Content-Length: 5\r\nExpect: 100-continue\r\n\r\n".encode())
        assert (await client.hear(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        await client.stream.send_all(b"12345")
        assert b"200 OK" in await client.hear(b"0\r\n\r\n")
        chunks = "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        await client.stream.send_all((head + chunks).encode())
        assert b"200 OK" in await client.hear(b"0\r\n\r\n")


async def test_an_answer_before_the_end_of_an_upload_arrives(world, head_of) -> None:
    """A server that refuses an upload halfway is heard, and the connection ends behind its answer."""
    heard: list[bytes] = []
    port = await world.server(
        answers(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno", heard, head_of)
    )
    async with world.open():
        client = world.client()
        said = await client.ask(
            f"PUT http://here.example:{port}/ HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999\r\n\r\nabc"
        )
    assert said.startswith(b"HTTP/1.1 413")
    assert said.endswith(b"no")


async def test_an_answer_that_is_cut_off_is_not_made_whole(world, head_of) -> None:
    """A body that ends early ends early for the client, too."""
    heard: list[bytes] = []
    short = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe"
    port = await world.server(answers(short, heard, head_of))
    async with world.open():
        said = await world.client().ask(f"GET http://here.example:{port}/ HTTP/1.1\r\nHost: h\r\n\r\n")
    assert b"he" in said
    assert not said.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n"])
async def test_a_server_that_speaks_no_http_is_a_bad_gateway(world, head_of, answer: bytes) -> None:
    """502, in words."""
    heard: list[bytes] = []
    port = await world.server(answers(answer, heard, head_of))
    async with world.open():
        said = await world.client().ask(f"GET http://here.example:{port}/ HTTP/1.1\r\nHost: h\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 502 runnerd: here.example did not answer")


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        ("GET / HTTP/1.1\r\nHost: h\r\n\r\n", 400, "absolute http://"),
        ("GET https://a.example/ HTTP/1.1\r\nHost: h\r\n\r\n", 400, "by CONNECT"),
        ("GET http://a_b!/ HTTP/1.1\r\nHost: h\r\n\r\n", 400, "not a host name"),
        ("GET http://[::1/ HTTP/1.1\r\nHost: h\r\n\r\n", 400, "the address is"),
        ("CONNECT a.example HTTP/1.1\r\nHost: h\r\n\r\n", 400, "no port"),
        ("CONNECT a.example:0 HTTP/1.0\r\n\r\n", 400, "not a port"),
        ("CONNECT [fe80::1%x]:1 HTTP/1.0\r\n\r\n", 400, "not an IPv6"),
        ("hello\r\n\r\n", 400, "not HTTP"),
        ("\x16\x03\x01\x02\r\n\r\n", 400, "not HTTP"),
        ("GET http://a/ HTTP/1.1\r\nX: " + "x" * 70000, 431, "not HTTP"),
        ("HEAD http://10.0.0.1/ HTTP/1.1\r\nHost: h\r\n\r\n", 403, "10.0.0.1 is a private address"),
        ("CONNECT 169.254.169.254:80 HTTP/1.0\r\n\r\n", 403, "metadata"),
        ("CONNECT absent.example:443 HTTP/1.0\r\n\r\n", 502, "Name or service not known"),
    ],
)
async def test_what_cannot_be_done_is_answered(world, request_: str, status: int, words: str) -> None:
    """The status line itself says why, for the many tools that show nothing else."""
    async with world.open():
        said = await world.client().ask(request_)
    line = said.partition(b"\r\n")[0].decode()
    assert line.startswith(f"HTTP/1.1 {status} runnerd: ")
    assert words in line


async def test_silence_ends_a_connection(autojump_clock) -> None:
    """Neither a client that sends no request nor a tunnel in which nothing moves lives for ever."""
    ours, theirs = trio.testing.memory_stream_pair()
    far, near = trio.testing.memory_stream_pair()

    class Memory:
        async def reach(self, host, port):
            return near, Traffic()

    async def talk() -> None:
        async with theirs:
            await converse(theirs, Memory(), head_seconds=60, idle_seconds=900)

    started = trio.current_time()
    await talk()
    assert trio.current_time() - started == pytest.approx(60)
    ours, theirs = trio.testing.memory_stream_pair()
    started = trio.current_time()
    await ours.send_all(b"CONNECT a.example:443 HTTP/1.0\r\n\r\n")
    await talk()
    assert trio.current_time() - started == pytest.approx(900)
    assert await far.receive_some() == b""


class Nowhere:
    """A network in which nothing is reached."""

    async def reach(self, host: str, port: int):
        await trio.lowlevel.checkpoint()
        raise Refused(403, f"{host}:{port}")


@given(st.binary(max_size=300) | st.text(alphabet="GETCONECThtp:/.@[]%1a \r\n", max_size=120).map(str.encode))
def test_no_bytes_of_a_client_break_the_proxy(data: bytes) -> None:
    """Whatever is sent, the conversation ends; nothing but an end is raised."""

    async def main() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        await ours.send_all(data)
        await ours.send_eof()
        with trio.fail_after(5):
            await converse(theirs, Nowhere(), head_seconds=1, idle_seconds=1)

    trio.run(main)
