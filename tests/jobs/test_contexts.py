"""The contexts `github` and `runner`, and the variables that follow from them."""

import msgspec
import pytest

from runnerd.jobs.contexts import (
    FILES,
    RUNNERS_OWN,
    base_environment,
    github_context,
    job_context,
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


@pytest.mark.parametrize(
    ("path", "repository", "file", "ref", "sha"),
    [
        (".github/workflows/ci.yml", "octo/hello", ".github/workflows/ci.yml", "refs/heads/main", "c0ffee"),
        ("./.github/workflows/x.yml", "octo/hello", ".github/workflows/x.yml", "refs/heads/main", "c0ffee"),
        ("other/lib/.github/workflows/x.yml@v1", "other/lib", ".github/workflows/x.yml", "v1", ""),
    ],
)
def test_a_job_knows_the_file_it_is_written_in(path, repository, file, ref, sha):
    """The event's own, one of the same repository, or another repository's."""
    github = {"repository": "octo/hello", "ref": "refs/heads/main", "workflow_sha": "c0ffee"}
    assert job_context(github, path, "success") == {
        "status": "success",
        "workflow_file_path": file,
        "workflow_ref": f"{repository}/{file}@{ref}",
        "workflow_repository": repository,
        "workflow_sha": sha,
    }


GITHUBS = """
 ACTION ACTION_PATH ACTION_REF ACTION_REPOSITORY ACTIONS ACTOR ACTOR_ID API_URL BASE_REF ENV
EVENT_NAME EVENT_PATH GRAPHQL_URL HEAD_REF JOB OUTPUT PATH REF REF_NAME REF_PROTECTED REF_TYPE
REPOSITORY REPOSITORY_ID REPOSITORY_OWNER REPOSITORY_OWNER_ID RETENTION_DAYS RUN_ATTEMPT RUN_ID
RUN_NUMBER SERVER_URL SHA STATE STEP_SUMMARY TRIGGERING_ACTOR WORKFLOW WORKFLOW_REF WORKFLOW_SHA
WORKSPACE
"""
RUNNERS = "ARCH DEBUG ENVIRONMENT NAME OS TEMP TOOL_CACHE WORKSPACE"


def test_every_default_variable_of_githubs_runner_is_set():
    """All of them, and no other with these beginnings; those that have no value are empty."""
    paths = Paths()
    runner = runner_context(paths, "m1", debug=True)
    found = runner_environment(github_context(EVENT), runner, paths, dict.fromkeys(FILES, "/f"))
    expected = {f"GITHUB_{name}" for name in GITHUBS.split()} | {f"RUNNER_{name}" for name in RUNNERS.split()}
    assert found.keys() == expected
    assert base_environment(paths)["CI"] == "true"


def test_what_is_the_runners_own_is_what_it_sets():
    """So that a step may set all else."""
    paths = Paths()
    runner = runner_context(paths, "m1", debug=True)
    assert runner_environment({}, runner, paths, dict.fromkeys(FILES, "")).keys() == RUNNERS_OWN
