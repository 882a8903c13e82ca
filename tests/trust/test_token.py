"""What a job's token may."""

import pytest

from runnerd.model import Actor, Event, Repository
from runnerd.trust.token import token_permissions
from runnerd.workflow import load


def permissions(top="", job="", *, fork=False, name="pull_request"):
    text = f"on: push\n{top}\njobs:\n  a:\n    runs-on: x\n{job}\n    steps: [{{run: make}}]\n"
    workflow = load(text, path="ci.yml")
    event = Event(
        delivery="d", name=name, repository=Repository(id=5, full_name="o/r"),
        sender=Actor(id=1, login="ada"), fork=fork,
    )  # fmt: skip
    return token_permissions(workflow, workflow.jobs["a"], event)


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
