"""Behaviour of runnerd.forge.speaker: refusals said once, and asking for anything else."""

from __future__ import annotations

import pytest
import structlog

from runnerd.forge.protocol import ForgeDenied, ForgeUnavailable, Gone

REPOSITORY, SHA = "octo-org/hello", "b" * 40


async def test_a_missing_permission_is_named_once_with_its_cost(site):
    """However many reports it keeps back, the log says it one time for each repository."""
    site.fail("answer", method="POST", status=403, message="Resource not accessible", times=5)
    with structlog.testing.capture_logs() as logged:
        for n in range(3):
            with pytest.raises(ForgeDenied):
                await site.status(context=f"c{n}")
    named = [entry for entry in logged if entry["event"] == "permission_missing"]
    assert [(entry["permission"], entry["costs"]) for entry in named] == [
        ("Commit statuses: write", "no result is shown on commits without check runs")
    ]


async def test_a_question_is_repeated_and_an_order_is_not(site):
    """A lost answer to a GET is asked for again; a POST may have been done."""
    site.fail("hangup", method="GET")
    assert (await site.github.ask("GET", "/user")).json()["login"] == "runnerd-bot"
    site.fail("after", method="POST")
    path = f"/repos/{REPOSITORY}/statuses/{SHA}"
    with pytest.raises(ForgeUnavailable) as caught:
        await site.github.ask("POST", path, repository=REPOSITORY, body={"state": "success", "context": "x"})
    assert caught.value.scope == "report"
    assert len(site.server.statuses[REPOSITORY, SHA]) == 1


async def test_what_is_not_there_is_gone(site):
    """A 404 is its own kind of refusal, for callers to whom it is an answer."""
    with pytest.raises(Gone, match="Administration: read"):
        await site.github.ask("GET", "/repos/o/r/nothing", permission="Administration: read")
    site.server.problems.clear()


async def test_the_next_page_is_a_path_of_the_same_api(site):
    """The link header's address loses the API's own part; one that leads elsewhere is none."""
    for link, page in (
        (f'<{site.address}/app/hook/deliveries?cursor=v1_5&per_page=2>; rel="next"',
         "/app/hook/deliveries?cursor=v1_5&per_page=2"),
        (f'<{site.address}/a?page=1>; rel="prev", <{site.address}/a?page=3>; rel="next"', "/a?page=3"),
        ('<https://evil.example/app/hook>; rel="next"', ""),
        ("", ""),
    ):  # fmt: skip
        site.fail("answer", status=200, headers={"link": link} if link else {}, message="ok")
        assert (await site.github.ask("GET", "/user")).next_page == page


async def test_an_app_without_check_runs_says_so_once(app_site):
    """Its results are statuses then, which nobody would wonder about without being told."""
    app_site.server.granted = {"statuses": "write"}
    with structlog.testing.capture_logs() as logged:
        for _ in range(3):
            assert not await app_site.github.has_checks(REPOSITORY)
    assert [entry["permission"] for entry in logged] == ["Checks: write"]
