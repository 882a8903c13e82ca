"""Filling a workspace."""

import os
import tarfile
from pathlib import Path

import pytest

from runnerd.git.checkout import NO_COMMIT, CheckedOut, MirrorCheckout, WorkingTreeCheckout
from runnerd.git.process import GitError
from runnerd.git.working_tree import describe
from runnerd.model import Repository

REPOSITORY = Repository(id=7, full_name="octo/hello")


class UnpackingMachine:
    """Unpacks on this host."""

    def __init__(self, root: Path) -> None:
        self.root = root

    async def unpack(self, archive: Path, into: str, *, user: int = 1001) -> None:
        with tarfile.open(archive) as opened:
            opened.extractall(self.root / into, filter="tar")


@pytest.fixture
def machine(tmp_path) -> UnpackingMachine:
    return UnpackingMachine(tmp_path / "machine")


@pytest.fixture
def checkout(mirrors, tmp_path):
    (tmp_path / "scratch").mkdir()
    return MirrorCheckout(mirrors, tmp_path / "scratch")


def asked(**changes: object) -> dict:
    return {"repository": REPOSITORY, "ref": "", "sha": "", "into": "work", "depth": 1, "url": ""} | changes


async def test_a_commit_is_fetched_and_unpacked(checkout, machine, origin, tmp_path):
    """A commit the mirror lacks is fetched first; nothing is left on the host."""
    origin.write(a="1")
    sha = origin.commit()
    done = await checkout.checkout(machine, **asked(sha=sha, ref="refs/heads/main"))
    assert done == CheckedOut(sha, "refs/heads/main")
    assert (machine.root / "work/a").read_text() == "1"
    assert list((tmp_path / "scratch").iterdir()) == []


async def test_a_name_is_a_branch_before_it_is_a_tag(checkout, machine, origin):
    """Without a commit, the branch of that name is taken as it is now, then the tag."""
    tagged = origin.commit("tagged")
    origin.git("tag", "both")
    origin.git("tag", "only")
    origin.git("switch", "-q", "-c", "both")
    branched = origin.commit("branched")
    assert await checkout.checkout(machine, **asked(ref="both")) == (branched, "refs/heads/both")
    assert await checkout.checkout(machine, **asked(ref="only", into="b")) == (tagged, "refs/tags/only")


async def test_a_full_ref_is_taken_as_it_is(checkout, machine, origin):
    """A pull request's merge ref can be asked for."""
    sha = origin.commit()
    origin.git("update-ref", "refs/pull/7/merge", sha)
    assert (await checkout.checkout(machine, **asked(ref="refs/pull/7/merge"))).sha == sha


async def test_what_is_not_there_is_said(checkout, machine, origin):
    """A missing branch and a missing commit raise sentences that name them."""
    origin.commit()
    with pytest.raises(GitError, match="no branch or tag 'absent'"):
        await checkout.checkout(machine, **asked(ref="absent"))
    with pytest.raises(GitError, match="has no commit 7777"):
        await checkout.checkout(machine, **asked(sha="7" * 40))
    with pytest.raises(GitError):
        await checkout.checkout(machine, **asked(ref="--upload-pack=id"))


async def test_the_whole_history_has_what_the_remote_has_now(checkout, machine, origin):
    """Depth 0 brings branches and tags that were never asked for before."""
    sha = origin.commit()
    origin.git("tag", "v9")
    await checkout.checkout(machine, **asked(sha=sha, ref="refs/heads/main", depth=0))
    assert "refs/tags/v9" in (machine.root / "work/.git/packed-refs").read_text()


async def test_a_working_tree_is_unpacked_as_it_stands(machine, origin, tmp_path):
    """For `runnerd run` the folder itself is what is checked out."""
    origin.write(a="1")
    sha = origin.commit()
    origin.write(a="2")
    tree = await describe(origin.folder, environ=os.environ)
    checkout = WorkingTreeCheckout(tree, tmp_path, environ=os.environ)
    assert await checkout.checkout(machine, **asked(sha=sha, ref="refs/heads/main")) == (
        sha,
        "refs/heads/main",
    )
    assert (machine.root / "work/a").read_text() == "2"


async def test_a_working_tree_gives_no_other_commit(machine, origin, tmp_path):
    """Another branch or commit is refused rather than silently replaced."""
    origin.commit()
    tree = await describe(origin.folder, environ=os.environ)
    checkout = WorkingTreeCheckout(tree, tmp_path, environ=os.environ)
    for other in ({"ref": "release"}, {"sha": "8" * 40}):
        with pytest.raises(GitError, match="only the working tree"):
            await checkout.checkout(machine, **asked(**other))


async def test_a_working_tree_before_its_first_commit_is_unpacked(machine, origin, tmp_path):
    """Its commit is the one events name as forty zeros."""
    origin.write(a="1")
    tree = await describe(origin.folder, environ=os.environ)
    checkout = WorkingTreeCheckout(tree, tmp_path, environ=os.environ)
    done = await checkout.checkout(machine, **asked(sha=NO_COMMIT, ref="refs/heads/main"))
    assert done == CheckedOut("", "refs/heads/main")
    assert (machine.root / "work/a").read_text() == "1"
