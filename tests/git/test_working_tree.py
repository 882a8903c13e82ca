"""A checkout as it stands."""

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from runnerd.git.process import GitError
from runnerd.git.working_tree import describe, pack_working_tree, workflow_files


async def unpack(origin, tmp_path) -> Path:
    tree = await describe(origin.folder, environ=os.environ)
    await pack_working_tree(tree, tmp_path / "x.tar", environ=os.environ)
    with tarfile.open(tmp_path / "x.tar") as opened:
        opened.extractall(tmp_path / "out", filter="tar")
    return tmp_path / "out"


def git(place: Path, *arguments: str) -> str:
    env = {"PATH": os.environ["PATH"], "HOME": "/nowhere", "GIT_CONFIG_COUNT": "1"}
    env |= {"GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
    done = subprocess.run(["git", *arguments], cwd=place, env=env, capture_output=True, text=True, check=True)
    return done.stdout.rstrip()


async def test_a_checkout_is_described_from_any_folder_in_it(origin):
    """Root, branch, commit and the name its remote has, without the login in the address."""
    origin.put("sub/x", "1")
    sha = origin.commit()
    origin.git("remote", "add", "origin", "https://me:secret@github.com/octo/hello.git")
    tree = await describe(origin.folder / "sub", environ=os.environ)
    assert (tree.root, tree.sha, tree.ref) == (origin.folder, sha, "refs/heads/main")
    assert (tree.remote, tree.full_name) == ("https://github.com/octo/hello.git", "octo/hello")


@pytest.mark.parametrize(
    ("remote", "name"),
    [
        ("git@github.com:octo/hello.git", "octo/hello"),
        ("/srv/hello.git", "local/origin"),
        ("", "local/origin"),
    ],
)
async def test_the_repositorys_name_comes_from_its_remote(origin, remote, name):
    """Without a remote that has an owner it is named after its folder."""
    origin.commit()
    if remote:
        origin.git("remote", "add", "origin", remote)
    assert (await describe(origin.folder, environ=os.environ)).full_name == name


async def test_a_folder_that_is_no_checkout_is_said(tmp_path):
    """The sentence names the folder and the cure; a path that does not exist is said as well."""
    with pytest.raises(GitError, match="is not a git checkout"):
        await describe(tmp_path, environ=os.environ)
    with pytest.raises(GitError):
        await describe(tmp_path / "absent", environ=os.environ)


async def test_the_tree_is_packed_as_it_is(origin, tmp_path):
    """Changes and untracked files are there, ignored and deleted ones are not, links stay links."""
    origin.write(kept="1", changed="1", deleted="1")
    origin.put(".gitignore", "ignored\n")
    origin.commit()
    origin.write(changed="2", untracked="new", ignored="x")
    origin.put("-T", "a name like an option")
    origin.put("run.sh", "#!/bin/sh\n", mode=0o755)
    (origin.folder / "deleted").unlink()
    (origin.folder / "link").symlink_to("nowhere")
    place = await unpack(origin, tmp_path)
    names = sorted(path.name for path in place.iterdir())
    assert names == ["-T", ".git", ".gitignore", "changed", "kept", "link", "run.sh", "untracked"]
    assert (place / "changed").read_text() == "2"
    assert os.readlink(place / "link") == "nowhere"
    assert os.access(place / "run.sh", os.X_OK)


async def test_git_shows_there_what_was_not_committed(origin, tmp_path):
    """HEAD is the real commit on its branch at depth one; a changed file is changed, not staged."""
    origin.write(a="1")
    origin.commit("one")
    sha = origin.commit("two")
    origin.write(a="2", b="1")
    place = await unpack(origin, tmp_path)
    assert git(place, "status", "--porcelain") == " M a\n?? b"
    assert git(place, "log", "--format=%H") == sha
    assert git(place, "symbolic-ref", "HEAD") == "refs/heads/main"


async def test_a_checkout_without_a_commit_has_an_empty_history(origin, tmp_path):
    """Files before the first commit are packed with an unborn branch."""
    origin.write(a="1")
    place = await unpack(origin, tmp_path)
    assert (place / "a").read_text() == "1"
    assert git(place, "status", "--porcelain") == "?? a"


async def test_a_linked_work_tree_is_packed_too(origin, tmp_path):
    """Where `.git` is a file, the objects come from the repository behind it."""
    origin.write(a="1")
    origin.commit()
    origin.git("worktree", "add", "-q", "-b", "topic", str(tmp_path / "linked"))
    tree = await describe(tmp_path / "linked", environ=os.environ)
    await pack_working_tree(tree, tmp_path / "y.tar", environ=os.environ)
    with tarfile.open(tmp_path / "y.tar") as opened:
        opened.extractall(tmp_path / "out2", filter="tar")
    assert git(tmp_path / "out2", "status", "--porcelain", "--branch").startswith("## topic")


async def test_the_checkout_itself_is_not_touched(origin, tmp_path):
    """Index, refs and files are the same afterwards."""
    origin.write(a="1")
    origin.commit()
    origin.write(a="2")
    before = {path: path.read_bytes() for path in origin.folder.rglob("*") if path.is_file()}
    await unpack(origin, tmp_path)
    assert {path: path.read_bytes() for path in origin.folder.rglob("*") if path.is_file()} == before


def test_workflow_files_are_read_as_they_stand(tmp_path):
    """Uncommitted files count; links, other suffixes and folders do not."""
    place = tmp_path / ".github/workflows"
    assert workflow_files(tmp_path) == {}
    place.mkdir(parents=True)
    (place / "b.yaml").write_text("b")
    (place / "a.yml").write_text("a")
    (place / "c.txt").write_text("c")
    (place / "d.yml").symlink_to("a.yml")
    (place / "e.yml").mkdir()
    assert workflow_files(tmp_path) == {".github/workflows/a.yml": b"a", ".github/workflows/b.yaml": b"b"}
