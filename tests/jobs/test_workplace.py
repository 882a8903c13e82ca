"""A job's folders and files in its machine."""

import os
from pathlib import Path

import pytest
import trio

from runnerd.jobs.workplace import Unusable, Workplace

LIMITS = dict.fromkeys(("GITHUB_ENV", "GITHUB_OUTPUT", "GITHUB_PATH", "GITHUB_STEP_SUMMARY"), 100)


def content(path: str) -> bytes:
    return Path(path).read_bytes()


def write(path: str, data: bytes) -> None:
    Path(path).write_bytes(data)


@pytest.fixture
async def place(machine) -> Workplace:
    place = Workplace(machine, machine.paths.work + "/r/r", {"PATH": os.environ["PATH"]})
    await place.prepare(2, {"a": 1})
    return place


async def test_the_workspace_is_made_empty_and_every_steps_files_are_there(place):
    """One command makes them all, and says which shells there are."""
    assert os.listdir(place.workspace) == []
    for step in (1, 2):
        assert [content(path) for path in place.files(step).values()] == [b""] * 5
    assert content(place.event_path) == b'{"a":1}'
    assert place.shells["sh"]
    assert place.shells["bash"].endswith("/bash")


async def test_only_the_programs_that_are_there_are_shells(machine):
    """Those on the job's PATH; nothing is taken for granted."""
    folder = machine.root / "bin"
    await machine.put(str(folder / "sh"), b"", mode=0o755)
    place = Workplace(machine, machine.paths.work + "/r/r", {"PATH": str(folder)})
    await place.prepare(1, {})
    assert place.shells == {"sh": f"{folder}/sh"}


async def test_folders_that_cannot_be_made_are_said(machine):
    """With the machine's words."""
    os.makedirs(machine.paths.work)
    write(machine.paths.work + "/r", b"a file in the way")
    place = Workplace(machine, machine.paths.work + "/r/r", {"PATH": os.environ["PATH"]})
    with pytest.raises(Unusable, match=r"could not be made: .*Not a directory"):
        await place.prepare(1, {})


async def test_a_step_costs_three_round_trips(place, machine):
    """Its script, its run, and its files at once; the preparation is two, however many steps there are."""
    assert machine.calls == {"put": 1, "lay_out": 1}
    await place.put_script(1, ".sh", "true")
    write(place.files(1)["GITHUB_ENV"], b"a=\xff")
    files = await place.read(1, LIMITS)
    assert machine.calls == {"put": 2, "lay_out": 1, "get_all": 1}
    assert files.texts["GITHUB_ENV"] == "a=\ufffd"
    assert files.problems == {}


async def test_what_cannot_be_read_is_a_problem_and_what_is_gone_is_empty(place):
    """Too large, a folder, a missing file."""
    paths = place.files(1)
    write(paths["GITHUB_ENV"], b"x" * 101)
    os.unlink(paths["GITHUB_OUTPUT"])
    os.mkdir(paths["GITHUB_OUTPUT"])
    os.unlink(paths["GITHUB_PATH"])
    files = await place.read(1, LIMITS)
    assert set(files.problems) == {"GITHUB_ENV", "GITHUB_OUTPUT"}
    assert files.texts["GITHUB_PATH"] == ""


async def test_a_folder_is_emptied_but_stays(place):
    """Also of what begins with a dot; a folder that is not there is empty already."""
    os.mkdir(place.workspace + "/.hidden")
    write(place.workspace + "/-x", b"")
    await place.empty(place.workspace)
    assert os.listdir(place.workspace) == []
    await place.empty(place.workspace + "/absent")


async def test_hashing_without_python_is_said(place):
    """The image lacks it, and the sentence says so."""
    del place.shells["python3"]
    with pytest.raises(OSError, match="needs python3"):
        await place.hash_files(("*",), seconds=5)


async def test_hashing_has_its_time(place, machine):
    """A machine that never answers does not hold the job for ever."""

    async def hang(command, output):
        await trio.sleep_forever()

    machine.exec = hang
    with pytest.raises(OSError, match=r"longer than 0.05 s"):
        await place.hash_files(("*",), seconds=0.05)


async def test_a_script_is_written_executable(place):
    """As `command {0}` may expect."""
    path = await place.put_script(1, ".sh", "ü\udcff")
    assert os.access(path, os.X_OK)
    assert content(path) == b"\xc3\xbc?"
