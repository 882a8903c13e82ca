"""Behaviour of runnerd.actors.parser: what ends with a pull request or a merge group, and what comes late."""

from runnerd.messages import CancelRun, RunCreated

from .conftest import CI, CI_OF_PULLS, pull, repository


async def test_closing_a_pull_request_cancels_its_runs(planning):
    """The run that was started for it is asked to end; one of another pull request goes on."""
    base = planning.origin.commit({"ci.yml": CI_OF_PULLS})
    planning.origin.git("checkout", "--quiet", "-b", "topic")
    head = planning.origin.commit({"a": "1"})
    await planning.start()
    _, (run,), _ = await planning.plan("pull_request", pull(head, base))
    other = pull(head, base)
    other["number"] = other["pull_request"]["number"] = 8
    _, (stays,), _ = await planning.plan("pull_request", other)
    record, runs, _ = await planning.plan("pull_request", pull(head, base, action="closed"))
    assert (record.state, runs) == ("ignored", [])
    assert await planning.told(3) == [RunCreated(run.id), RunCreated(stays.id), CancelRun(run.id)]
    assert (await planning.ledger.run(run.id)).cancel_requested
    assert not (await planning.ledger.run(stays.id)).cancel_requested


async def test_an_opening_that_comes_after_the_closing_starts_nothing(planning):
    """Deliveries come in any order; what was before the closing is over, a reopening is not."""
    base = planning.origin.commit({"ci.yml": CI_OF_PULLS})
    planning.origin.git("checkout", "--quiet", "-b", "topic")
    head = planning.origin.commit({"a": "1"})
    await planning.start()
    for action, second, count in (
        ("closed", 5, 0),
        ("synchronize", 4, 0),
        ("opened", 3, 0),
        ("reopened", 6, 1),
    ):
        body = pull(head, base, action=action, updated_at=f"2026-01-01T00:00:0{second}Z")
        _record, runs, _ = await planning.plan("pull_request", body)
        assert len(runs) == count, action
    assert "was closed after this" in (await planning.ledger.delivery("d3")).reason


async def test_a_synchronize_that_comes_before_the_opening_is_built_once_each(planning):
    """Each delivery is about its own head; one whose head is another by now starts nothing."""
    base = planning.origin.commit({"ci.yml": CI_OF_PULLS})
    planning.origin.git("checkout", "--quiet", "-b", "topic")
    old = planning.origin.commit({"a": "1"})
    new = planning.origin.commit({"a": "2"})
    planning.origin.git("update-ref", "refs/pull/7/head", new)
    await planning.start()
    _, (run,), _ = await planning.plan("pull_request", pull(new, base, action="synchronize"))
    assert run.event.report_sha == new
    record, runs, _ = await planning.plan("pull_request", pull(old, base))
    assert (record.state, runs) == ("ignored", [])
    assert f"{old} was superseded" in record.reason


async def test_a_destroyed_merge_group_cancels_its_runs(planning):
    """GitHub does not wait for the result any more, and nothing is started for the end."""
    sha = planning.origin.commit({"ci.yml": CI.replace("on: push", "on: merge_group")})
    group = {
        "head_sha": sha, "head_ref": "refs/heads/gh-readonly-queue/main/pr-7-x",
        "base_sha": sha, "base_ref": "refs/heads/main",
    }  # fmt: skip
    body = {"action": "checks_requested", "merge_group": group, "repository": repository()}
    await planning.start()
    _, (run,), _ = await planning.plan("merge_group", body)
    assert (run.event.sha, run.event.ref) == (sha, group["head_ref"])
    record, runs, _ = await planning.plan("merge_group", body | {"action": "destroyed"})
    assert (record.state, runs) == ("ignored", [])
    assert await planning.told(2) == [RunCreated(run.id), CancelRun(run.id)]
