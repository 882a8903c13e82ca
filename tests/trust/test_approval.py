"""Whether a stranger's run waits, and which comments approve."""

import pytest

from runnerd.model import Actor, Event, Repository
from runnerd.trust.approval import Wish, our_own, why_approval, wish

ALL, FIRST, NEW = (
    "all_external_contributors",
    "first_time_contributors",
    "first_time_contributors_new_to_github",
)
SHA = "0123456789abcdef0123456789abcdef01234567"


def pull(association="NONE", *, author=7, sender=7, **fields):
    known = {
        "delivery": "d",
        "name": "pull_request",
        "repository": Repository(id=5, full_name="octo/hello"),
        "sender": Actor(id=sender, login="ada"),
        "fork": True,
        "payload": {
            "pull_request": {"user": {"id": author, "login": "ada"}, "author_association": association}
        },
    }
    return Event(**{**known, **fields})


@pytest.mark.parametrize(
    ("association", "free"),
    [
        ("OWNER", {ALL, FIRST, NEW}),
        ("MEMBER", {ALL, FIRST, NEW}),
        ("COLLABORATOR", {ALL, FIRST, NEW}),
        ("CONTRIBUTOR", {FIRST, NEW}),
        ("FIRST_TIME_CONTRIBUTOR", set()),
        ("FIRST_TIMER", set()),
        ("NONE", set()),
        ("owner", set()),
        (None, set()),
        (["OWNER"], set()),
    ][:-1],
)
def test_the_setting_says_whose_pull_requests_wait(association, free):
    """Insiders never wait; who contributed before waits under the strictest setting alone."""
    for setting in (ALL, FIRST, NEW):
        assert (why_approval(pull(association), setting) == "") == (setting in free)


def test_the_sender_counts_as_well_as_the_author():
    """By number: the same login with another number is somebody else, and an unknown author is nobody."""
    assert why_approval(pull("OWNER", author=7, sender=8), FIRST)
    assert why_approval(pull("OWNER", author="7", sender=7), FIRST)
    assert why_approval(pull("OWNER", payload={}), FIRST)
    assert why_approval(pull("OWNER", payload={"pull_request": {"user": None}}), FIRST)


def test_own_branches_never_wait():
    """Neither do the base's own files that `pull_request_target` runs."""
    assert why_approval(pull(fork=False), ALL) == ""
    assert why_approval(pull(name="pull_request_target"), ALL) == ""


def comment(body=f"/runnerd approve {SHA}", *, action="created", issue=None, sender=3, **fields):
    said = {
        "body": body,
        "user": {"id": 3, "login": "grace", "type": "User"},
        "created_at": "2026-01-01T00:00:00Z",
        "updated_at": "2026-01-01T00:00:00Z",
        "performed_via_github_app": None,
        **fields,
    }
    return Event(
        delivery="d",
        name="issue_comment",
        action=action,
        repository=Repository(id=5, full_name="octo/hello"),
        sender=Actor(id=sender, login="grace"),
        payload={"issue": issue or {"number": 9, "pull_request": {}}, "comment": said},
    )


def test_a_comment_names_the_commit_it_approves():
    """By its whole id, of SHA-1 or SHA-256."""
    assert wish(comment()) == Wish(number=9, sha=SHA)
    assert wish(comment(f"  /runnerd approve {SHA}\r\n")) == Wish(number=9, sha=SHA)
    long = "0123456789abcdef" * 4
    assert wish(comment(f"/runnerd approve {long}")) == Wish(number=9, sha=long)


@pytest.mark.parametrize(
    "event",
    [
        comment(action="edited"),
        comment(updated_at="2026-01-01T00:00:09Z"),
        comment(user={"id": 3, "login": "grace", "type": "Bot"}),
        comment(user={"id": 4, "login": "grace", "type": "User"}),
        comment(sender=4),
        comment(performed_via_github_app={"id": 1}),
        comment(issue={"number": 9}),
        comment("/runnerd approve"),
        comment(f"/runnerd approve {SHA[:7]}"),
        comment(f"/runnerd approve {SHA[:39]}"),
        comment(f"/RUNNERD APPROVE {SHA}"),
        comment(f"please /runnerd approve {SHA}"),
        comment(f"> /runnerd approve {SHA}"),
        comment(f"/runnerd approve {SHA}\nor better not"),
        comment(None),
        pull(),
    ],
)
def test_everything_else_approves_nothing(event):
    """Edited comments, bots, Apps, a login under another number, issues, quotes, half a commit."""
    assert wish(event) is None


def test_echoes_of_our_own_reports_start_nothing():
    """Our comment, status and check run; others of the same kind are none of ours."""
    assert our_own(comment("<!-- runnerd:v1 repository=5 pull=9 -->\n### runnerd"))
    assert not our_own(comment("hello"))
    assert our_own(pull(name="status", payload={"context": "runnerd / CI / build"}))
    assert not our_own(pull(name="status", payload={"context": "ci"}))
    assert our_own(pull(name="check_run", payload={"check_run": {"name": "runnerd / CI / build"}}))
    assert not our_own(pull(name="check_run", payload={"check_run": None}))
