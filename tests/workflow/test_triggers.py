"""What starts a workflow and what does not, each verdict with its reason."""

from __future__ import annotations

import time

import pytest

from runnerd.model import Actor, Event, Repository
from runnerd.workflow import load, matches
from runnerd.workflow.model import Input
from runnerd.workflow.triggers import dispatch_inputs, skip_marker

JOBS = "jobs: {a: {runs-on: x, steps: [{run: y}]}}\n"


def workflow(on: str):
    return load(f"on: {on}\n{JOBS}", path=".github/workflows/w.yml")


def push(ref="refs/heads/main", **keys):
    return {"ref": ref, "after": "1" * 40, "head_commit": {"message": "m"}, **keys}


def pull(action="opened", base="main"):
    return {"action": action, "pull_request": {"base": {"ref": base}}}


@pytest.mark.parametrize(
    ("on", "event", "payload", "files", "reason"),
    [
        ("push", "push", push(), None, ""),
        ("push", "pull_request", pull(), None, "not among its events (push)"),
        ("{push: {branches: [main]}}", "push", push(), None, ""),
        ("{push: {branches: [main]}}", "push", push("refs/heads/x"), None, "branch 'x' does not match"),
        ("{push: {branches: ['**', '!main']}}", "push", push(), None, "does not match"),
        ("{push: {branches-ignore: [main]}}", "push", push(), None, "matches `branches-ignore`"),
        ("{push: {branches: [main]}}", "push", push("refs/tags/v1"), None, "only branches are listed"),
        ("{push: {tags: ['v*']}}", "push", push(), None, "only tags are listed"),
        ("{push: {tags: ['v*']}}", "push", push("refs/tags/v1"), None, ""),
        ("{push: {tags: ['v*'], branches: [main]}}", "push", push(), None, ""),
        ("{push: {tags: ['v*'], branches: [main]}}", "push", push("refs/tags/v1"), None, ""),
        ("{push: {tags-ignore: ['v*']}}", "push", push("refs/tags/v1"), None, "matches `tags-ignore`"),
        ("push", "push", push(after="0" * 40), None, "deleted"),
        ("push", "push", push(deleted=True), None, "deleted"),
        ("{push: {paths: ['src/**']}}", "push", push(), ("src/a",), ""),
        ("{push: {paths: ['src/**']}}", "push", push(), ("doc/a",), "no changed file matches `paths`"),
        ("{push: {paths: ['src/**']}}", "push", push(), (), "no file changed"),
        ("{push: {paths: ['src/**']}}", "push", push(), None, ""),
        ("{push: {paths: ['src/**']}}", "push", push("refs/tags/v1"), ("doc/a",), ""),
        ("{push: {paths: ['**', '!doc/**']}}", "push", push(), ("doc/a",), "no changed file"),
        ("{push: {paths-ignore: ['doc/**']}}", "push", push(), ("doc/a",), "every changed file"),
        ("{push: {paths-ignore: ['doc/**']}}", "push", push(), ("doc/a", "b"), ""),
        ("{push: {branches: [x], paths: ['**']}}", "push", push(), ("a",), "branch 'main'"),
        ("{push: {paths: [z]}}", "push", push(), (*(["a"] * 300), "z"), "the first 300 count"),
        ("pull_request", "pull_request", pull(), None, ""),
        ("pull_request", "pull_request", pull("closed"), None, "default of `types`"),
        ("{pull_request: {types: [closed]}}", "pull_request", pull("closed"), None, ""),
        ("{pull_request: {types: closed}}", "pull_request", pull(), None, "not among [closed]"),
        ("{pull_request: {branches: [rel]}}", "pull_request", pull(), None, "base branch 'main'"),
        ("{pull_request: {branches: [rel]}}", "pull_request", pull(base="rel"), None, ""),
        ("issues", "issues", {"action": "milestoned"}, None, ""),
        ("{repository_dispatch: {types: [go]}}", "repository_dispatch", {"action": "go"}, None, ""),
        ("{repository_dispatch: {types: [go]}}", "repository_dispatch", {"action": "no"}, None, "'no'"),
        ("repository_dispatch", "repository_dispatch", {"action": "any"}, None, ""),
        (
            "{merge_group: {branches: [x]}}",
            "merge_group",
            {"merge_group": {"base_ref": "refs/heads/x"}},
            None,
            "",
        ),
        (
            "{workflow_run: {workflows: [CI], branches: [x]}}",
            "workflow_run",
            {"action": "completed", "workflow": {"name": "CI"}, "workflow_run": {"head_branch": "x"}},
            None,
            "",
        ),
        (
            "{workflow_run: {workflows: [CI]}}",
            "workflow_run",
            {"action": "completed", "workflow": {"name": "Other"}},
            None,
            "workflow 'Other'",
        ),
        (
            "deployment_status",
            "deployment_status",
            {"deployment_status": {"state": "inactive"}},
            None,
            "inactive",
        ),
        ("workflow_dispatch", "workflow_dispatch", {}, None, ""),
    ],
)
def test_verdicts(on, event, payload, files, reason):
    """Each rule of GitHub's filters, its verdict and the words of its reason."""
    match = matches(event, payload, workflow(on), files)
    assert match.matched is (reason == "")
    assert reason in match.reason
    assert match.reason


