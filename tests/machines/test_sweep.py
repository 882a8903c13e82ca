"""What a machine without isolation leaves behind."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runnerd.machines import sweep


@contextmanager
def running(*argv: str, **options: object) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(argv, **options)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_processes_are_found_by_folder_and_environment(tmp_path: Path) -> None:
    """Who lives below the folder, or carries its name in the environment, belongs to it; nobody else does."""
    mine, other = tmp_path / "mine", tmp_path / "mine-not"
    (mine / "sub").mkdir(parents=True)
    other.mkdir()
    with (
        running("sleep", "60", cwd=mine / "sub", env={}) as inside,
        running("sleep", "60", cwd="/", env={"HOME": f"{mine}/home"}) as named,
        running("sleep", "60", cwd=other, env={}) as stranger,
    ):
        deadline = time.monotonic() + 30
        while set(sweep.processes_of(mine)) != {inside.pid, named.pid}:
            assert time.monotonic() < deadline
        assert stranger.pid not in sweep.processes_of(mine)
        assert os.getpid() not in sweep.processes_of(tmp_path)


def test_all_generations_of_descendants_are_found() -> None:
    """Children and their children, but not the ancestor."""
    with running("sh", "-c", "sh -c 'sleep 60; true'; true") as parent:
        deadline = time.monotonic() + 30
        while len(below := sweep.descendants(parent.pid)) < 2:
            assert time.monotonic() < deadline
        assert {parent.pid, *below} <= set(sweep.descendants(os.getpid()))
        assert parent.pid not in below
        assert os.getpid() not in sweep.descendants(os.getpid())
        assert sweep.end_all(lambda: sweep.descendants(parent.pid), seconds=5)
        assert parent.wait(timeout=30) == 0


def test_everything_found_is_killed_until_nothing_is(tmp_path: Path) -> None:
    """Processes that start others while they are killed do not escape."""
    script = "while :; do sleep 60 & sleep 0.01; done"
    with running("sh", "-c", script, cwd=tmp_path, start_new_session=True) as breeder:
        while len(sweep.processes_of(tmp_path)) < 5:
            time.sleep(0.01)

        def find() -> list[int]:
            breeder.poll()
            return sweep.processes_of(tmp_path)

        assert sweep.end_all(find, seconds=5)
        assert sweep.processes_of(tmp_path) == []


def test_what_cannot_be_ended_is_told(tmp_path: Path) -> None:
    """When the time is over it says so."""
    assert sweep.end_all(lambda: [2**22 + 1], seconds=0.05) is False
    assert sweep.end_all(lambda: [], seconds=0.05) is True


def test_folder_is_removed_whatever_its_modes(tmp_path: Path) -> None:
    """Unreadable and unwritable folders go too, links are not followed, and an absent folder is fine."""
    kept = tmp_path / "kept"
    kept.mkdir(mode=0o700)
    (kept / "file").write_text("")
    folder = tmp_path / "folder"
    (folder / "closed/inner").mkdir(parents=True)
    (folder / "closed/inner/file").write_text("")
    (folder / "link").symlink_to(kept)
    (folder / "closed/inner").chmod(0o000)
    (folder / "closed").chmod(0o500)
    sweep.remove(folder)
    assert not folder.exists()
    assert (kept / "file").exists()
    sweep.remove(folder)
