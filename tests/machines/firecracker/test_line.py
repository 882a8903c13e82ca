"""A line over connections that end, played by streams in memory."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from runnerd.machines.firecracker.line import Line


def _never() -> None:
    raise AssertionError("the connection was cut")


async def test_end_of_the_connection_is_the_end_of_the_line() -> None:
    """Once it has settled; bytes go both ways until then."""
    line = Line()
    ours, theirs = trio.testing.memory_stream_pair()
    await line.join(ours, _never)
    line.settle()
    await line.send_all(b"there")
    assert await theirs.receive_some(9) == b"there"
    await theirs.send_all(b"back")
    assert await line.receive_some(9) == b"back"
    await theirs.aclose()
    assert await line.receive_some(9) == b""
    with pytest.raises(trio.BrokenResourceError):
        await line.send_all(b"there")


async def test_loose_line_is_joined(autojump_clock: trio.testing.MockClock) -> None:
    """Whoever reads hears of no end and goes on with the next connection; what is sent meanwhile is gone."""
    line, heard, cuts = Line(), bytearray(), []
    first, far = trio.testing.memory_stream_pair()
    second, next_ = trio.testing.memory_stream_pair()

    async def read() -> None:
        while data := await line.receive_some(9):
            heard.extend(data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await line.send_all(b"nobody is there")
        await line.join(first, lambda: cuts.append(1))
        await far.send_all(b"one ")
        await far.aclose()
        await trio.sleep(1)
        await line.send_all(b"lost")
        await line.join(second, _never)
        line.settle()
        await line.send_all(b"kept")
        assert await next_.receive_some(9) == b"kept"
        await next_.send_all(b"two")
        await next_.aclose()
    assert (bytes(heard), cuts) == (b"one two", [1])


async def test_connection_is_worn_out(autojump_clock: trio.testing.MockClock) -> None:
    """Bytes are sent until the other side ends it; one that does not is given up in time."""
    line = Line()
    ours, theirs = trio.testing.memory_stream_pair()
    await line.join(ours, _never)
    line.settle()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.receive_some)
        line.loosen()
        start = trio.current_time()
        await line.worn_out(1.0)
        assert trio.current_time() == start + 1.0

        async def end() -> None:
            await theirs.receive_some(1)
            await theirs.aclose()

        nursery.start_soon(end)
        start = trio.current_time()
        await line.worn_out(1.0)
        assert trio.current_time() < start + 1.0
        nursery.cancel_scope.cancel()


async def test_closed_line_is_broken() -> None:
    """Also for one who waits for the next connection."""
    line = Line()
    ours, _theirs = trio.testing.memory_stream_pair()
    await line.join(ours, _never)
    await line.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await line.send_all(b"there")
    with pytest.raises(trio.ClosedResourceError):
        await line.receive_some(1)
