"""Behaviour of runnerd.forge.events: what each kind of event comes to."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runnerd.forge.events import Ignored, Malformed, decode, delivery_identity, files_apart
from runnerd.model import Event

BASE = {
    "repository": {"id": 5, "full_name": "octo-org/hello", "default_branch": "trunk"},
    "sender": {"id": 1, "login": "octocat"},
}
SIDES = {
    "number": 7,
    "head": {"ref": "topic", "sha": "c" * 40, "repo": {"id": 6}},
    "base": {"ref": "release/1", "sha": "d" * 40, "repo": {"id": 5}},
}


def decoded(name: str, **payload: Any) -> Event | Ignored:
    return decode(name, "d-1", json.dumps(BASE | payload).encode())


def event(name: str, **payload: Any) -> Event:
    got = decoded(name, **payload)
    assert isinstance(got, Event), got
    return got


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("issue_comment", {"action": "created", "issue": {}, "comment": {}}),
        ("issues", {"action": "opened", "issue": {}}),
        ("check_run", {"action": "rerequested", "check_run": {}}),
        ("check_suite", {"action": "completed", "check_suite": {}}),
        ("delete", {"ref": "gone", "ref_type": "branch"}),
        ("discussion", {"action": "created", "discussion": {}}),
        ("fork", {"forkee": {}}),
        ("gollum", {"pages": []}),
        ("label", {"action": "created", "label": {}}),
        ("milestone", {"action": "closed", "milestone": {}}),
        ("page_build", {"id": 1, "build": {}}),
        ("public", {}),
        ("repository_dispatch", {"action": "go", "branch": "trunk", "client_payload": {}}),
        ("schedule", {"schedule": "0 4 * * *"}),
        ("status", {"sha": "e" * 40, "state": "success", "context": "x"}),
        ("watch", {"action": "started"}),
        ("workflow_run", {"action": "completed", "workflow_run": {}, "workflow": {}}),
    ],
)
def test_an_event_of_the_repository_happens_on_the_default_branch(name, payload):
    """Its commit is the default branch's tip, which is read later."""
    got = event(name, **payload)
    assert (got.name, got.action) == (name, payload.get("action"))
    assert (got.sha, got.ref, got.report_sha) == ("", "refs/heads/trunk", "")


@pytest.mark.parametrize("name", ["pull_request_review", "pull_request_review_comment"])
def test_a_review_runs_the_merge_commit_and_reports_on_the_head(name):
    """A review and a comment on the diff happen where the pull request does."""
    got = event(
        name, action="submitted", pull_request=SIDES, **{"review": {}} if name[-1] == "w" else {"comment": {}}
    )
    assert (got.number, got.ref, got.sha, got.report_sha) == (7, "refs/pull/7/merge", "", "c" * 40)
    assert (got.head_ref, got.base_ref, got.fork) == ("topic", "release/1", True)


def test_a_pull_request_target_runs_the_default_branch_and_reports_on_the_head():
    """The code is the repository's own, whatever branch the pull request is for."""
    got = event("pull_request_target", action="opened", number=7, pull_request=SIDES)
    assert (got.ref, got.sha, got.report_sha, got.base_ref) == ("refs/heads/trunk", "", "c" * 40, "release/1")


@pytest.mark.parametrize(
    ("kind", "ref", "full"),
    [
        ("tag", "v1", "refs/tags/v1"),
        ("branch", "a/b", "refs/heads/a/b"),
        ("tag", "refs/tags/v1", "refs/tags/v1"),
    ],
)
def test_create_names_the_new_ref(kind, ref, full):
    """GitHub and Gitea write the short name, and the type says what it is the name of."""
    assert event("create", ref=ref, ref_type=kind, master_branch="trunk").ref == full


def test_create_of_a_repository_starts_nothing():
    """There is no branch yet."""
    assert isinstance(decoded("create", ref="x", ref_type="repository", master_branch="trunk"), Ignored)


def test_a_release_runs_on_its_tag():
    """The tag's commit is read later."""
    got = event("release", action="published", release={"tag_name": "v1.2", "draft": False})
    assert (got.ref, got.sha, got.action) == ("refs/tags/v1.2", "", "published")


@pytest.mark.parametrize(("action", "starts"), [("created", False), ("deleted", False), ("published", True)])
def test_a_draft_starts_nothing_until_it_is_published(action, starts):
    """GitHub starts nothing when a draft is created, edited or deleted."""
    got = decoded("release", action=action, release={"tag_name": "v1", "draft": True})
    assert isinstance(got, Event) is starts


