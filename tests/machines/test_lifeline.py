"""Programs that build images end with whoever runs them, however that one ends."""

import os
import signal
import sys
from pathlib import Path

import pytest
import trio

from runnerd.machines import lifeline
from runnerd.machines.launcher import born

ROOT = Path(__file__).parents[2]
ENVIRON = {"PATH": os.environ["PATH"]}

RUNS = """
import sys, trio
from runnerd.machines import lifeline
environ = {"PATH": sys.argv[1]}
trio.run(lambda: lifeline.run(sys.argv[2:], environ=environ, timeout=600))
"""

WORKS = """
trap 'echo told >"$1/told"; exit' TERM
/bin/sh -c 'trap "" TERM; while :; do sleep 1; done' "$1" &
echo $! >"$1/child.part"
echo $$ >"$1/program"
mv "$1/child.part" "$1/child"
wait
"""
"""A program that ends when it is told, with a child that does not."""


@pytest.fixture
def killed(tmp_path, eventually):
    """Runs a program from a process that is killed when all of it runs; returns how that ended."""

    async def kill(*argv, prefix=()):
        code = [sys.executable, "-B", "-c", RUNS, ENVIRON["PATH"], *argv]
        environ = {**ENVIRON, "PYTHONPATH": str(ROOT)}
        return await kill_once((tmp_path / "child").exists, eventually, [*prefix, *code], env=environ)

    return kill


async def kill_once(condition, eventually, argv, **options):
    """Start a process, kill it with SIGKILL once the condition is true, and return how it ended."""
    process = await trio.lowlevel.open_process(argv, **options)
    try:
        await eventually(condition)
    finally:
        process.kill()
        await process.wait()
    return process.returncode


def running(marker):
    """The processes that have this text among their arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and born(int(entry.name)) is not None:
            try:
                if marker.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


async def test_a_program_ends_with_who_runs_it(killed, tmp_path, eventually):
    """It is told, so that it can clean up; children that do not listen are killed; nothing stays."""
    status = await killed("/bin/sh", "-c", WORKS, "works", str(tmp_path))
    assert status == -signal.SIGKILL
    for name in ("program", "child"):
        pid = int((tmp_path / name).read_text())
        await eventually(lambda pid=pid: born(pid) is None)
    await eventually(lambda: not running(str(tmp_path)))
    assert (tmp_path / "told").exists()


async def test_as_another_user(killed, tmp_path, eventually):
    """Whoever builds is not always root."""
    prefix = []
    if os.geteuid() == 0:
        os.chown(tmp_path, 4321, 4321)
        for above in tmp_path.parents[:3]:
            above.chmod(0o755)
        prefix = ["setpriv", "--reuid", "4321", "--regid", "4321", "--clear-groups"]
    await killed("/bin/sh", "-c", WORKS, "works", str(tmp_path), prefix=prefix)
    assert (tmp_path / "child").stat().st_uid == (4321 if prefix else os.geteuid())
    await eventually(lambda: not running(str(tmp_path)))


async def test_in_a_sandbox(killed, tmp_path, eventually):
    """What runs under process numbers of its own ends too, also what left the group."""
    own = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    sandbox = ["unshare", *own, "--mount", "--pid", "--fork", "--kill-child"]
    if (await trio.run_process([*sandbox, "true"], capture_stderr=True, check=False)).returncode != 0:
        pytest.skip("this host lets this user make no sandbox")
    script = """setsid /bin/sh -c 'echo >"$0/away"; sleep 1000; :' "$1" & """
    script += 'while ! [ -e "$1/away" ]; do sleep 0.1; done' + WORKS
    await killed(*sandbox, "/bin/sh", "-c", script, "works", str(tmp_path))
    await eventually(lambda: not running(str(tmp_path)))


async def test_nothing_watches_a_program_that_has_ended(tmp_path, eventually):
    """What it printed and its status are returned, what it left running in its group is left alone."""
    script = """/bin/sh -c 'while :; do sleep 1; done' "$1" >/dev/null 2>&1 & echo $!; echo no >&2; exit 3"""
    argv = ["/bin/sh", "-c", script, "daemon", str(tmp_path)]
    done = await lifeline.run(argv, environ=ENVIRON, timeout=60)
    pid = int(done.stdout)
    try:
        assert (done.returncode, done.stderr) == (3, b"no\n")
        await eventually(lambda: running(str(tmp_path)) == [pid])
    finally:
        os.kill(pid, signal.SIGKILL)


async def test_what_outlives_a_program_that_was_stopped_is_killed(tmp_path, eventually):
    """A time-out ends the program, and then its children that do not listen."""
    argv = ["/bin/sh", "-c", WORKS, "works", str(tmp_path)]
    assert await lifeline.run(argv, environ=ENVIRON, timeout=2) is None
    assert (tmp_path / "told").exists()
    await eventually(lambda: not running(str(tmp_path)))
