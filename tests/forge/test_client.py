"""Behaviour of runnerd.forge.client, against a GitHub that checks every request."""

from __future__ import annotations

import pytest
import trio

from runnerd.forge.client import ForgeDenied, ForgeUnavailable, open_github

REPOSITORY, SHA = "octo-org/hello", "b" * 40
CONTEXT = "runnerd / CI / build (ubuntu, 3.12)"
MARKER = "<!-- runnerd:v1 repository=1 pull=7 -->"


class Site:
    """A client, the server behind it, and a clock that moves only by sleeping."""

    def __init__(self, module):
        self.module = module
        self.server = module.FakeGitHub()
        self.now = 1_000_000.0
        self.slept = []

    async def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds

    def fail(self, kind, **details):
        self.server.faults.append(self.module.Fault(kind, **details))

    def client(self, address, token="ghp_test"):
        return open_github(address, token, clock=lambda: self.now, sleep=self.sleep, jitter=lambda: 0.5)

    async def status(self, state="success", description="Successful in 12s", context=CONTEXT):
        await self.github.set_status(REPOSITORY, SHA, context, state, description, "")

    async def comment(self, text):
        await self.github.upsert_comment(REPOSITORY, 7, MARKER, f"{MARKER}\n{text}\n")

    @property
    def bodies(self):
        return [comment["body"] for comment in self.server.comments.get((REPOSITORY, 7), [])]


@pytest.fixture
async def site(fake_github):
    site = Site(fake_github)
    async with site.server.served() as site.address, site.client(site.address) as site.github:
        yield site
    assert site.server.problems == []


async def test_a_status_is_set_once(site):
    """The same status again asks nothing of the forge; a change is one write."""
    for _ in range(3):
        await site.status("pending", "Queued")
    await site.status()
    assert site.server.newest(REPOSITORY, SHA) == {CONTEXT: ("success", "Successful in 12s")}
    assert len(site.server.writes()) == 2


async def test_a_restart_does_not_repeat_what_is_there(site):
    """A new client looks before it writes: what the forge already says is not said again."""
    await site.status()
    async with site.client(site.address) as other:
        await other.set_status(REPOSITORY, SHA, CONTEXT.upper(), "success", "Successful in 12s", "")
    assert len(site.server.writes()) == 1


async def test_many_contexts_of_one_commit_are_read_once(site):
    """One look at a commit serves all its jobs, over as many pages as there are."""
    site.server.statuses[REPOSITORY, SHA] = [
        {"id": n, "context": f"c{n}", "state": "success", "description": "d", "target_url": None}
        for n in range(150)
    ]
    for n in (0, 149):
        await site.status("success", "d", context=f"c{n}")
    await site.status("success", "d", context="new")
    assert [request.method for request in site.server.requests] == ["GET", "GET", "POST"]


@pytest.mark.parametrize("kind", ["before", "after", "hangup", "garbage"])
async def test_an_uncertain_status_is_looked_up_before_it_is_written_again(site, kind):
    """Whether the lost write was applied or not, the status stands there exactly once."""
    site.fail(kind, method="POST")
    await site.status()
    assert len(site.server.statuses[REPOSITORY, SHA]) == 1
    assert site.slept == [0.75]


@pytest.mark.parametrize("kind", ["before", "after", "hangup", "garbage"])
async def test_an_uncertain_comment_is_looked_up_before_it_is_written_again(site, kind):
    """There is one comment whatever became of the first answer."""
    site.fail(kind, method="POST")
    await site.comment("first")
    assert site.bodies == [f"{MARKER}\nfirst\n"]


async def test_a_comment_is_edited_and_never_doubled(site):
    """The second text replaces the first, and the same text again writes nothing."""
    for text in ("one", "two", "two"):
        await site.comment(text)
    assert site.bodies == [f"{MARKER}\ntwo\n"]
    assert [request.method for request in site.server.writes()] == ["POST", "PATCH"]
    async with site.client(site.address) as other:
        await other.upsert_comment(REPOSITORY, 7, MARKER, f"{MARKER}\nthree\n")
    assert site.bodies == [f"{MARKER}\nthree\n"]


async def test_a_comment_with_a_copied_marker_is_left_alone(site):
    """Anybody may quote our comment; only one of our own account is edited."""
    site.server.comment(REPOSITORY, 7, f"{MARKER}\nsend money\n", "mallory")
    await site.comment("ours")
    await site.comment("ours again")
    assert site.bodies == [f"{MARKER}\nsend money\n", f"{MARKER}\nours again\n"]


async def test_a_comment_is_found_behind_many_others(site):
    """All pages are read before another comment is made."""
    for n in range(250):
        site.server.comment(REPOSITORY, 7, f"talk {n}", "somebody")
    site.server.comment(REPOSITORY, 7, f"{MARKER}\nold\n", site.server.login)
    await site.comment("new")
    assert len(site.bodies) == 251
    assert site.bodies[-1] == f"{MARKER}\nnew\n"


async def test_a_deleted_comment_is_written_anew(site):
    """When somebody deletes our comment, the next report makes it again."""
    await site.comment("one")
    site.server.comments.clear()
    await site.comment("two")
    assert site.bodies == [f"{MARKER}\ntwo\n"]


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


async def test_a_wrong_token_is_denied(site):
    """The forge's 401 says that the token is not known."""
    async with site.client(site.address, token="old") as stranger:
        with pytest.raises(ForgeDenied, match="expired or revoked"):
            await stranger.set_status(REPOSITORY, SHA, CONTEXT, "success", "d", "")


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


async def test_cancelling_a_write_leaves_the_client_usable(site):
    """A write cancelled in the middle is looked up the next time."""
    site.fail("slow", method="POST", seconds=0.5)
    with trio.move_on_after(0.1):
        await site.status()
    await trio.sleep(0.6)
    await site.status()
    assert len(site.server.statuses[REPOSITORY, SHA]) <= 2


async def test_an_apps_token_has_no_login_and_finds_its_comment_by_its_kind(site):
    """Where the forge does not say who we are, a bot's comment with our marker is ours."""
    site.fail("answer", path="/user", status=403, message="Resource not accessible by integration")
    ours = site.server.comment(REPOSITORY, 7, f"{MARKER}\nold\n", site.server.login)
    ours["user"]["type"] = "Bot"
    await site.comment("new")
    assert site.bodies == [f"{MARKER}\nnew\n"]


async def test_git_reads_with_the_token(site):
    """The credential for git is the token under the user name GitHub takes."""
    assert site.github.credential(REPOSITORY) == ("x-access-token", "ghp_test")
