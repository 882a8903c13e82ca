"""Shell texts that are asked until they are answered, and files in pieces."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import trio

from runnerd.machines.driver import MachineLost
from runnerd.machines.fcctl import texts
from runnerd.machines.fcctl.service import Service
from runnerd.machines.fcctl.session import NoStatus, Session


@pytest.fixture
async def session(service: Service, fake: Any) -> Session:
    fake.refused_connections = 0
    made = await service.create("focal", "mine")
    return Session(service, made.name, "/home/runner/.runnerd", patience=2.0, pause=0.02)


@pytest.mark.parametrize("fault", ["refuse", "garbage", "drop", "no status", "error"])
async def test_answer_is_asked_for_again(session: Session, fake: Any, fault: str) -> None:
    """Trouble at the service costs a moment, not the machine; what was done twice counts once."""
    fake.fault, fake.faults["POST /api/llm/execute"] = fault, 2
    await session.put("/home/runner/file", b"once", mode=0o600)
    assert (await session.read({"/home/runner/file": 10}))["/home/runner/file"] == b"once"


async def test_lasting_trouble_loses_the_machine(session: Session, fake: Any) -> None:
    """When the patience is over the machine is given up, with the last trouble as the reason."""
    reasons: list[str] = []
    session.lose = reasons.append
    fake.fault, fake.faults["POST /api/llm/execute"] = "refuse", 1000
    with pytest.raises(MachineLost, match="503 busy"):
        await session.ask("true")
    assert "for 2 s" in reasons[0]


async def test_removed_machine_is_lost_at_once(session: Session, fake: Any) -> None:
    """A machine the service does not know is not waited for."""
    fake.end(session.vm)
    with pytest.raises(MachineLost, match="not found"):
        await session.ask("true")


async def test_status_decides(session: Session, fake: Any) -> None:
    """A status but 0 is the machine's word; none, and that of an ssh that did not arrive, is nobody's."""
    with pytest.raises(OSError, match="no such thing"):
        await session.ask("echo no such thing >&2; exit 1")
    fake.fault, fake.faults["POST /api/llm/execute"] = "no status", 1
    with pytest.raises(NoStatus):
        await session.once("true")
    fake.vms[session.vm].refusals = 1
    assert await session.ask("echo there") == "there\n"


async def test_large_files_go_in_pieces(session: Session, fake: Any, tmp_path: Path) -> None:
    """A file larger than a text may be is sent and read in parts, and none of them is left."""
    data = os.urandom(5 * texts.PIECE // 2 + 300_000)
    await session.put("/home/runner/large", data, mode=0o644)
    assert (await session.read({"/home/runner/large": len(data)}))["/home/runner/large"] == data
    assert os.listdir(fake.vms[session.vm].folder / "home/runner/.runnerd") == []
    assert max(map(len, fake.codes)) < 128 << 10


async def test_long_texts_go_by_file(session: Session) -> None:
    """A text too long for one request is sent as a file and run from there."""
    text = f"echo {'x' * (3 * texts.PIECE)} | wc -c"
    assert int(await session.ask(text)) == 3 * texts.PIECE + 1


async def test_refused_file_fails_with_the_machines_words(session: Session) -> None:
    """A path that cannot be written is an OSError, not a lost machine."""
    with pytest.raises(OSError, match="directory"):
        await session.put("/home/runner/.runnerd", b"x" * 200_000, mode=0o644)
    await session.put("/home/runner/plain", b"x", mode=0o644)
    with pytest.raises(OSError, match="directory"):
        await session.put("/home/runner/plain/below", b"x", mode=0o644)


async def test_archive_is_compressed_on_its_way(session: Session, tmp_path: Path) -> None:
    """An archive arrives compressed, and nothing of it stays on the host."""
    (tmp_path / "a.tar").write_bytes(b"a" * 3_000_000)
    there = await session.put_archive(tmp_path / "a.tar")
    assert int(await session.ask(f"zcat {there} | wc -c")) == 3_000_000
    assert not await trio.Path(tmp_path / "a.tar.gz").exists()
