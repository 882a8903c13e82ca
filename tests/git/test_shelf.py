"""Files kept by key."""

from pathlib import Path

import pytest
import trio
import trio.lowlevel

from runnerd.git import shelf
from runnerd.git.shelf import Shelf


def maker(text: str, made: list[str]):
    async def make(path: Path) -> None:
        made.append(path.name)
        await trio.lowlevel.checkpoint()
        await trio.to_thread.run_sync(path.write_text, text)

    return make


async def test_a_file_is_made_once_for_all_who_ask_at_once(tmp_path):
    """Twenty askers, one maker, twenty names of their own."""
    made: list[str] = []
    kept = Shelf(tmp_path / "s", size=100)
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(kept.get, "key", maker("text", made), tmp_path / f"{number}")
    assert made == ["key"]
    assert {(tmp_path / f"{number}").read_text() for number in range(20)} == {"text"}


async def test_the_least_recently_used_goes_first(tmp_path):
    """Past the size the file nobody asked for longest is removed and made again when wanted."""
    made: list[str] = []
    kept = Shelf(tmp_path / "s", size=10)
    for key in ("a", "b", "a", "c", "a", "b"):
        await kept.get(key, maker("12345", made), tmp_path / "out")
    assert made == ["a", "b", "c", "b"]
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["a", "b"]


async def test_a_file_larger_than_the_shelf_is_given_but_not_kept(tmp_path):
    """The asker has it; the shelf is empty again."""
    kept = Shelf(tmp_path / "s", size=3)
    await kept.get("a", maker("12345", []), tmp_path / "out")
    assert (tmp_path / "out").read_text() == "12345"
    assert list((tmp_path / "s").iterdir()) == []


async def test_a_failed_making_is_tried_again(tmp_path):
    """The error reaches who asked, and the next asker makes it."""
    kept = Shelf(tmp_path / "s", size=100)

    async def fail(path: Path) -> None:
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        await kept.get("a", fail, tmp_path / "out")
    await kept.get("a", maker("ok", []), tmp_path / "out")
    assert (tmp_path / "out").read_text() == "ok"


async def test_what_an_earlier_daemon_left_is_removed(tmp_path):
    """The shelf starts empty."""
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "old").write_text("x")
    await Shelf(tmp_path / "s", size=100).get("a", maker("1", []), tmp_path / "out")
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["a"]


async def test_without_links_the_file_is_copied(tmp_path, monkeypatch):
    """A target on another file system gets a copy."""

    def refuse(*_args: object) -> None:
        raise OSError("cross-device link")

    monkeypatch.setattr(shelf.os, "link", refuse)
    await Shelf(tmp_path / "s", size=100).get("a", maker("1", []), tmp_path / "out")
    assert (tmp_path / "out").read_text() == "1"
