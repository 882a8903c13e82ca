"""Behaviour of runnerd.forge.app, against a GitHub that reads signatures and counts tokens."""

from __future__ import annotations

import pytest
import trio

from runnerd.forge.protocol import ForgeDenied, ForgeUnavailable, Gone

REPOSITORY, SHA = "octo-org/hello", "b" * 40


def asked(site, path):
    return [request for request in site.server.requests if path in request.path]


async def test_one_token_serves_an_installation_for_most_of_its_hour(app_site):
    """Installation and token are asked for once, and again only ahead of the token's end."""
    for n in range(3):
        await app_site.github.set_status(REPOSITORY, SHA, f"c{n}", "success", "d", "")
    assert len(asked(app_site, f"{REPOSITORY}/installation")) == 1
    assert len(asked(app_site, "access_tokens")) == 1
    app_site.now += 3600 - 601
    await app_site.github.set_status(REPOSITORY, SHA, "later", "success", "d", "")
    assert len(asked(app_site, "access_tokens")) == 1
    app_site.now += 2
    await app_site.github.set_status(REPOSITORY, SHA, "ahead of its end", "success", "d", "")
    assert len(asked(app_site, "access_tokens")) == 2


async def test_two_who_want_a_token_get_the_same(app_site):
    """While one is on its way nobody asks for another."""
    got = []

    async def want():
        got.append(await app_site.github.credential(REPOSITORY))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(want)
    assert len(set(got)) == 1
    assert len(asked(app_site, "access_tokens")) == 1
    assert got[0][0] == "x-access-token"


async def test_a_token_that_ended_early_is_replaced_within_the_request(app_site):
    """Revoked by somebody else: the 401 is answered with a fresh token, and the caller sees nothing."""
    await app_site.github.set_status(REPOSITORY, SHA, "one", "success", "d", "")
    app_site.server.tokens.clear()
    await app_site.github.set_status(REPOSITORY, SHA, "two", "success", "d", "")
    assert set(app_site.server.newest(REPOSITORY, SHA)) == {"one", "two"}
    assert len(asked(app_site, "access_tokens")) == 2


async def test_a_job_gets_a_token_of_its_own_narrowed_to_its_permissions(app_site):
    """One repository, the workflow's permissions in the API's words, and nothing of what is not a token's."""
    wanted = {"contents": "read", "pull-requests": "write", "id-token": "write", "packages": "none"}
    token = await app_site.github.job_token(REPOSITORY, wanted)
    given = app_site.server.tokens[token.value]
    assert given["repositories"] == ["hello"]
    assert given["permissions"] == {"contents": "read", "pull_requests": "write", "metadata": "read"}
    assert token.permissions == given["permissions"]
    assert token.expires == app_site.now + 3600
    assert (await app_site.github.credential(REPOSITORY))[1] != token.value


async def test_a_job_without_permissions_gets_none(app_site):
    """GitHub would read an empty set as everything the App may: it is never sent."""
    token = await app_site.github.job_token(REPOSITORY, {})
    assert app_site.server.tokens[token.value]["permissions"] == {"metadata": "read"}


async def test_what_the_app_lacks_is_left_out(app_site):
    """A workflow that asks for more than the App has runs with less, instead of with no token."""
    app_site.server.granted["contents"] = "read"
    token = await app_site.github.job_token(REPOSITORY, {"contents": "write", "deployments": "write"})
    assert dict(token.permissions) == {"contents": "read", "metadata": "read"}


async def test_revoking_is_safe_to_repeat(app_site):
    """The token is dead afterwards, whether it was alive, revoked, or over by itself."""
    token = await app_site.github.job_token(REPOSITORY, {"contents": "read"})
    for _ in range(2):
        await app_site.github.revoke(token)
    assert app_site.server.revoked == [token.value]
    asked_before = len(app_site.server.requests)
    app_site.now = token.expires
    await app_site.github.revoke(token)
    assert len(app_site.server.requests) == asked_before


async def test_the_end_gives_the_tokens_back(app_site):
    """What was got for this process is revoked when its client is closed."""
    async with app_site.client(app_site.address, "") as other:
        _user, token = await other.credential(REPOSITORY)
    assert app_site.server.revoked == [token]


async def test_a_repository_without_the_app_says_where_to_install_it(app_site):
    """The refusal names the repository and the cure."""
    with pytest.raises(Gone, match=r"not installed on stranger/x.*install it"):
        await app_site.github.set_status("stranger/x", SHA, "c", "success", "d", "")


async def test_a_lost_answer_is_asked_for_again(app_site):
    """A token that nobody heard of ends by itself; another one is asked for."""
    app_site.fail("after", path="access_tokens", times=2)
    await app_site.github.credential(REPOSITORY)
    app_site.fail("garbage", path="access_tokens", times=3)
    with pytest.raises(ForgeUnavailable):
        await app_site.github.job_token(REPOSITORY, {})


async def test_a_broken_key_says_so(app_site):
    """What is configured as a key and is none names the setting, and shows nothing of the text."""
    app_site.key = "-----BEGIN RSA PRIVATE KEY-----\nnonsense\n-----END RSA PRIVATE KEY-----\n"
    async with app_site.client(app_site.address, "") as github:
        with pytest.raises(ForgeDenied, match="app_private_key") as caught:
            await github.credential(REPOSITORY)
    assert "nonsense" not in str(caught.value)


async def test_our_clock_may_be_a_minute_ahead(app_site):
    """A signature is dated back, so that a forge whose clock is behind takes it."""
    app_site.server.clock = lambda: app_site.now - 55
    await app_site.github.credential(REPOSITORY)


async def test_asking_as_the_app_itself(app_site):
    """Without a repository a request goes with the App's own signature."""
    reply = await app_site.github.ask("GET", "/app")
    assert reply.json()["slug"] == "our-runner"


async def test_an_app_that_is_installed_anew_is_found_again(app_site):
    """The old installation is gone: that is said once, and the next request looks for the new one."""
    await app_site.github.credential(REPOSITORY)
    app_site.server.installed, app_site.server.tokens = {"octo-org": 43}, {}
    app_site.now += 3600
    with pytest.raises(Gone):
        await app_site.github.credential(REPOSITORY)
    await app_site.github.credential(REPOSITORY)
    assert next(iter(app_site.server.tokens.values()))["owner"] == "octo-org"
