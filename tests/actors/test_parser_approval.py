"""Strangers' pull requests through the parser: held, approved by a comment, expired, closed."""

from types import SimpleNamespace

import pytest

from runnerd.forge.people import People
from runnerd.messages import CancelRun, RunCreated
from runnerd.planning.gate import Gate

from .conftest import CI_OF_PULLS, pull, repository


class GitHub:
    """Knows one writer, number 3, and what the pull request's head is."""

    head = ""
    state = "open"

    async def ask(self, method, path, *, repository="", permission="", body=None):
        if path.endswith("/permission"):
            write = path.endswith("/collaborators/grace/permission")
            answer = {"permission": "write" if write else "read", "user": {"id": 3 if write else 4}}
        elif path.endswith("/pulls/7"):
            answer = {"state": self.state, "head": {"sha": self.head}}
        else:
            answer = {"approval_policy": "all_external_contributors"}
        return SimpleNamespace(json=lambda: answer)


def stranger(head, base, *, action="opened"):
    payload = pull(head, base, action=action)
    payload["pull_request"]["head"]["repo"] = {"id": 6}
    payload["pull_request"] |= {"user": {"id": 1, "login": "ada"}, "author_association": "NONE"}
    return payload


def comment(sha, *, id=3, login="grace", action="created"):
    return {
        "action": action,
        "issue": {"number": 7, "pull_request": {}},
        "comment": {"body": f"/runnerd approve {sha}", "user": {"id": id, "login": login, "type": "User"}},
        "repository": repository(),
        "sender": {"id": id, "login": login},
    }


@pytest.fixture
def github(planning):
    planning.gate = Gate(People(github := GitHub()))
    return github


async def opened(planning):
    """A fork's pull request; returns base, head and its run."""
    base = planning.origin.commit({"ci.yml": CI_OF_PULLS})
    planning.origin.git("checkout", "-q", "-b", "topic")
    head = planning.origin.commit({"README/x": "x"})
    planning.origin.git("update-ref", "refs/pull/7/head", head)
    await planning.start()
    _, (run,), _ = await planning.plan("pull_request", stranger(head, base))
    assert run.held
    assert await planning.told(1) == [RunCreated(run.id)]
    return base, head, run


async def test_a_writers_comment_lets_it_go_on(planning, github):
    """Once, and it is kept who approved which commit."""
    _, github.head, run = await opened(planning)
    await planning.plan("issue_comment", comment(github.head))
    assert await planning.told(1) == [RunCreated(run.id)]
    after = await planning.ledger.run(run.id)
    assert (after.approval.id, after.approval.permission, after.approval.sha) == (3, "write", github.head)


async def test_no_other_comment_does(planning, github):
    """A stranger's, one under the writer's name with another number, an edited one; or once it is closed."""
    _, github.head, run = await opened(planning)
    for payload in (
        comment(github.head, id=4, login="mallory"),
        comment(github.head, id=4, login="grace"),
        comment(github.head, action="edited"),
        comment("f" * 40),
    ):
        await planning.plan("issue_comment", payload)
    github.state = "closed"
    await planning.plan("issue_comment", comment(github.head))
    assert (await planning.ledger.run(run.id)).held
    assert planning.executor.depth == 0


async def test_a_new_commit_needs_an_approval_of_its_own(planning, github):
    """What waited for the older commit is cancelled; a comment about that approves nothing any more."""
    base, old, run = await opened(planning)
    github.head = planning.origin.commit({"README/y": "y"})
    planning.origin.git("update-ref", "refs/pull/7/head", github.head)
    _, (newer,), _ = await planning.plan("pull_request", stranger(github.head, base, action="synchronize"))
    assert set(await planning.told(2)) == {RunCreated(newer.id), CancelRun(run.id)}
    await planning.plan("issue_comment", comment(old))
    assert (await planning.ledger.run(run.id)).held
    assert (await planning.ledger.run(run.id)).cancel_requested
    assert (await planning.ledger.run(newer.id)).held


async def test_an_approved_commit_says_nothing_for_the_next(planning, github):
    """The push after an approval waits again."""
    base, github.head, run = await opened(planning)
    await planning.plan("issue_comment", comment(github.head))
    github.head = planning.origin.commit({"README/y": "y"})
    planning.origin.git("update-ref", "refs/pull/7/head", github.head)
    _, (newer,), _ = await planning.plan("pull_request", stranger(github.head, base, action="synchronize"))
    assert newer.held
    assert not (await planning.ledger.run(run.id)).held


async def test_a_repository_that_is_not_allowed_starts_nothing(planning):
    """Whatever its event, and the reason is kept."""
    planning.gate = Gate(People(None), refuses=lambda name, id: f"{name} is not among them")
    sha = planning.origin.commit({"ci.yml": CI_OF_PULLS})
    await planning.start()
    record, runs, _ = await planning.push(sha)
    assert (record.state, record.reason, runs) == ("ignored", "octo/hello is not among them", [])
