"""Programs that fetch and pack packages, played by scripts: what they are asked, what their failure says."""

import os

import pytest
import trio

from runnerd.machines.distribution import EPOCH, Archive, BuildFailed, Debian, what_failed
from runnerd.machines.launcher import born


@pytest.fixture
def play(tmp_path):
    """Puts a shell script in the place of a program; returns a `Debian` that finds it first."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def program(name: str, script: str) -> Debian:
        path = folder / name
        path.write_text("#!/bin/sh\n" + script)
        path.chmod(0o755)
        return Debian(environ={"PATH": f"{folder}:{os.environ['PATH']}", "NOTES": str(tmp_path)}, timeout=10)

    return program


async def test_mmdebstrap_is_asked_for_a_reproducible_tar(play, tmp_path):
    """Suite, packages, mirror and hooks reach mmdebstrap, and time stamps are bounded."""
    debian = play("mmdebstrap", 'printf "%s\\n" "$@" $SOURCE_DATE_EPOCH > "$NOTES/asked"')
    archive = Archive(suite="trixie", mirror="http://mirror.example/debian")
    await debian.install(archive, ["git", "g++"], ["echo hook"], tmp_path / "out.tar")
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked[0] == "--variant=minbase"
    assert "--include=git,g++" in asked
    assert "--customize-hook=echo hook" in asked
    assert asked[-4:] == ["trixie", str(tmp_path / "out.tar"), archive.mirror, str(EPOCH)]
    await debian.unpack(Archive(), ["busybox-static"], tmp_path / "out.tar")
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked[0] == "--variant=extract"
    assert asked[-3:] == ["bookworm", str(tmp_path / "out.tar"), str(EPOCH)]


async def test_a_failure_says_what_the_program_said(play, tmp_path):
    """BuildFailed carries the program's status and the end of its words."""
    debian = play("mmdebstrap", "echo E: no such package >&2; exit 25")
    with pytest.raises(BuildFailed, match="mmdebstrap ended with status 25: E: no such package"):
        await debian.unpack(Archive(), ["nonsense"], tmp_path / "out.tar")


UNREACHABLE = """I: using /tmp/mmdebstrap.x as tempdir
I: running apt-get update...
Ign:1 http://127.0.0.1:9/debian bookworm InRelease
Err:1 http://127.0.0.1:9/debian bookworm InRelease
  Could not connect to 127.0.0.1:9 (127.0.0.1). - connect (111: Connection refused)
Reading package lists...
E: Failed to fetch http://127.0.0.1:9/debian/dists/bookworm/InRelease  Could not connect to 127.0.0.1:9
E: apt-get update --error-on=any -oAPT::Status-Fd=<$fd> -oDpkg::Use-Pty=false failed
I: removing tempdir /tmp/mmdebstrap.x...
E: mmdebstrap failed to run
"""


@pytest.mark.parametrize(
    ("said", "found", "cure"),
    [
        (UNREACHABLE, "Err:1 http://127.0.0.1:9/debian", "see `mirror`"),
        (
            "Building dependency tree...\nE: Unable to locate package x\n",
            "E: Unable to l",
            "correct `packages`",
        ),
        ("I: running hook\nno such thing\n", "no such thing", ""),
    ],
)
async def test_what_went_wrong_is_found_among_what_went_well(play, tmp_path, said, found, cure):
    """mmdebstrap tells of its progress as well; what can be done about it is said where it is known."""
    (tmp_path / "said").write_text(said)
    debian = play("mmdebstrap", 'cat "$NOTES/said" >&2; exit 25')
    with pytest.raises(BuildFailed) as caught:
        await debian.unpack(Archive(), ["nonsense"], tmp_path / "out.tar")
    assert str(caught.value).startswith(f"mmdebstrap ended with status 25: {found}")
    assert cure in str(caught.value)
    assert "I: " not in str(caught.value)
    assert "failed to run" not in str(caught.value)


def test_what_says_nothing_but_progress_is_told_whole():
    """Better than nothing, as is that nothing was said."""
    assert what_failed("I: one\nE: mmdebstrap failed to run\n") == "I: one\nE: mmdebstrap failed to run"
    assert what_failed(" \n") == "it said nothing"


@pytest.mark.parametrize("package", ["", "Git", "git --hook", "-f", "a;b", "x" * 0 + "g\nit"])
async def test_what_is_no_package_name_reaches_no_program(play, tmp_path, package):
    """A configured word that is no package name is refused before anything runs."""
    debian = play("mmdebstrap", 'touch "$NOTES/ran"')
    with pytest.raises(BuildFailed, match="not the name of a Debian package"):
        await debian.unpack(Archive(), [package], tmp_path / "out.tar")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "fields", [{"suite": "-x"}, {"suite": "a b"}, {"mirror": "deb x"}, {"mirror": "ftp://x"}]
)
def test_an_archive_is_checked(fields):
    """Only a suite's name and a mirror's address can become arguments."""
    with pytest.raises(ValueError, match="Debian"):
        Archive(**fields)


async def test_squash_reads_the_tar(play, tmp_path):
    """The tar goes to sqfstar's input."""
    debian = play("sqfstar", 'for last; do :; done; cat > "$last"')
    (tmp_path / "in.tar").write_bytes(b"a tar")
    await debian.squash(tmp_path / "in.tar", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"a tar"


async def test_a_build_that_is_cancelled_leaves_no_process(play, tmp_path, eventually):
    """Cancelling ends the program and its children."""
    debian = play(
        "mmdebstrap", 'sleep 60 & echo $! > "$NOTES/child.part"; mv "$NOTES/child.part" "$NOTES/child"; wait'
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(debian.unpack, Archive(), ["git"], tmp_path / "out.tar")
        await eventually((tmp_path / "child").exists)
        nursery.cancel_scope.cancel()
    pid = int((tmp_path / "child").read_text())
    await eventually(lambda: born(pid) is None)


async def test_a_program_that_hangs_is_stopped(play, tmp_path):
    """A program that never ends is ended after the time-out, with a sentence."""
    debian = play("mmdebstrap", "exec sleep 60")
    debian._timeout = 0.2
    with pytest.raises(BuildFailed, match="still running after"):
        await debian.unpack(Archive(), ["git"], tmp_path / "out.tar")
