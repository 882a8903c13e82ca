"""Behaviour of runnerd.forge.client, against a GitHub that checks every request."""

from __future__ import annotations

import pytest

from runnerd.forge.protocol import ForgeDenied

REPOSITORY, SHA = "octo-org/hello", "b" * 40
CONTEXT = "runnerd / CI / build (ubuntu, 3.12)"
MARKER = "<!-- runnerd:v1 repository=1 pull=7 -->"


async def test_a_wrong_token_is_denied(site):
    """The forge's 401 says that the token is not known."""
    async with site.client(site.address, token="old") as stranger:
        with pytest.raises(ForgeDenied, match="expired or revoked"):
            await stranger.set_status(REPOSITORY, SHA, CONTEXT, "success", "d", "")


async def test_git_reads_with_the_token(site):
    """The credential for git is the token under the user name GitHub takes."""
    assert await site.github.credential(REPOSITORY) == ("x-access-token", "ghp_test")
