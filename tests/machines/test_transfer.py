"""Files through a channel, to real agents and hostile ones."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from runnerd.machines import frames, transfer
from runnerd.machines.channel import Channel
from runnerd.machines.driver import MachineLost
from runnerd.machines.frames import DATA, EXIT, MORE, RES

from .conftest import Peer


async def test_put_and_get(agent_channel: Channel, tmp_path: Path) -> None:
    """Files of no byte, of one window and of many go in and come out."""
    for size in (0, 1, frames.WINDOW_SIZE, 3_000_000):
        data = os.urandom(size)
        await transfer.put(agent_channel, f"{tmp_path}/a/{size}", data, mode=0o600, user=0)
        assert await transfer.get(agent_channel, f"{tmp_path}/a/{size}", limit=size) == data


async def test_what_cannot_be_got_says_why(agent_channel: Channel, tmp_path: Path) -> None:
    """Absent, too large, not a file, outside: each its own error, and the channel goes on."""
    (tmp_path / "big").write_bytes(bytes(1000))
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "out").symlink_to("/etc")
    with pytest.raises(FileNotFoundError):
        await transfer.get(agent_channel, f"{tmp_path}/absent", limit=10)
    with pytest.raises(ValueError, match="1000 bytes, 999 are allowed"):
        await transfer.get(agent_channel, f"{tmp_path}/big", limit=999)
    for name in ("", "/link"):
        with pytest.raises(ValueError, match="not a regular file"):
            await transfer.get(agent_channel, f"{tmp_path}{name}", limit=10**6)
    with pytest.raises(OSError):  # noqa: PT011 - EXDEV, which has no class of its own
        await transfer.get(agent_channel, f"{tmp_path}/out/passwd", limit=10**6)
    with pytest.raises(PermissionError):
        await transfer.get(agent_channel, "/etc/passwd", limit=10**6)
    with pytest.raises(NotADirectoryError):
        await transfer.put(agent_channel, f"{tmp_path}/big/x", bytes(3_000_000), mode=0o600, user=0)
    assert await agent_channel.call("ping") == {}


async def test_files_are_got_together(agent_channel: Channel, tmp_path: Path) -> None:
    """Each has its content or its own error."""
    contents = {f"{tmp_path}/{name}": os.urandom(size) for name, size in (("a", 300_000), ("b", 0), ("c", 7))}
    for path, data in contents.items():
        await transfer.put(agent_channel, path, data, mode=0o644, user=0)
    limits = {path: len(data) for path, data in contents.items()}
    found = await transfer.get_all(
        agent_channel, {f"{tmp_path}/absent": 9, **limits, f"{tmp_path}/c": 6, str(tmp_path): 9}
    )
    assert list(found) == [f"{tmp_path}/absent", *contents, str(tmp_path)]
    assert isinstance(found[f"{tmp_path}/absent"], FileNotFoundError)
    assert (found[f"{tmp_path}/a"], found[f"{tmp_path}/b"]) == (contents[f"{tmp_path}/a"], b"")
    assert str(found[f"{tmp_path}/c"]) == "7 bytes, 6 are allowed"
    assert str(found[str(tmp_path)]) == "not a regular file"
    assert await transfer.get_all(agent_channel, limits) == contents


async def test_a_place_is_laid_out(agent_channel: Channel, tmp_path: Path) -> None:
    """Folders and files are made, and programs found, in one request."""
    found = await transfer.lay_out(
        agent_channel,
        [f"{tmp_path}/w/r/r"],
        [f"{tmp_path}/t/{number}" for number in range(3000)],
        programs=["sh", "nonesuch"],
        search="/usr/bin:/bin",
        user=0,
    )
    assert list(found) == ["sh"]
    assert found["sh"] in ("/usr/bin/sh", "/bin/sh")
    assert os.listdir(tmp_path / "w/r/r") == []
    assert {path.stat().st_size for path in (tmp_path / "t").iterdir()} == {0}
    assert len(os.listdir(tmp_path / "t")) == 3000
    with pytest.raises(NotADirectoryError):
        await transfer.lay_out(agent_channel, [f"{tmp_path}/t/1/x"], [], programs=[], search="", user=0)


@pytest.mark.parametrize(
    "found", [None, [], {"bash": "/bin/bash"}, {"sh": "/etc/sh"}, {"sh": "/bin/bash"}, {"sh": ["/bin/sh"]}]
)
async def test_programs_are_only_where_they_were_looked_for(peer: Peer, found: object) -> None:
    """What an agent finds elsewhere, or of another name, is a lie."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(play, peer, whole(found=found))
        with pytest.raises(MachineLost, match="broke the protocol"):
            await transfer.lay_out(peer.channel, [], [], programs=["sh"], search="/bin:/sbin", user=0)


