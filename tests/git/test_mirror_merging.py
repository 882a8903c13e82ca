"""Behaviour of runnerd.git.mirror: what it says of commits and their merging."""

from __future__ import annotations

import pytest

from runnerd.git.process import GitError

from .conftest import REPOSITORY


async def test_a_commit_says_its_parents_and_message(mirrors, origin):
    """Of a merge both parents, in order; the message as it was written."""
    first = origin.commit("first\n\nwhy")
    origin.git("checkout", "--quiet", "-b", "topic")
    second = origin.commit("second")
    origin.git("checkout", "--quiet", "main")
    origin.git("merge", "--quiet", "--no-ff", "-m", "both", "topic")
    merge = origin.git("rev-parse", "HEAD")
    await mirrors.fetch(REPOSITORY, merge)
    assert (await mirrors.commit(REPOSITORY, merge)).parents == (first, second)
    root = await mirrors.commit(REPOSITORY, first)
    assert (root.parents, root.message) == ((), "first\n\nwhy\n")
    with pytest.raises(GitError, match="not in the mirror"):
        await mirrors.commit(REPOSITORY, "e" * 40)


async def test_ancestors_are_told(mirrors, origin):
    """A commit's history holds itself and what came before; nothing that is not in the mirror."""
    old, new = origin.commit("old"), origin.commit("new")
    await mirrors.fetch(REPOSITORY, new)
    assert await mirrors.is_ancestor(REPOSITORY, old, new)
    assert await mirrors.is_ancestor(REPOSITORY, old, old)
    assert not await mirrors.is_ancestor(REPOSITORY, new, old)
    assert not await mirrors.is_ancestor(REPOSITORY, "e" * 40, new)


async def test_conflicts_are_named_by_file(mirrors, origin):
    """Two changes of one line conflict in that file; changes of different files do not."""
    origin.write(a="0\n", b="0\n")
    start = origin.commit()
    tips = {}
    for name, files in {"one": {"a": "1\n"}, "two": {"a": "2\n"}, "three": {"b": "3\n"}}.items():
        origin.git("checkout", "--quiet", "-B", name, start)
        origin.write(**files)
        tips[name] = origin.commit()
    await mirrors.fetch(REPOSITORY, *tips.values())
    assert await mirrors.conflicts(REPOSITORY, tips["one"], tips["two"]) == ("a",)
    assert await mirrors.conflicts(REPOSITORY, tips["one"], tips["three"]) == ()
    with pytest.raises(GitError):
        await mirrors.conflicts(REPOSITORY, tips["one"], "e" * 40)
