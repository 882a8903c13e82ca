"""What a job's token may."""

import pytest

from runnerd.model import Actor, Event, Repository
from runnerd.trust.token import token_permissions
from runnerd.workflow import load
from runnerd.workflow.calls import Scope
from runnerd.workflow.model import Call


def permissions(top="", job="", *, fork=False, name="pull_request", sender="ada"):
    text = f"on: push\n{top}\njobs:\n  a:\n    runs-on: x\n{job}\n    steps: [{{run: make}}]\n"
    workflow = load(text, path="ci.yml")
    event = Event(
        delivery="d", name=name, repository=Repository(id=5, full_name="o/r"),
        sender=Actor(id=1, login=sender), fork=fork,
    )  # fmt: skip
    return token_permissions(Scope(workflow=workflow, contexts={}), workflow.jobs["a"], event)


@pytest.mark.parametrize(
    ("top", "job", "granted"),
    [
        ("", "", {"contents": "read", "packages": "read"}),
        ("permissions: {issues: write, checks: none}", "", {"issues": "write"}),
        ("permissions: {issues: write}", "    permissions: {statuses: read}", {"statuses": "read"}),
        ("permissions: write-all", "    permissions: {}", {}),
    ],
)
def test_the_job_speaks_before_the_workflow(top, job, granted):
    """As a whole: what it does not name is none; where nobody speaks the restricted default holds."""
    assert permissions(top, job) == granted


def test_all_is_every_permission_that_has_the_level():
    """`read-all` has nothing that can only be written."""
    every = permissions("permissions: read-all")
    assert set(every.values()) == {"read"}
    assert "contents" in every
    assert "id-token" not in every
    assert permissions("permissions: write-all")["contents"] == "write"


def test_a_stranger_reads_at_most():
    """Whatever the file says, which is the stranger's own; a token for identities cannot be read, so none."""
    wanted = "permissions: {contents: write, id-token: write, issues: read}"
    assert permissions(wanted, fork=True) == {"contents": "read", "issues": "read"}
    assert "write" not in permissions("permissions: write-all", fork=True).values()
    assert permissions(wanted, fork=True, name="pull_request_target")["contents"] == "write"


def test_what_dependabot_proposes_reads_at_most():
    """It brings in code that nobody here has looked at."""
    wanted = "permissions: {contents: write, issues: read}"
    assert permissions(wanted, sender="dependabot[bot]") == {"contents": "read", "issues": "read"}


@pytest.mark.parametrize(
    ("caller", "called", "granted"),
    [
        ("permissions: {contents: write, issues: read}", "", {"contents": "write", "issues": "read"}),
        ("permissions: {contents: write, issues: read}", "permissions: {issues: read}", {"issues": "read"}),
        ("permissions: {contents: write}", "permissions: {contents: read}", {"contents": "read"}),
        ("permissions: read-all", "permissions: {}", {}),
        ("", "", {"contents": "read", "packages": "read"}),
    ],
)
def test_a_called_workflow_has_at_most_what_its_caller_has(caller, called, granted):
    """It may ask for less; where it says nothing it has what the job that calls it has."""
    inner = f"on: workflow_call\n{called}\njobs: {{a: {{runs-on: x, steps: [{{run: make}}]}}}}\n"
    text = f"on: push\n{caller}\njobs: {{call: {{uses: ./.github/workflows/c.yml}}}}\n"
    outer = Scope(workflow=load(text, path="ci.yml", resolve=lambda name: inner), contexts={})
    scope = outer.enter(outer.workflow.jobs["call"], Call(key="call", leg=0, legs=1, name="call"))
    event = Event(
        delivery="d", name="push", repository=Repository(id=5, full_name="o/r"), sender=Actor(id=1, login="a")
    )
    assert token_permissions(scope, scope.workflow.jobs["a"], event) == granted
