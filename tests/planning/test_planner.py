"""Behaviour of runnerd.planning.planner, with real repositories."""

from __future__ import annotations

import pytest

from runnerd.model import Outcome
from runnerd.planning.place import Absent, NotMerged, Passed
from runnerd.planning.planner import Planner

from .conftest import CI


def put(remote, on="pull_request", name=".github/workflows/ci.yml"):
    remote.put(name, CI.format(on=on))
    return remote.commit()


async def test_a_conflict_fails_the_workflows_that_would_have_run(remote, mirrors, site):
    """It is on the commit under the names people look for, and a workflow for pushes says nothing."""
    remote.write(a="0")
    put(remote, "push", ".github/workflows/push.yml")
    start = put(remote)
    head = remote.branch("topic", start, a="theirs")
    remote.write(a="ours")
    base = remote.commit()
    remote.offer(head)
    plan = await Planner(mirrors, site, merges=lambda name: True).plan(remote.pull(head, base))
    [run] = plan.runs
    assert (run.workflow_name, run.outcome, run.jobs) == ("CI", Outcome.STARTUP_FAILURE, ())
    assert run.event.report_sha == head
    assert run.reason.startswith("The pull request conflicts with its base branch main")


async def test_a_merge_that_never_comes_is_told_on_the_last_try(remote, mirrors, site):
    """Until then the delivery waits; in the end the commit says that it was not built."""
    base = put(remote)
    head = remote.branch("topic", a="1")
    remote.offer(head)
    planner = Planner(mirrors, site, merges=lambda name: True)
    with pytest.raises(NotMerged):
        await planner.plan(remote.pull(head, base))
    [run] = (await planner.plan(remote.pull(head, base), last=True)).runs
    assert run.outcome is Outcome.INFRA_ERROR
    assert "has not merged" in run.reason


async def test_a_ref_that_never_comes_is_over_on_the_last_try(remote, mirrors, site):
    """A release whose tag was deleted starts nothing."""
    put(remote)
    event = remote.event("release", action="published", ref="refs/tags/v9")
    planner = Planner(mirrors, site)
    with pytest.raises(Absent):
        await planner.plan(event)
    with pytest.raises(Passed, match="not there any more"):
        await planner.plan(event, last=True)


async def test_a_package_asks_the_default_branchs_workflows(remote, mirrors, site):
    """It runs on its own commit, with the files of the default branch."""
    old = remote.commit()
    put(remote, "registry_package")
    event = remote.event("registry_package", action="published", sha=old, report_sha=old)
    [run] = (await Planner(mirrors, site).plan(event)).runs
    assert run.event.sha == old


async def test_the_first_folder_with_workflows_counts(remote, mirrors, site):
    """A forge's own folder hides GitHub's, and a chosen directory is the only one."""
    put(remote, "push")
    event = remote.event("push", sha=put(remote, "push", ".gitea/workflows/own.yml"))
    site.workflow_folders = (".forgejo/workflows", ".gitea/workflows", ".github/workflows")
    assert [r.workflow_path for r in (await Planner(mirrors, site).plan(event)).runs] == [
        ".gitea/workflows/own.yml"
    ]
    site.workflow_folders = (".runnerd/workflows",)
    assert (await Planner(mirrors, site).plan(event)).runs == []


async def test_path_filters_of_pull_request_target_see_the_pull_request(remote, mirrors, site):
    """Its workflows are the default branch's, and the files those that the pull request changes."""
    base = put(remote, "{pull_request_target: {paths: [a]}}")
    head = remote.branch("topic", a="1")
    other = remote.branch("other", b="1")
    planner = Planner(mirrors, site)
    for change, count in ((head, 1), (other, 0)):
        remote.offer(change)
        event = remote.event(
            "pull_request_target", action="opened", base_sha=base, base_ref="main", number=7,
            report_sha=change, payload={"action": "opened"},
        )  # fmt: skip
        plan = await planner.plan(event)
        assert (len(plan.runs), [run.event.sha for run in plan.runs]) == (count, [base] * count)
