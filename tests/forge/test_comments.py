"""Behaviour of runnerd.forge.comments, against a GitHub that checks every request."""

from __future__ import annotations

import pytest

from runnerd.forge.protocol import ForgeDenied, ForgeUnavailable

REPOSITORY, SHA = "octo-org/hello", "b" * 40
CONTEXT = "runnerd / CI / build (ubuntu, 3.12)"
MARKER = "<!-- runnerd:v1 repository=1 pull=7 -->"


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


async def test_an_apps_token_has_no_login_and_finds_its_comment_by_its_kind(site):
    """Where the forge does not say who we are, a bot's comment with our marker is ours."""
    site.server.token = "ghs_7_installation"
    ours = site.server.comment(REPOSITORY, 7, f"{MARKER}\nold\n", site.server.login)
    ours["user"]["type"] = "Bot"
    async with site.client(site.address, site.server.token) as github:
        await github.upsert_comment(REPOSITORY, 7, MARKER, f"{MARKER}\nnew\n")
    assert site.bodies == [f"{MARKER}\nnew\n"]


async def test_a_refused_question_makes_no_second_comment(site):
    """Whose token it is could not be learnt for once: the comment waits, and is then found and edited."""
    await site.comment("one")
    async with site.client(site.address) as other:
        site.fail("answer", path="/user", status=403, message="Resource not accessible by integration")
        with pytest.raises(ForgeDenied):
            await other.upsert_comment(REPOSITORY, 7, MARKER, f"{MARKER}\ntwo\n")
        await other.upsert_comment(REPOSITORY, 7, MARKER, f"{MARKER}\ntwo\n")
    assert site.bodies == [f"{MARKER}\ntwo\n"]


async def test_comments_leave_room_for_people(site):
    """Sixty a minute are enough; the next waits alone, and nothing else with it."""
    for number in range(1, 61):
        await site.github.upsert_comment(REPOSITORY, number, MARKER, f"{MARKER}\n{number}\n")
        site.now += 0.5
    with pytest.raises(ForgeUnavailable, match="comments") as caught:
        await site.comment("too many")
    assert (caught.value.scope, site.bodies) == ("report", [f"{MARKER}\n7\n"])
    await site.status()
    site.now = caught.value.retry_at
    await site.comment("in time")
    assert site.bodies == [f"{MARKER}\nin time\n"]
