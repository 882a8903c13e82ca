"""The contexts `github` and `runner`, and the variables that follow from them."""

import msgspec
import pytest

from runnerd.jobs.contexts import (
    base_environment,
    github_context,
    ref_name,
    runner_context,
    runner_environment,
    workspace,
)
from runnerd.machines.driver import Paths
from runnerd.model import Actor, Event, Repository, RunRecord
from runnerd.workflow.model import Workflow

EVENT = Event(
    delivery="d",
    name="pull_request",
    repository=Repository(id=7, full_name="octo/hello"),
    sender=Actor(id=5, login="mona"),
    sha="1" * 40,
    ref="refs/pull/7/merge",
    head_ref="topic",
    base_ref="main",
    payload={"number": 7, "repository": {"owner": {"id": 99}}},
)
RUN = RunRecord(
    id=3,
    delivery="d",
    repository="octo/hello",
    workflow_path=".github/workflows/ci.yml",
    workflow_name="CI",
    title="t",
    source="",
    event=EVENT,
    number=4,
    attempt=2,
)


def test_a_jobs_context_has_githubs_values():
    """Numbers are text; refs are named as people say them."""
    context = github_context(EVENT, RUN, "build")
    expected = {
        "actor": "mona",
        "actor_id": "5",
        "base_ref": "main",
        "event_name": "pull_request",
        "head_ref": "topic",
        "job": "build",
        "ref_name": "7/merge",
        "ref_protected": False,
        "ref_type": "branch",
        "repository_id": "7",
        "repository_owner": "octo",
        "repository_owner_id": "99",
        "run_attempt": "2",
        "run_id": "3",
        "run_number": "4",
        "workflow": "CI",
        "workflow_ref": "octo/hello/.github/workflows/ci.yml@refs/pull/7/merge",
        "workflow_sha": "1" * 40,
    }
    assert {key: context[key] for key in expected} == expected
    assert context["event"] == EVENT.payload


def test_a_run_that_is_only_planned_has_a_context_too():
    """The workflow names the file; there is no run and no job yet."""
    workflow = Workflow(path="a.yml", name="A", triggers=(), jobs={})
    context = github_context(EVENT, workflow=workflow)
    assert (context["workflow"], context["job"], context["run_id"]) == ("A", "", "0")


def test_the_payload_may_come_apart_from_the_event():
    """The ledger keeps it with the delivery."""
    bare = msgspec.structs.replace(EVENT, payload={})
    assert github_context(bare, RUN, payload={"x": 1})["event"] == {"x": 1}


@pytest.mark.parametrize(
    ("api", "graphql"),
    [
        ("https://api.github.com", "https://api.github.com/graphql"),
        ("https://g.example/api/v3", "https://g.example/api/graphql"),
    ],
)
def test_the_addresses_are_the_servers(api, graphql):
    """GitHub Enterprise has its GraphQL beside the REST API's version."""
    assert github_context(EVENT, RUN, api_url=api + "/")["graphql_url"] == graphql


@pytest.mark.parametrize(
    "payload",
    [{}, {"repository": None}, {"repository": {"owner": "x"}}, {"repository": {"owner": {"id": "x"}}}],
)
def test_an_odd_payload_gives_an_empty_owner(payload):
    """What is in a payload is somebody else's text."""
    assert github_context(EVENT, RUN, payload=payload)["repository_owner_id"] == ""


@pytest.mark.parametrize(
    ("ref", "name"),
    [("refs/heads/a/b", "a/b"), ("refs/tags/v1", "v1"), ("refs/pull/7/merge", "7/merge"), ("", "")],
)
def test_refs_have_names(ref, name):
    """Without what git puts before them."""
    assert ref_name(ref) == name


def test_a_tag_is_a_tag():
    """Everything else is a branch."""
    tagged = msgspec.structs.replace(EVENT, ref="refs/tags/v1")
    assert github_context(tagged, RUN)["ref_type"] == "tag"


def test_the_workspace_is_named_after_the_repository():
    """Twice, as at GitHub."""
    assert workspace(Paths(), "octo/hello") == "/home/runner/work/hello/hello"


def test_variables_follow_from_the_contexts():
    """Booleans as words, what is empty as empty, the step's files as given."""
    github = github_context(EVENT, RUN, "build") | {"workspace": "/home/runner/work/hello/hello"}
    runner = runner_context(Paths(), "m1", debug=True)
    variables = runner_environment(github, runner, Paths(), {"GITHUB_OUTPUT": "/x"})
    assert variables["GITHUB_REF_PROTECTED"] == "false"
    assert variables["GITHUB_ACTION_PATH"] == ""
    assert variables["RUNNER_DEBUG"] == "1"
    assert variables["RUNNER_WORKSPACE"] == "/home/runner/work/hello"
    assert variables["GITHUB_OUTPUT"] == "/x"
    assert not any("TOKEN" in name for name in variables)


def test_every_process_has_a_home_and_a_search_path():
    """Nothing of the host's environment is needed."""
    base = base_environment(Paths())
    assert base["HOME"] == "/home/runner"
    assert base["PATH"].endswith("/usr/bin:/sbin:/bin")
