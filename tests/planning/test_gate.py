"""Who may run: repositories, strangers' runs, and the comments that approve them."""

from types import SimpleNamespace

import msgspec
import pytest

from runnerd.forge.people import People
from runnerd.forge.protocol import ForgeDenied, ForgeUnavailable
from runnerd.model import Actor, Event, Outcome, Repository, RunRecord
from runnerd.planning.gate import Gate, expired, renews
from runnerd.store.changes import NewRun

SHA, OLDER = "a" * 40, "b" * 40
APPROVAL = "fork-pr-contributor-approval"


class AnsweringForge:
    """Answers by the end of a path, or raises what stands there; what it does not know is refused."""

    def __init__(self, **answers):
        self.answers = answers
        self.asked = []

    async def ask(self, method, path, *, repository="", permission="", body=None):
        self.asked.append(path)
        answer = self.answers.get(path.rpartition("/")[2].replace("-", "_"))
        if answer is None:
            raise ForgeDenied("404")
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(json=lambda: answer)


def pull_event(**fields):
    known = {
        "delivery": "d",
        "name": "pull_request",
        "action": "opened",
        "repository": Repository(id=5, full_name="octo/hello"),
        "sender": Actor(id=7, login="mallory"),
        "report_sha": SHA,
        "number": 9,
        "fork": True,
        "payload": {"pull_request": {"user": {"id": 7}, "author_association": "CONTRIBUTOR"}},
    }
    return Event(**{**known, **fields})


def new(event, **fields):
    return NewRun(workflow_path="ci.yml", workflow_name="CI", title="", source_text="", event=event, **fields)


def held(id=1, **fields):
    return RunRecord(
        id=id, delivery="d", repository="octo/hello", workflow_path="ci.yml", workflow_name="CI", title="",
        source="", event=pull_event(**fields), number=1, gate="a fork",
    )  # fmt: skip


def comment(sha=SHA, login="grace", number=9, repository=5):
    said = {"body": f"/runnerd approve {sha}", "user": {"id": 3, "login": login, "type": "User"}}
    return pull_event(
        name="issue_comment", action="created", sender=Actor(id=3, login=login), fork=False, number=None,
        repository=Repository(id=repository, full_name="octo/hello"),
        payload={"issue": {"number": number, "pull_request": {}}, "comment": said},
    )  # fmt: skip


def forge(permission="write", *, id=3, state="open", head=SHA):
    return AnsweringForge(
        permission={"permission": permission, "user": {"id": id}},
        **{"9": {"state": state, "head": {"sha": head}}},
    )


async def approved(forge, event, *runs):
    return await Gate(People(forge)).approved(event, runs or [held()])


async def test_strangers_runs_wait_as_the_setting_says():
    """Strictest where it cannot be read or is a word that nobody knows; ended and own runs never wait."""
    relaxed = {"fork_pr_contributor_approval": {"approval_policy": "first_time_contributors"}}
    for answers, waits in (
        (relaxed, False),
        ({}, True),
        ({"fork_pr_contributor_approval": {"approval_policy": "nobody"}}, True),
        ({"fork_pr_contributor_approval": ForgeUnavailable("down", 9.0)}, True),
    ):
        (run,) = await Gate(People(AnsweringForge(**answers))).guarded([new(pull_event())])
        assert bool(run.gate) is waits
    (run,) = await Gate(People(None)).guarded([new(pull_event())])
    assert run.gate
    others = [new(pull_event(fork=False)), new(pull_event(), outcome=Outcome.STARTUP_FAILURE)]
    assert not any(run.gate for run in await Gate(People(None)).guarded(others))


async def test_who_may_write_approves_one_commit():
    """What they might at that time stands beside their name and number."""
    found = await approved(forge(), comment(), held(1), held(2, report_sha=OLDER))
    assert list(found) == [1]
    assert (found[1].sha, found[1].login, found[1].id, found[1].permission) == (SHA, "grace", 3, "write")


