"""Behaviour of runnerd.actors.parser: the second event of a pull request."""

import pytest

from .conftest import CI_OF_PULLS, pull


@pytest.mark.parametrize("allowed", [True, False])
async def test_a_pull_request_is_two_events_where_that_is_allowed(planning, allowed):
    """Of a file that names both each starts a run: one at the merge, one at the default branch's tip."""
    both = CI_OF_PULLS.replace("on: pull_request", "on: [pull_request, pull_request_target]")
    base = planning.origin.commit({"ci.yml": both})
    planning.origin.git("checkout", "--quiet", "-b", "topic")
    head = planning.origin.commit({"a": "1"})
    planning.origin.git("checkout", "--quiet", "main")
    planning.targets = allowed
    await planning.start()
    _, (run,), _ = await planning.plan("pull_request", pull(head, base))
    assert run.event.sha == head
    if not allowed:
        assert await planning.ledger.delivery(f"{run.delivery}.pull_request_target") is None
        return
    await planning.settled(f"{run.delivery}.pull_request_target")
    second, first = await planning.ledger.runs(10)
    assert first == run
    assert (second.event.name, second.event.sha, second.event.report_sha) == (
        "pull_request_target",
        base,
        head,
    )
    assert second.event.ref == "refs/heads/main"
