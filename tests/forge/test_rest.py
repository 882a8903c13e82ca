"""Behaviour of runnerd.forge.rest, through a client whose GitHub checks every request."""

from __future__ import annotations

import pytest

from runnerd.forge.protocol import ForgeDenied, ForgeUnavailable

REPOSITORY, SHA = "octo-org/hello", "b" * 40
CONTEXT = "runnerd / CI / build (ubuntu, 3.12)"
MARKER = "<!-- runnerd:v1 repository=1 pull=7 -->"


async def test_a_forge_that_stays_down_is_left_to_the_outbox(site):
    """After three tries the caller is told when to come back."""
    site.fail("before", times=10)
    with pytest.raises(ForgeUnavailable, match="502") as caught:
        await site.status()
    assert caught.value.retry_at > site.now
    assert site.slept == [0.75, 1.5]
    assert len(site.server.requests) == 3


@pytest.mark.parametrize(
    ("status", "headers", "message", "wait"),
    [
        (429, {"retry-after": "17"}, "slow down", 17),
        (403, {"retry-after": "60"}, "You have exceeded a secondary rate limit", 60),
        (403, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1000090"}, "API rate limit exceeded", 90),
        (403, {}, "You have exceeded a secondary rate limit", 60),
        (429, {}, "Too many requests", 60),
    ],
)
async def test_a_limit_is_waited_out_without_asking(site, status, headers, message, wait):
    """Until the time the forge names, or a minute, no request is sent at all."""
    site.fail("answer", status=status, headers=headers, message=message)
    for _ in range(2):
        with pytest.raises(ForgeUnavailable) as caught:
            await site.status()
        assert caught.value.retry_at == site.now + wait
    assert len(site.server.requests) == 1
    site.now += wait
    await site.status()
    assert len(site.server.statuses[REPOSITORY, SHA]) == 1


async def test_the_last_allowed_request_is_the_last(site):
    """An answer that says nothing remains holds the next request back until the reset."""
    site.fail(
        "answer",
        status=201,
        headers={"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1000050"},
        method="POST",
    )
    with pytest.raises(ForgeUnavailable):
        await site.status()  # its answer is not a status, and looking it up has to wait
    asked = len(site.server.requests)
    with pytest.raises(ForgeUnavailable):
        await site.status()
    assert len(site.server.requests) == asked
    site.now += 50
    await site.status()


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (403, {"x-accepted-github-permissions": "statuses=write"}, "statuses=write"),
        (403, {}, "Commit statuses: write"),
        (404, {}, "Commit statuses: write"),
        (422, {}, "422 No commit found"),
        (401, {}, "token"),
    ],
)
async def test_a_refusal_names_what_is_missing(site, status, headers, words):
    """A permission, a commit or a token that is not there is said at once and never tried again."""
    site.fail("answer", method="POST", status=status, headers=headers, message="No commit found for SHA")
    with pytest.raises(ForgeDenied, match=words):
        await site.status()
    assert site.slept == []


@pytest.mark.parametrize("status", [403, 422])
async def test_a_token_that_is_said_back_is_not_repeated(site, status):
    """A forge, or a proxy before it, that quotes the token in its error does not bring it into ours."""
    words = "bad header: Bearer ghp_test"
    site.fail("answer", method="POST", status=status, message=words,
              headers={"x-accepted-github-permissions": "ghp_test"})  # fmt: skip
    with pytest.raises(ForgeDenied, match=r"bad header: Bearer \*\*\*") as caught:
        await site.status()
    assert "ghp_test" not in str(caught.value)


async def test_a_moved_repository_is_followed_on_the_same_server(site):
    """A renamed repository answers with a redirect, which keeps the method and the body."""
    site.fail(
        "answer", method="POST", status=307, headers={"location": f"/repos/octo-org/new/statuses/{SHA}"}
    )
    await site.status()
    assert list(site.server.newest("octo-org/new", SHA)) == [CONTEXT]


@pytest.mark.parametrize("target", ["https://evil.example/x", "//evil.example/x", "http://127.0.0.1:1/x"])
async def test_the_token_follows_no_redirect_to_another_server(site, target):
    """A redirect elsewhere is refused before anything is sent there."""
    site.fail("answer", method="POST", status=307, headers={"location": target})
    with pytest.raises(ForgeDenied, match="another server"):
        await site.status()


async def test_a_forge_that_is_not_there_is_unavailable(site):
    """A refused connection is a reason to wait, not to crash."""
    async with site.client("http://127.0.0.1:9") as nobody:
        with pytest.raises(ForgeUnavailable, match="cannot be reached"):
            await nobody.set_status(REPOSITORY, SHA, CONTEXT, "success", "d", "")


async def test_our_own_count_keeps_us_below_the_forges(site):
    """Some 180 writes a minute: the next one is not sent, and goes once the minute is over."""

    async def many():
        for n in range(200):
            await site.status(context=f"c{n}")

    with pytest.raises(ForgeUnavailable, match="as many requests") as caught:
        await many()
    written = len(site.server.writes())
    assert 170 <= written < 180
    assert caught.value.scope == "repository"
    assert site.now < caught.value.retry_at <= site.now + 60
    site.now = caught.value.retry_at
    await site.status(context="later")
    assert len(site.server.writes()) == written + 1


async def test_one_accounts_limit_is_not_anothers(app_site):
    """The forge counts installations and the App itself apart, and so do we."""
    app_site.server.installed["other"] = 43
    await app_site.github.credential("other/one")
    app_site.fail("answer", method="POST", path="statuses", status=429, headers={"retry-after": "100"})
    with pytest.raises(ForgeUnavailable):
        await app_site.status()
    await app_site.github.set_status("other/one", SHA, CONTEXT, "success", "d", "")
    with pytest.raises(ForgeUnavailable):
        await app_site.status()