def test_a_merge_group_runs_its_head():
    """The queue's temporary branch is built and reported on, against the branch it will go to."""
    group = {"head_sha": "a" * 40, "head_ref": "refs/heads/gh-readonly-queue/trunk/pr-1-b",
             "base_sha": "b" * 40, "base_ref": "refs/heads/trunk"}  # fmt: skip
    got = event("merge_group", action="checks_requested", merge_group=group)
    assert (got.sha, got.report_sha, got.ref) == ("a" * 40, "a" * 40, group["head_ref"])
    assert (got.base_ref, got.base_sha) == ("trunk", "b" * 40)


@pytest.mark.parametrize(
    ("given", "ref"),
    [("trunk", "refs/heads/trunk"), ("a" * 40, ""), ("refs/tags/v1", "refs/tags/v1")],
)
@pytest.mark.parametrize("name", ["deployment", "deployment_status"])
def test_a_deployment_runs_the_commit_to_deploy(name, given, ref):
    """Its ref is the branch or tag, or none when it was made from a commit."""
    status = {"deployment_status": {"state": "success"}} if name == "deployment_status" else {}
    got = event(name, deployment={"sha": "a" * 40, "ref": given}, **status)
    assert (got.sha, got.report_sha, got.ref) == ("a" * 40, "a" * 40, ref)


def test_a_package_runs_its_commit_with_the_default_branchs_workflows():
    """The package's commit is what runs; the files that are asked are the default branch's."""
    version = {"target_oid": "a" * 40, "target_commitish": "trunk", "tag_name": "v1"}
    got = event("registry_package", action="published", registry_package={"package_version": version})
    assert (got.sha, got.ref) == ("a" * 40, "refs/tags/v1")
    assert files_apart(got) == "refs/heads/trunk"
    assert files_apart(event("public")) is None
    assert isinstance(
        decoded("registry_package", action="published", registry_package={"package_version": None}), Ignored
    )


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("synchronized", "synchronize"), ("label_updated", "labeled"), ("label_cleared", "unlabeled")],
)
def test_giteas_actions_are_read_as_githubs(theirs, ours):
    """A filter on `types` sees one word whichever forge sent it, also in the payload."""
    got = event("pull_request", action=theirs, number=7, pull_request=SIDES)
    assert (got.action, got.payload["action"]) == (ours, ours)


@pytest.mark.parametrize("name", ["pull_request_approved", "pull_request_rejected", "pull_request_comment"])
def test_giteas_reviews_are_reviews(name):
    """Gitea has an event for each verdict; a workflow knows one of them all."""
    got = event(name, action="reviewed", number=7, pull_request=SIDES, review={"type": name})
    assert (got.name, got.action, got.number) == ("pull_request_review", "submitted", 7)


def test_giteas_push_needs_no_flags():
    """It lacks created, deleted and forced; a deletion shows in the zero commit."""
    push = {"ref": "refs/heads/trunk", "before": "a" * 40, "commits": []}
    assert event("push", after="b" * 40, **push).sha == "b" * 40
    assert isinstance(decoded("push", after="0" * 40, **push), Ignored)


@pytest.mark.parametrize("forge", ["gitea", "forgejo"])
def test_an_identity_is_read_from_either_forges_headers(forge):
    """Where GitHub's names are missing the forge's own say the same."""
    headers = {f"x-{forge}-event": "push", f"x-{forge}-delivery": "g-1"}
    assert delivery_identity(headers, b"{}") == ("g-1", "push")


@pytest.mark.parametrize("name", ["pull_request_target", "schedule"])
def test_an_event_the_daemon_makes_itself_is_refused_from_outside(name):
    """A signed pull request sent again under a name with more rights is malformed."""
    with pytest.raises(Malformed, match="itself"):
        delivery_identity({"x-github-event": name, "x-github-delivery": "g"}, b"{}")


def test_a_renamed_repository_keeps_its_number():
    """The name is where the files are fetched now; the number is who it is."""
    moved = {"repository": {"id": 5, "full_name": "new-org/hello", "default_branch": "trunk"}}
    got = event("public", **moved)
    assert (got.repository.id, got.repository.full_name) == (5, "new-org/hello")