@pytest.mark.parametrize(
    ("answering", "event"),
    [
        (forge("read"), comment()),
        (forge("triage"), comment()),
        (forge("WRITE"), comment()),
        (forge("admin", id=4), comment()),
        (forge("admin", state="closed"), comment()),
        (forge("admin", head=OLDER), comment()),
        (forge("admin"), comment(OLDER)),
        (forge("admin"), comment(number=8)),
        (forge("admin"), comment(repository=6)),
        (AnsweringForge(), comment()),
        (None, comment()),
    ],
)
async def test_nobody_else_does(answering, event):
    """Readers, a login whose number is another's, a closed or moved pull request, another commit or place."""
    assert await approved(answering, event) == {}


async def test_a_forge_that_cannot_be_asked_is_asked_again():
    """Who somebody is, is never guessed."""
    with pytest.raises(ForgeUnavailable):
        await approved(AnsweringForge(permission=ForgeUnavailable("down", 9.0)), comment())


async def test_a_login_cannot_lead_to_another_path():
    """What a payload says is quoted."""
    asked = forge()
    await approved(asked, comment(login="../../x"))
    assert "/repos/octo/hello/collaborators/..%2F..%2Fx/permission" in asked.asked


def test_newer_commits_end_what_waits_for_older_ones():
    """Of the same pull request; nothing that was approved, and nothing by other events."""
    from runnerd.model import Approval

    by = Approval(sha=OLDER, login="grace", permission="write")
    runs = [
        held(1, report_sha=OLDER),
        held(2),
        held(3, report_sha=OLDER, number=8),
        msgspec.structs.replace(held(4, report_sha=OLDER), approval=by),
    ]
    assert expired(pull_event(action="synchronize"), runs) == [1]
    assert expired(pull_event(action="labeled"), runs) == []
    assert renews(pull_event(action="synchronize"))
    assert not renews(pull_event(action="labeled"))


def test_repositories_may_be_refused():
    """Before anything else is asked."""
    gate = Gate(People(None), refuses=lambda name, id: f"{name} {id}")
    assert gate.why_nothing(pull_event()) == "octo/hello 5"
    assert Gate(People(None)).why_nothing(pull_event()) == ""


def test_a_press_of_our_button_is_no_echo():
    """Our check run that changed starts nothing; somebody at it does, in a repository that may run."""
    event = pull_event(name="check_run", payload={"check_run": {"name": "runnerd / CI / build"}})
    assert Gate(People(None)).why_nothing(event)
    assert Gate(People(None)).why_nothing(event, pressed=True) == ""
    assert Gate(People(None), refuses=lambda name, id: "no").why_nothing(event, pressed=True) == "no"


async def test_what_our_own_app_did_starts_nothing():
    """Its pushes and comments would go on for ever; a dispatch is meant to start something."""
    github = AnsweringForge(app={"slug": "our-runner"})
    gate = Gate(People(github, as_app=True))
    ours, other = Actor(id=8, login="our-runner[bot]"), Actor(id=9, login="renovate[bot]")
    assert await gate.why_no_answer(pull_event(sender=ours)) == "our-runner[bot] is this runner's own account"
    assert await gate.why_no_answer(pull_event(sender=other)) == ""
    assert await gate.why_no_answer(pull_event(sender=Actor(id=7, login="our-runner"))) == ""
    assert await gate.why_no_answer(pull_event(name="workflow_dispatch", sender=ours)) == ""
    assert github.asked == ["/app"]


async def test_without_an_app_there_is_no_account_of_ours():
    """A token's owner is a person whose pushes count; nobody is asked."""
    github = AnsweringForge()
    assert await Gate(People(github)).why_no_answer(pull_event(sender=Actor(id=8, login="x[bot]"))) == ""
    assert github.asked == []
    down = AnsweringForge(app=ForgeUnavailable("502", retry_at=0.0))
    with pytest.raises(ForgeUnavailable):
        await Gate(People(down, as_app=True)).why_no_answer(pull_event(sender=Actor(id=8, login="x[bot]")))