@pytest.mark.parametrize(
    ("message", "marker"),
    [
        ("x [skip ci] y", "[skip ci]"),
        ("[CI SKIP]", "[ci skip]"),
        ("[no ci]", "[no ci]"),
        ("a\n\nskip-checks: true", "skip-checks: true"),
        ("a\n\nskip-checks:true\n", "skip-checks: true"),
        ("a\n\nSigned-off-by: b <c>\nskip-checks: true\n", "skip-checks: true"),
        ("a\n\nskip-checks: true\nSigned-off-by: b <c>", None),
        ("a\n\nand so on\nskip-checks: true", None),
        ("a\nskip-checks: true", None),
        ("skip ci", None),
    ],
)
def test_skip_markers(message, marker):
    """Five words anywhere, and one trailer, which is the last behind an empty line."""
    assert skip_marker(message) == marker
    payload = push(head_commit={"message": message})
    assert matches("push", payload, workflow("push"), None).matched is (marker is None)


def test_skip_markers_count_for_pushes_and_pull_requests_only():
    """A manual start runs whatever the commit says."""
    payload = {"head_commit": {"message": "[skip ci]"}}
    assert matches("workflow_dispatch", payload, workflow("workflow_dispatch"), None).matched


def event(**keys):
    repository = Repository(id=1, full_name="o/r")
    return Event(delivery="d", repository=repository, sender=Actor(id=1, login="a"), **keys)


def test_an_event_brings_its_own_payload_and_file():
    """The daemon's event works in place of name and payload; a manual start is for one file."""
    found = event(name="pull_request", action="opened", base_ref="main", message="[skip ci]")
    assert "[skip ci]" in matches(found, None, workflow("pull_request"), None).reason
    manual = event(name="workflow_dispatch", workflow="other.yml")
    assert "is for other.yml" in matches(manual, None, workflow("workflow_dispatch"), None).reason
    assert matches(
        event(name="workflow_dispatch", workflow="w.yml"), None, workflow("workflow_dispatch"), None
    ).matched


@pytest.mark.parametrize(
    "payload", [None, {}, {"ref": 5, "head_commit": "x", "action": []}, {"pull_request": []}]
)
def test_a_payload_of_any_shape_gives_a_verdict(payload):
    """Nothing in a payload raises."""
    for on in (
        "{push: {branches: [x]}}",
        "{pull_request: {branches: [x]}}",
        "{workflow_run: {workflows: [x]}}",
    ):
        found = workflow(on)
        assert matches(found.triggers[0].event, payload, found, ("a",)).reason


def test_matching_is_fast():
    """A match with branch and path filters costs tens of microseconds of a core."""
    found = workflow("{push: {branches: [main, 'release/**'], paths: ['src/**', '!docs/**']}}")
    best = 1.0
    for _ in range(20):
        start = time.thread_time()
        for _ in range(50):
            matches("push", push(), found, ("docs/a.md", "src/b.py"))
        best = min(best, (time.thread_time() - start) / 50)
    assert best < 200e-6


INPUTS = {
    "s": Input(default="x"),
    "b": Input(type="boolean"),
    "n": Input(type="number", default=3),
    "c": Input(type="choice", options=("a", "b")),
    "r": Input(required=True),
}


def test_inputs_of_a_manual_start_are_typed():
    """Strings as sent become what the input declares; defaults fill in; names are compared without case."""
    given = {"B": "true", "n": "5", "r": "y", "c": "b"}
    assert dispatch_inputs(INPUTS, given) == {"s": "x", "b": True, "n": 5, "c": "b", "r": "y"}
    assert dispatch_inputs(INPUTS, {"r": "y"}) == {"s": "x", "b": False, "n": 3, "c": "a", "r": "y"}


def test_wrong_inputs_are_all_named():
    """Undeclared, missing and mistyped inputs are refused together."""
    with pytest.raises(ValueError, match="required") as caught:
        dispatch_inputs(INPUTS, {"zz": 1, "b": "maybe", "n": "x", "c": "q"})
    lines = str(caught.value).splitlines()
    assert len(lines) == 5


def test_a_schedule_starts_the_file_that_has_it():
    """Cron, time zone and file must be those that are due; another of the same file does not count."""
    text = "on: {schedule: [{cron: '0 3 * * *'}, {cron: '0 4 * * *', timezone: Europe/Berlin}]}\n"
    nightly = load(text + "jobs: {a: {runs-on: x, steps: [{run: y}]}}\n", path=".github/workflows/n.yml")

    def starts(cron, **more):
        due = {"schedule": cron, "workflow": ".github/workflows/n.yml", **more}
        return matches("schedule", due, nightly, None)

    assert starts("0 3 * * *").matched
    assert starts("0 4 * * *", timezone="Europe/Berlin").matched
    assert not starts("0 4 * * *").matched
    assert starts("0 5 * * *").reason == (
        "schedule '0 5 * * *' in UTC is not among [0 3 * * *, 0 4 * * * in Europe/Berlin]"
    )
    assert not starts("0 3 * * *", workflow=".github/workflows/other.yml").matched
