"""What builds leave on disk: removed with their folder, elsewhere too, and nothing that is not theirs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from runnerd.machines import leftovers

from .test_lifeline import kill_once, running

ROOT = Path(__file__).parents[2]


@pytest.fixture
def work(tmp_path):
    """The folder of a build, with something in it."""
    work = tmp_path / "work"
    (work / "deep").mkdir(parents=True)
    (work / "deep" / "file").touch()
    return work


async def test_what_is_elsewhere_goes_with_the_build(work, tmp_path):
    """Other users may enter the folder, as apt must; removing the build removes it, also twice."""
    folder = leftovers.elsewhere(work, str(tmp_path))
    assert folder.stat().st_mode & 0o777 == 0o755
    (folder / "tree").mkdir()
    await leftovers.remove(work)
    await leftovers.remove(work)
    assert list(tmp_path.iterdir()) == []


async def test_a_folder_that_is_given_back_leaves_no_record(work, tmp_path):
    """The build goes on without it."""
    folder = leftovers.elsewhere(work, str(tmp_path))
    await leftovers.discard(folder, of=work)
    assert not folder.exists()
    assert [path.name for path in work.iterdir()] == ["deep"]


async def test_a_cancelled_build_removes_all_the_same(work, tmp_path):
    """Removal is not interrupted."""
    leftovers.elsewhere(work, str(tmp_path))
    with trio.CancelScope() as scope:
        scope.cancel()
        await leftovers.remove(work)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("now", ["a link", "a file", "of another name"])
async def test_what_is_not_ours_by_now_stays(work, tmp_path, now):
    """The name of a folder elsewhere may have become something else since."""
    folder = leftovers.elsewhere(work, str(tmp_path))
    folder.rmdir()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "dear").touch()
    if now == "a link":
        folder.symlink_to(mine)
    elif now == "a file":
        folder.touch()
    else:
        (record,) = work.glob(".elsewhere-*")
        record.unlink()
        record.symlink_to(mine)
    await leftovers.remove(work)
    assert not work.exists()
    assert (mine / "dear").exists()
    assert now == "of another name" or folder.name in {path.name for path in tmp_path.iterdir()}


async def test_a_folder_of_another_user_stays(work, tmp_path, monkeypatch):
    """It was made by somebody else under the same name."""
    folder = leftovers.elsewhere(work, str(tmp_path))
    owner = folder.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    await leftovers.remove(work)
    assert folder.exists()


async def test_what_cannot_go_yet_stays_on_record(work, tmp_path, monkeypatch):
    """The next removal finds what something that was being ended still wrote."""
    folder, real = leftovers.elsewhere(work, str(tmp_path)), leftovers._run
    monkeypatch.setattr(leftovers, "_run", lambda *argv: None if str(folder) in argv else real(*argv))
    await leftovers.remove(work)
    assert [path.name for path in work.iterdir()] == [f".elsewhere-{folder.name}"]
    monkeypatch.undo()
    await leftovers.remove(work)
    assert list(tmp_path.iterdir()) == []


MOUNTS = """
import sys
from pathlib import Path
from runnerd.machines import leftovers
leftovers.remove_now(Path(sys.argv[1]))
"""


def test_what_is_mounted_is_unmounted_and_not_removed(work, tmp_path):
    """A program that was killed leaves the host's own mounted in its tree."""
    dear, place = tmp_path / "dear", leftovers.elsewhere(work, str(tmp_path)) / "a place"
    dear.mkdir()
    (dear / "inner").mkdir()
    place.mkdir()
    own = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    sandbox = ["unshare", *own, "--mount", "/bin/sh", "-ec"]
    script = 'mount --bind "$1" "$2"; mount -t tmpfs x "$2/inner"; shift 2; exec "$@"'
    if subprocess.run([*sandbox, "true"], capture_output=True).returncode != 0:
        pytest.skip("this host lets this user mount nothing")
    code = [sys.executable, "-B", "-c", MOUNTS, str(work)]
    subprocess.run(
        [*sandbox, script, "sh", str(dear), str(place), *code],
        check=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
    )
    assert [path.name for path in tmp_path.iterdir()] == ["dear"]
    assert (dear / "inner").exists()


STUCK = """#!/bin/sh
trap '' TERM
mkdir "$TMPDIR/mmdebstrap.tree"
touch "$NOTES/started"
while :; do sleep 1; done
"""
"""In the place of mmdebstrap: it never removes its tree."""


@pytest.mark.parametrize("cure", ["prune", "build"])
async def test_a_build_that_is_killed_leaves_nothing_for_good(tmp_path, eventually, cure):
    """Its programs end with it; what it made on disk goes with the next build, or when images are pruned."""
    program = tmp_path / "bin" / "mmdebstrap"
    program.parent.mkdir()
    program.write_text(STUCK)
    program.chmod(0o755)
    environ = {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "NOTES": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "HOME": str(tmp_path),
    }
    runnerd = [sys.executable, "-m", "runnerd", "image"]
    where = ["--state", str(tmp_path / "state")]
    build = [*runnerd, "build", "--untried", *where]
    await kill_once((tmp_path / "started").exists, eventually, build, env=environ, cwd=ROOT)
    await eventually(lambda: not running(str(program)))
    (tree,) = tmp_path.glob("runnerd-build-*")
    assert (tree / "mmdebstrap.tree").exists()
    assert list((tmp_path / "state/images/default").glob(".building-*"))
    program.write_text("#!/bin/sh\nexit 25\n")
    argv = [*runnerd, "prune" if cure == "prune" else "build", *where]
    done = await trio.run_process(argv, env=environ, cwd=ROOT, capture_stderr=True, check=False)
    assert done.returncode == (0 if cure == "prune" else 1), done.stderr
    assert not list(tmp_path.glob("runnerd-build-*"))
    assert [path.name for path in (tmp_path / "state/images/default").iterdir()] == [".lock"]
