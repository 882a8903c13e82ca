"""Behaviour of runnerd.forge.identity: the personal token."""

from __future__ import annotations

import pytest

from runnerd.forge.protocol import ForgeDenied

REPOSITORY = "octo-org/hello"


async def test_a_personal_token_is_the_same_everywhere(site):
    """For every repository and for itself, without asking anybody; it shows in no repr."""
    identity = site.github.identity
    credentials = {await identity.credential(name) for name in ("", REPOSITORY, "a/b")}
    [credential] = credentials
    assert credential.value == "ghp_test"
    assert "ghp_test" not in repr(credential)
    assert not identity.refused(credential)
    assert site.server.requests == []


async def test_no_job_ever_gets_a_personal_token(site):
    """It cannot be narrowed: the answer is none, whatever is asked for."""
    assert await site.github.job_token(REPOSITORY, {"contents": "read"}) is None
    assert await site.github.job_token(REPOSITORY, {}) is None
    assert site.server.requests == []


async def test_its_owner_is_asked_for_once(site):
    """And who it is not told by a refusal: what is ours would not be known as ours."""
    assert [await site.github.identity.login() for _ in range(2)] == ["runnerd-bot", "runnerd-bot"]
    assert len(site.server.requests) == 1
    async with site.client(site.address, "old") as stranger:
        with pytest.raises(ForgeDenied):
            await stranger.identity.login()


async def test_an_installations_token_has_no_owner(site):
    """GitHub's own jobs have such tokens, and somebody may give one as a personal token."""
    async with site.client(site.address, "ghs_7_x") as github:
        assert await github.identity.login() == ""
    assert site.server.requests == []
