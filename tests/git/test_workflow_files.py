"""Workflow files in a commit."""

import os

import pytest

from runnerd.git import workflow_files
from runnerd.git.objects import Objects
from runnerd.git.process import Git
from runnerd.git.workflow_files import Refused, read_workflow_files

FOLDER = ".github/workflows"


@pytest.fixture
async def objects(origin):
    objects = Objects(Git(os.environ), origin.folder / ".git")
    yield objects
    await objects.close()


async def test_a_commit_without_workflows_gives_none(objects, origin):
    """No folder, or a link in its place, is no workflow file."""
    plain = origin.commit()
    (origin.folder / ".github").symlink_to("/etc")
    linked = origin.commit()
    assert await read_workflow_files(objects, plain, FOLDER) == {}
    assert await read_workflow_files(objects, linked, FOLDER) == {}


async def test_a_symlinked_workflow_is_refused(objects, origin):
    """A link is reported with its reason, never followed."""
    place = origin.folder / ".github/workflows"
    place.mkdir(parents=True)
    (place / "ci.yml").symlink_to("/etc/passwd")
    sha = origin.commit()
    files = await read_workflow_files(objects, sha, FOLDER)
    assert files == {
        ".github/workflows/ci.yml": Refused("it is a symbolic link; a workflow must be a regular file")
    }


async def test_odd_workflow_files_are_refused_one_by_one(objects, origin):
    """Submodules, names that are no text and large files do not hide the good file beside them."""
    good, big = origin.blob(b"on: push"), origin.blob(b"#" * (workflow_files.FILE_BYTES + 1))
    entries = [
        ("100644", "blob", good, b"good.yml"),
        ("100644", "blob", big, b"big.yml"),
        ("100644", "blob", good, b"bad\xff.yml"),
        ("100644", "blob", good, b"line\nbreak.yml"),
        ("160000", "commit", "2" * 40, b"sub.yml"),
        ("100644", "blob", "3" * 40, b"absent.yml"),
    ]
    listing = b"".join(f"{m} {t} {s}\t".encode() + n + b"\0" for m, t, s, n in entries[:-1])
    tree = origin.git("mktree", "-z", "--missing", stdin=listing)
    outer = origin.git("mktree", stdin=f"040000 tree {tree}\tworkflows".encode())
    sha = origin.tree_commit(("040000", "tree", outer, b".github"))
    files = await read_workflow_files(objects, sha, FOLDER)
    assert files.pop(".github/workflows/good.yml") == b"on: push"
    reasons = {path: refused.reason for path, refused in files.items()}
    assert reasons == {
        ".github/workflows/big.yml": "it is larger than 1 MiB",
        ".github/workflows/bad\ufffd.yml": "its name is not printable text",
        ".github/workflows/line?break.yml": "its name is not printable text",
        ".github/workflows/sub.yml": "it is a submodule; a workflow must be a regular file",
    }


async def test_more_files_than_are_read_are_refused(objects, origin, monkeypatch):
    """What is beyond the cap is there with its reason."""
    monkeypatch.setattr(workflow_files, "FILES", 2)
    for name in "abc":
        origin.put(f".github/workflows/{name}.yml", "on: push")
    sha = origin.commit()
    files = await read_workflow_files(objects, sha, FOLDER)
    assert isinstance(files[".github/workflows/c.yml"], Refused)
    assert isinstance(files[".github/workflows/b.yml"], bytes)
