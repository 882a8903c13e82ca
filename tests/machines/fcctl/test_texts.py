"""The shell texts, run by this host's own bash."""

from __future__ import annotations

import base64
import os
import subprocess
import time
from pathlib import Path

import pytest

from runnerd.machines.fcctl import texts


def bash(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", text], capture_output=True, text=True, timeout=30)


def wait_for(path: Path) -> str:
    for _ in range(500):
        if path.exists():
            return path.read_text()
        time.sleep(0.01)
    raise AssertionError(f"{path} did not appear")


@pytest.mark.parametrize("name", ["plain", "with space", "quote'd", "$(touch hacked)", "-rf", "ü\n"])
def test_file_is_written_and_read_back(tmp_path: Path, name: str) -> None:
    """Any name and any bytes go in and come out, and the text run again changes nothing."""
    path = tmp_path / "deep" / name
    pieces = [str(tmp_path / "p.0"), str(tmp_path / "p.1")]
    data = bytes(range(256)) * 3
    for piece, part in zip(pieces, (data[:300], data[300:]), strict=True):
        for _ in range(2):
            assert bash(texts.put_piece(piece, part)).returncode == 0
    for _ in range(2):
        assert bash(texts.join(pieces, str(path), 0o750)).returncode == 0
    assert path.read_bytes() == data
    assert path.stat().st_mode & 0o777 == 0o750
    said = bash(texts.read({str(path): 1000}, 100)).stdout
    kind, size, first = said.split()
    assert (kind, size) == ("data", "768")
    rest = bash(texts.read_on(str(path), 100, 10_000)).stdout
    assert base64.b64decode(first) + base64.b64decode(rest) == data
    assert sorted(os.listdir(tmp_path)) == ["deep"]


def test_what_is_no_file_is_told_apart(tmp_path: Path) -> None:
    """Absent, irregular, linked and too large files are not read."""
    (tmp_path / "large").write_bytes(b"x" * 11)
    (tmp_path / "link").symlink_to("large")
    os.mkfifo(tmp_path / "pipe")
    limits = {str(tmp_path / name): 10 for name in ("absent", "large", "link", "pipe", ".")}
    said = bash(texts.read(limits, 100)).stdout.splitlines()
    assert said == ["absent", "large 11", "irregular", "irregular", "irregular"]


def test_join_replaces_a_folder(tmp_path: Path) -> None:
    """What has the file's name gives way to it."""
    (tmp_path / "name" / "inner").mkdir(parents=True)
    bash(texts.put_piece(str(tmp_path / "p"), b"x"))
    assert bash(texts.join([str(tmp_path / "p")], str(tmp_path / "name"), 0o644)).returncode == 0
    assert (tmp_path / "name").read_bytes() == b"x"


def test_lay_out_makes_and_finds(tmp_path: Path) -> None:
    """Folders and empty files are made, and programs are found where the search says."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "tool").touch(mode=0o755)
    (programs / "text").touch(mode=0o644)
    (tmp_path / "full").write_text("old")
    text = texts.lay_out(
        [str(tmp_path / "a/b")],
        [str(tmp_path / "c/d"), str(tmp_path / "full")],
        ["tool", "text", "absent"],
        f"/nonesuch:{programs}",
    )
    done = bash(text)
    assert (done.returncode, done.stdout) == (0, f"tool {programs}/tool\n")
    assert (tmp_path / "a/b").is_dir()
    assert (tmp_path / "c/d").read_text() == (tmp_path / "full").read_text() == ""


def test_process_is_started_once_and_followed(tmp_path: Path) -> None:
    """A text that is run twice starts one process; its output is told apart and its status is kept."""
    folder = str(tmp_path / "job/1")
    script = "echo out; echo err >&2; pwd; echo $X; exit 7"
    env = {"X": "a b'c", "PATH": os.defpath}
    text = texts.launch(folder, ["bash", "-c", script], env, str(tmp_path), "/dev/null")
    for _ in range(2):
        assert bash(text).returncode == 0
    wait_for(tmp_path / "job/1/code")
    state, out, err = bash(texts.follow(folder, 0, 0, most=1000, wait=1.0)).stdout.splitlines()
    assert state == "ended 7"
    assert base64.b64decode(out).decode() == f"out\n{tmp_path}\na b'c\n"
    assert base64.b64decode(err) == b"err\n"
    _, out, err = bash(texts.follow(folder, 4, 4, most=3, wait=0.1)).stdout.split("\n")[:3]
    assert (base64.b64decode(out).decode(), err) == (str(tmp_path)[:3], "")


@pytest.mark.parametrize(("program", "cwd"), [("nonesuch", "/"), ("true", "/nonesuch")])
def test_process_that_cannot_start_says_so(tmp_path: Path, program: str, cwd: str) -> None:
    """A program or a folder that is not there fails the text, with words and without a process."""
    done = bash(texts.launch(str(tmp_path / "1"), [program], {"PATH": os.defpath}, cwd, "/dev/null"))
    assert done.returncode == 1
    assert "nonesuch" in done.stderr
    assert not (tmp_path / "1").exists()


def test_signal_reaches_the_whole_group(tmp_path: Path) -> None:
    """A signal goes to the process and its children; its death by a signal is a status of 128 and more."""
    folder = str(tmp_path / "1")
    script = "sleep 60 & echo $!; wait"
    bash(texts.launch(folder, ["bash", "-c", script], {"PATH": os.defpath}, "/", "/dev/null"))
    child = int(wait_for_line(tmp_path / "1/out"))
    assert bash(texts.signal(folder, 15)).returncode == 0
    assert wait_for(tmp_path / "1/code") == "143\n"
    for _ in range(500):
        try:
            state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            break
        if state == "Z":
            break
        time.sleep(0.01)
    else:
        raise AssertionError("the child lives")
    assert bash(texts.signal(folder, 15)).returncode == 0


def wait_for_line(path: Path) -> str:
    for _ in range(500):
        if path.exists() and path.read_text().endswith("\n"):
            return path.read_text()
        time.sleep(0.01)
    raise AssertionError(f"{path} stays empty")


def test_guard_that_was_killed_is_gone(tmp_path: Path) -> None:
    """Where nobody is left to write the status, that is said, and no status is made up."""
    folder = str(tmp_path / "1")
    bash(texts.launch(folder, ["sleep", "60"], {"PATH": os.defpath}, "/", "/dev/null"))
    guard, child = int((tmp_path / "1/guard").read_text()), int((tmp_path / "1/pid").read_text())
    os.kill(guard, 9)
    said = bash(texts.follow(folder, 0, 0, most=10, wait=0.3)).stdout
    os.kill(child, 9)
    assert said.splitlines() == ["gone", "", ""]


def test_guard_that_was_killed_at_once_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process may kill who waits for it before that is written down: it did start, with no status."""
    (tmp_path / "mv").write_text("#!/bin/sh\nkill -9 $PPID\n")
    (tmp_path / "mv").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    folder = str(tmp_path / "1 2")
    done = bash(texts.launch(folder, ["true"], {"PATH": os.defpath}, "/", "/dev/null"))
    assert (done.returncode, (Path(folder) / "pid").exists()) == (0, False)
    assert bash(texts.follow(folder, 0, 0, most=10, wait=0.3)).stdout.splitlines() == ["gone", "", ""]


def test_archive_is_unpacked_once(tmp_path: Path) -> None:
    """An archive lands in its folder and is removed; run again the text finds it done."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_text("x")
    subprocess.run(["tar", "-czf", tmp_path / "a.gz", "-C", tmp_path / "tree", "."], check=True)
    for _ in range(2):
        assert bash(texts.unpack(str(tmp_path / "a.gz"), str(tmp_path / "into"))).returncode == 0
    assert (tmp_path / "into/file").read_text() == "x"
    assert not (tmp_path / "a.gz").exists()
