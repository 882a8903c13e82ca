"""Reusable workflows found in the mirrors, pinned, and refused where they are not for the caller."""

import msgspec
import pytest

from runnerd.model import Repository
from runnerd.planning.called import Finder
from runnerd.planning.planner import Planner

from .conftest import CI

PATH = ".github/workflows/c.yml"
CALLED = "on: workflow_call\njobs: {inner: {runs-on: ubuntu-latest, steps: [{run: make}]}}\n"


def calls(uses):
    return f"on: push\njobs: {{call: {{uses: {uses}}}}}\n"


def pushed(remote, **files):
    """Commit workflow files on main; returns the push."""
    remote.write(**{f".github/workflows/{name}.yml": text for name, text in files.items()})
    return remote.event("push", sha=remote.commit("change"))


async def test_a_local_workflow_is_that_of_the_events_commit(remote, mirrors, site):
    """Its text and commit are pinned in the run."""
    event = pushed(remote, ci=calls(f"./{PATH}"), c=CALLED)
    [run] = (await Planner(mirrors, site).plan(event)).runs
    (file,) = run.called
    assert (run.outcome, [job.key for job in run.jobs]) == (None, ["call"])
    assert (file.name, file.text, file.sha, file.path) == (f"./{PATH}", CALLED, event.sha, PATH)


async def test_a_remote_workflow_is_pinned_at_the_commit_its_ref_names(remote, mirrors, site):
    """A tag goes before a branch; what that file calls locally is of its own repository and commit."""
    nested = calls("./.github/workflows/d.yml").replace("push", "workflow_call")
    first = pushed(remote, c=nested, d=CALLED)
    remote.git("tag", "v1")
    event = pushed(remote, c="not a workflow", ci=calls(f"octo/ci/{PATH}@v1"))
    runs = {run.workflow_path: run for run in (await Planner(mirrors, site).plan(event)).runs}
    files = {file.name: file for file in runs[".github/workflows/ci.yml"].called}
    assert {name: (file.repository, file.sha) for name, file in files.items()} == {
        f"octo/ci/{PATH}@v1": ("octo/ci", first.sha),
        "octo/ci/.github/workflows/d.yml@v1": ("octo/ci", first.sha),
    }


async def test_anothers_workflow_is_not_for_everybody(remote, mirrors, site):
    """Another owner's repository is read only where the operator named it; the run says what to do."""
    event = pushed(remote, c=CALLED, ci=calls(f"acme/ci/{PATH}@main"))
    [run] = (await Planner(mirrors, site).plan(event)).runs
    assert run.outcome is not None
    assert "shared_workflows" in run.reason
    site.shared_workflows = ("Acme/*",)
    [run] = (await Planner(mirrors, site).plan(event)).runs
    assert run.outcome is None


async def test_a_strangers_file_learns_nothing_of_other_repositories(remote, mirrors):
    """Not even of the same owner's, which may be private: one sentence, whatever is there."""
    event = msgspec.structs.replace(
        pushed(remote, c=CALLED, ci=calls("x")), name="pull_request", number=7, fork=True
    )
    finder = Finder(mirrors, event, event.sha)
    said = set()
    for repository, ref in (("octo/ci", "main"), ("octo/ci", "gone"), ("octo/none", "main")):
        with pytest.raises(LookupError) as refused:
            await finder.find(f"{repository}/{PATH}@{ref}")
        said.add(str(refused.value))
    assert len(said) == 1
    assert (await finder.find(f"{event.repository.full_name}/{PATH}@main")).text == CALLED
    shared = Finder(mirrors, event, event.sha, shared=("octo/*",))
    assert (await shared.find(f"octo/ci/{PATH}@main")).text == CALLED


async def test_a_workflow_that_is_not_there_fails_the_run(remote, mirrors, site):
    """With the name and the commit."""
    event = pushed(remote, ci=calls("./.github/workflows/none.yml"))
    [run] = (await Planner(mirrors, site).plan(event)).runs
    assert "has no .github/workflows/none.yml at" in run.reason


async def test_a_ref_that_is_not_there_is_said(remote, mirrors):
    """Neither commit, tag nor branch."""
    finder = Finder(mirrors, pushed(remote, ci=CI.format(on="push")), "a" * 40)
    with pytest.raises(LookupError, match="no tag, branch or commit 'gone'"):
        await finder.find(f"octo/ci/{PATH}@gone")


async def test_a_remote_that_does_not_answer_is_missing_on_the_last_try(remote, mirrors, monkeypatch):
    """Before that the delivery is tried again; after it the run says why it failed."""
    event = remote.event("push", repository=Repository(id=7, full_name="octo/hello"))
    monkeypatch.setattr(mirrors, "_remote_of", lambda name: str(remote.folder / "nowhere"))
    with pytest.raises(LookupError, match="octo/ci could not be read"):
        await Finder(mirrors, event, "a" * 40, last=True).find(f"octo/ci/{PATH}@v1")