async def test_archive_goes_through_the_channel(agent_channel: Channel, tmp_path: Path) -> None:
    """A tree of many files and some megabytes arrives as it was."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(50):
        (source / f"file {number}").write_bytes(os.urandom(100_000))
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(source, arcname=".")
    await transfer.unpack(agent_channel, tmp_path / "a.tar", f"{tmp_path}/work/R/R", user=0, device=None)
    for path in source.iterdir():
        assert (tmp_path / "work/R/R" / path.name).read_bytes() == path.read_bytes()


async def test_broken_archive_is_tars_complaint(agent_channel: Channel, tmp_path: Path) -> None:
    """What is no archive is refused, also when far more of it comes than tar reads."""
    (tmp_path / "a.tar").write_bytes(b"nonsense" * 500_000)
    with pytest.raises(OSError, match="cannot unpack: tar:"):
        await transfer.unpack(agent_channel, tmp_path / "a.tar", f"{tmp_path}/w", user=0, device=None)
    assert await agent_channel.call("ping") == {}


async def play(peer: Peer, *sent: Callable[[int], bytes]) -> None:
    """Answer the next request with these frames."""
    asked = await peer.receive()
    for frame in sent:
        await peer.send_bytes(frame(asked.stream))


def answer(**fields: object) -> Callable[[int], bytes]:
    return lambda stream: frames.pack(RES, stream, json.dumps(fields).encode(), MORE)


def piece(size: int) -> Callable[[int], bytes]:
    return lambda stream: frames.pack(DATA, stream | 2, bytes(size))


def end(**fields: object) -> Callable[[int], bytes]:
    return lambda stream: frames.pack(EXIT, stream, json.dumps(fields).encode())


def whole(**fields: object) -> Callable[[int], bytes]:
    return lambda stream: frames.pack(RES, stream, json.dumps(fields).encode())


def sizes(*values: object) -> dict[str, object]:
    return {"files": [{"size": value} for value in values]}


@pytest.mark.parametrize(
    "sent",
    [
        [answer(**sizes(11)), piece(11), end(**sizes(11))],
        [answer(**sizes(-1)), end(**sizes(-1))],
        [answer(**sizes("10")), end(**sizes("10"))],
        [answer(), end()],
        [answer(files=[10]), end(files=[10])],
        [answer(**sizes()), end(**sizes())],
        [answer(**sizes(5, 5)), piece(10), end(**sizes(5, 5))],
        [answer(**sizes(5)), piece(6), end(**sizes(5))],
        [answer(**sizes(5)), piece(5), piece(1), end(**sizes(5))],
        [answer(**sizes(5)), piece(5), end()],
        [answer(**sizes(5)), piece(5), end(**sizes(4))],
        [answer(**sizes(5)), piece(5), end(**sizes(6))],
        [answer(**sizes(5)), piece(4), end(**sizes(5))],
        [piece(5)],
    ],
)
async def test_lying_agent_is_lost(peer: Peer, sent: list[Callable[[int], bytes]]) -> None:
    """More than was asked for, or than was announced, ends the machine."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(play, peer, *sent)
        with pytest.raises(MachineLost, match="broke the protocol"):
            await transfer.get(peer.channel, "/f", limit=10)


BROKEN = {"size": 2, "error": "Input/output error", "errno": 5}


async def test_read_error_in_the_middle_is_raised(peer: Peer) -> None:
    """Half a file is never returned as a whole one."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(play, peer, answer(**sizes(5)), piece(2), end(files=[BROKEN]))
        with pytest.raises(OSError, match="Input/output error"):
            await transfer.get(peer.channel, "/f", limit=10)
        nursery.start_soon(play, peer, answer(**sizes(5, 3)), piece(5), end(files=[BROKEN, {"size": 3}]))
        found = await transfer.get_all(peer.channel, {"/f": 10, "/g": 10})
        assert isinstance(found["/f"], OSError)
        assert found["/g"] == bytes(3)
    assert not peer.channel.ended


async def test_agent_that_stalls_is_lost(peer: Peer, autojump_clock: trio.testing.MockClock) -> None:
    """A file that does not come within the time is the end of the machine."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(play, peer, answer(**sizes(5)), piece(2))
        with pytest.raises(MachineLost, match="a get of /f was not done within 60 s"):
            await transfer.get(peer.channel, "/f", limit=10)


async def test_put_that_stalls_is_lost(peer: Peer, autojump_clock: trio.testing.MockClock) -> None:
    """The same for a put whose credit never comes."""
    with pytest.raises(MachineLost, match="a put of /f was not done within 60 s"):
        await transfer.put(peer.channel, "/f", bytes(frames.WINDOW_SIZE * 2), mode=0o644, user=0)
