"""Files into and out of a machine through its channel."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import NoReturn

import trio

from runnerd.machines.channel import Channel
from runnerd.machines.driver import MachineLost
from runnerd.machines.exchange import Chunk, End, raise_refusal

PATIENCE = 60.0
"""Seconds for one file; an agent that needs longer is lost."""
_BLOCK = 262144


async def put(channel: Channel, path: str, data: bytes, *, mode: int, user: int) -> None:
    """Write one file, whole or not at all; raises what `Machine.put` does."""
    exchange = channel.open()
    try:
        with trio.move_on_after(PATIENCE):
            await exchange.request("put", {"path": path, "mode": mode, "user": user})
            await exchange.send(data)
            exchange.send_eof()
            await exchange.answer()
            return
    finally:
        exchange.drop()
    _too_slow(channel, f"a put of {path}")


async def get(channel: Channel, path: str, *, limit: int) -> bytes:
    """Read one regular file of at most `limit` bytes; raises what `Machine.get` does."""
    exchange = channel.open()
    content = bytearray()
    try:
        with trio.move_on_after(PATIENCE):
            await exchange.request("get", {"path": path, "limit": limit})
            size = (await exchange.answer()).get("size")
            if not isinstance(size, int) or not 0 <= size <= limit:
                raise exchange.broken("it sends a file larger than was asked for")
            while not isinstance(item := await exchange.next(), End):
                if not isinstance(item, Chunk) or len(content) + len(item.data) > size:
                    raise exchange.broken("it sends more than the file it announced")
                content += item.data
                exchange.took(item.kind, len(item.data))
            raise_refusal(item.fields)
            return bytes(content)
    finally:
        exchange.drop()
    _too_slow(channel, f"a get of {path}")


async def unpack(channel: Channel, archive: Path | None, into: str, *, user: int, device: str | None) -> None:
    """Unpack a tar into a folder: from the machine's own `device`, or else `archive` through the channel.

    Takes as long as it takes; raises OSError with tar's words, and MachineLost.
    """
    exchange = channel.open()
    try:
        await exchange.request("unpack", {"into": into, "user": user, "device": device})
        if device is None and archive is not None:
            async for block in _blocks(archive):
                await exchange.send(block)
                if exchange.over:
                    break
            exchange.send_eof()
        await exchange.answer()
    finally:
        exchange.drop()


async def _blocks(archive: Path) -> AsyncIterator[bytes]:
    async with await trio.open_file(archive, "rb") as file:
        while block := await file.read(_BLOCK):
            yield block


def _too_slow(channel: Channel, what: str) -> NoReturn:
    channel.close(f"{what} was not done within {PATIENCE:g} s")
    raise MachineLost(channel.reason)
