"""Behaviour of runnerd.git.mirror with a real git server over HTTP that asks for a password."""

from __future__ import annotations

import pytest

from runnerd.git.mirror import Mirrors
from runnerd.git.process import GitError

from .conftest import REPOSITORY
from .git_server import PASSWORD, USER, GitServer


@pytest.fixture
def server(tmp_path, origin):
    """The origin as `octo/hello.git` of a server."""
    root = tmp_path / "served" / "octo"
    root.mkdir(parents=True)
    (root / "hello.git").symlink_to(origin.folder / ".git")
    git = GitServer(tmp_path / "served")
    with git.served():
        yield git


def mirrored(tmp_path, server, password=PASSWORD):
    async def credential(repository):
        return None if password is None else (USER, password)

    return Mirrors(
        tmp_path / "mirrors",
        remote_of=lambda name: f"{server.address}/{name}.git",
        credential=credential,
        timeout=30.0,
    )


async def test_a_private_repository_is_fetched_with_the_token(tmp_path, origin, server):
    """A branch, a tag, a merge ref and a commit by its id come over HTTP; what is missing is None."""
    origin.put(".github/workflows/ci.yml", "on: push\n")
    first = origin.commit()
    origin.git("tag", "-a", "-m", "one", "v1")
    second = origin.commit()
    origin.git("update-ref", "refs/pull/7/merge", second)
    async with mirrored(tmp_path, server) as mirrors:
        await mirrors.fetch(REPOSITORY, "refs/tags/v1", "refs/pull/7/merge", "refs/heads/gone")
        assert await mirrors.resolve(REPOSITORY, "refs/tags/v1") == first
        assert await mirrors.resolve(REPOSITORY, "refs/pull/7/merge") == second
        assert await mirrors.resolve(REPOSITORY, "refs/heads/gone") is None
        third = origin.commit()
        await mirrors.fetch(REPOSITORY, third, "e" * 40)
        assert await mirrors.has(REPOSITORY, third)
        assert not await mirrors.has(REPOSITORY, "e" * 40)
        files = await mirrors.workflow_files(REPOSITORY, third)
        assert files == {".github/workflows/ci.yml": b"on: push\n"}
    assert any(status == 200 and method == "POST" for method, _, status in server.asked)


@pytest.mark.parametrize("password", ["wrong", None])
async def test_a_wrong_token_is_told_and_not_shown(tmp_path, origin, server, password):
    """The sentence says that the remote refused; the token is in no part of it, and nothing hangs."""
    origin.commit()
    async with mirrored(tmp_path, server, password) as mirrors:
        with pytest.raises(GitError) as caught:
            await mirrors.fetch(REPOSITORY, "refs/heads/main")
    assert "wrong" not in str(caught.value)
    assert {status for _, _, status in server.asked} == {401}


async def test_the_token_does_not_follow_to_another_server(tmp_path, origin, server):
    """A remote that sends git elsewhere gets no fetch, and the other server no token."""
    origin.commit()
    other = GitServer(server.root)
    with other.served():
        server.redirect = other.address
        async with mirrored(tmp_path, server) as mirrors:
            with pytest.raises(GitError):
                await mirrors.fetch(REPOSITORY, "refs/heads/main")
    assert [status for _, _, status in other.asked if status == 200] == []


async def test_a_repository_that_is_not_there_is_told(tmp_path, origin, server):
    """Renamed away or never there: the remote was asked and says no."""
    gone = REPOSITORY.__class__(id=8, full_name="octo/gone")
    async with mirrored(tmp_path, server) as mirrors:
        with pytest.raises(GitError, match="not found"):
            await mirrors.fetch(gone, "refs/heads/main")


async def test_a_renamed_repository_is_fetched_by_its_new_name(tmp_path, origin, server):
    """What was fetched before stays readable by the old name, which a rerun still has."""
    sha = origin.commit()
    async with mirrored(tmp_path, server) as mirrors:
        await mirrors.fetch(REPOSITORY, sha)
        (server.root / "octo").rename(server.root / "moved")
        moved = REPOSITORY.__class__(id=REPOSITORY.id, full_name="moved/hello")
        newer = origin.commit()
        await mirrors.fetch(moved, newer)
        assert await mirrors.has(moved, newer)
        assert await mirrors.has(REPOSITORY, sha)
