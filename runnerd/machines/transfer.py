"""Files into and out of a machine through its channel."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import trio

from runnerd.machines.channel import Channel
from runnerd.machines.driver import MachineLost
from runnerd.machines.exchange import Chunk, End, Exchange, refusal

PATIENCE = 60.0
"""Seconds for the files of one request; an agent that needs longer is lost."""
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
    found = (await get_all(channel, {path: limit}))[path]
    if isinstance(found, Exception):
        raise found
    return found


async def get_all(channel: Channel, limits: Mapping[str, int]) -> dict[str, bytes | OSError | ValueError]:
    """Read regular files in one round trip; see `Machine.get_all`."""
    exchange = channel.open()
    content = bytearray()
    try:
        with trio.move_on_after(PATIENCE):
            await exchange.request("get", {"files": list(limits.items())})
            parts = _parts(exchange, await exchange.answer(), limits.values())
            announced = sum(part.size for part in parts)
            if announced:
                while not isinstance(item := await exchange.next(), End):
                    if not isinstance(item, Chunk) or len(content) + len(item.data) > announced:
                        raise exchange.broken("it sends more than the files it announced")
                    content += item.data
                    exchange.took(item.kind, len(item.data))
                parts = _parts(exchange, item.fields, [part.size for part in parts])
            if sum(part.size for part in parts) != len(content):
                raise exchange.broken("the files it sends have other sizes than it says")
            return dict(zip(limits, _cut(content, parts), strict=True))
    finally:
        exchange.drop()
    _too_slow(channel, f"a get of {', '.join(limits)}")


async def lay_out(
    channel: Channel,
    folders: Sequence[str],
    files: Sequence[str],
    *,
    programs: Sequence[str],
    search: str,
    user: int,
) -> dict[str, str]:
    """Make folders and empty files, and find programs; see `Machine.lay_out`."""
    asked = {"folders": folders, "files": files, "programs": programs, "search": search, "user": user}
    exchange = channel.open()
    try:
        with trio.move_on_after(PATIENCE):
            await exchange.request("lay_out", asked)
            found = (await exchange.answer()).get("found")
            possible = {name: [f"{folder}/{name}" for folder in search.split(":")] for name in programs}
            if not isinstance(found, dict) or any(
                path not in possible.get(name, ()) for name, path in found.items()
            ):
                raise exchange.broken("it found programs that were not looked for")
            return found
    finally:
        exchange.drop()
    _too_slow(channel, "a lay_out")


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


class _Part(NamedTuple):
    """What an agent says of one file: the bytes it sends, and why that is not the file."""

    size: int
    error: OSError | ValueError | None


def _parts(exchange: Exchange, fields: dict[str, Any], bounds: Collection[int]) -> list[_Part]:
    """What an answer says of the files asked for, each within its bound."""
    entries = fields.get("files")
    if not isinstance(entries, list) or len(entries) != len(bounds):
        raise exchange.broken("it answers for other files than was asked for")
    parts = []
    for entry, bound in zip(entries, bounds, strict=True):
        error = refusal(entry) if isinstance(entry, dict) else None
        size = entry.get("size", 0 if error else None) if isinstance(entry, dict) else None
        if not isinstance(size, int) or not 0 <= size <= bound:
            raise exchange.broken("it sends a file larger than was asked for")
        parts.append(_Part(size, error))
    return parts


def _cut(content: bytearray, parts: list[_Part]) -> Iterator[bytes | OSError | ValueError]:
    """The files, which follow one another in `content`."""
    start = 0
    for part in parts:
        yield part.error or bytes(content[start : start + part.size])
        start += part.size
