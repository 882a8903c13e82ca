"""Behaviour of runnerd.forge.check_runs, against a GitHub that checks every request."""

from __future__ import annotations

import msgspec
import pytest

from runnerd.forge.protocol import CheckReport, ForgeDenied

REPOSITORY, SHA = "octo-org/hello", "b" * 40
QUEUED = CheckReport(
    name="runnerd / CI / build (ubuntu, 3.12)",
    external_id="5/9/abc",
    status="queued",
    title="Queued",
    summary="s",
)


def note(n):
    return {
        "path": "a.py",
        "start_line": n + 1,
        "end_line": n + 1,
        "annotation_level": "warning",
        "message": f"{n}",
    }


def ended(annotations=0, **changes):
    return msgspec.structs.replace(
        QUEUED,
        status="completed",
        conclusion="failure",
        title="Failed",
        completed_at="2026-11-25T18:00:00Z",
        annotations=tuple(note(n) for n in range(annotations)),
        **changes,
    )


def checks(site):
    return site.server.checks.get((REPOSITORY, SHA), [])


async def test_a_check_run_is_made_once_and_brought_up_to_date(app_site):
    """Queued, running, ended: one check run, one write each, nothing for what was said."""
    running = msgspec.structs.replace(QUEUED, status="in_progress", title="Running")
    for report in (QUEUED, QUEUED, running, ended(), ended()):
        await app_site.github.set_check(REPOSITORY, SHA, report)
    [check] = checks(app_site)
    assert (check["status"], check["conclusion"], check["output"]["title"]) == (
        "completed",
        "failure",
        "Failed",
    )
    writes = [request.method for request in app_site.server.writes() if "check-runs" in request.path]
    assert writes == ["POST", "PATCH", "PATCH"]


async def test_a_restart_finds_the_check_run(app_site):
    """A new client looks for the external id among those of the name, and writes only what differs."""
    await app_site.github.set_check(REPOSITORY, SHA, ended(70))
    before = len(app_site.server.writes())
    async with app_site.client(app_site.address, "") as other:
        await other.set_check(REPOSITORY, SHA, ended(70))
        await other.set_check(REPOSITORY, SHA, msgspec.structs.replace(QUEUED, external_id="6/1/abc"))
    assert [check["external_id"] for check in checks(app_site)] == ["5/9/abc", "6/1/abc"]
    later = [request for request in app_site.server.writes()[before:] if "check-runs" in request.path]
    assert [request.method for request in later] == ["POST"]


@pytest.mark.parametrize("kind", ["before", "after", "hangup", "garbage"])
@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_an_uncertain_write_is_looked_up(app_site, kind, method):
    """Whatever became of the lost write, there is one check run, with every annotation once."""
    await app_site.github.has_checks(REPOSITORY)
    app_site.fail(kind, method=method, path="check-runs")
    await app_site.github.set_check(REPOSITORY, SHA, ended(130))
    [check] = checks(app_site)
    assert [each["message"] for each in check["annotations"]] == [str(n) for n in range(130)]
    assert check["conclusion"] == "failure"


async def test_a_crash_between_two_batches_sends_the_rest(app_site):
    """What the forge has is counted, and the next client goes on behind it."""
    app_site.fail("answer", method="PATCH", path="check-runs", status=422, message="no")
    with pytest.raises(ForgeDenied):
        await app_site.github.set_check(REPOSITORY, SHA, ended(120))
    async with app_site.client(app_site.address, "") as other:
        await other.set_check(REPOSITORY, SHA, ended(120))
    [check] = checks(app_site)
    assert [each["message"] for each in check["annotations"]] == [str(n) for n in range(120)]


async def test_somebody_elses_check_run_is_left_alone(app_site):
    """Another App that copied name and external id does not make us write at its check run."""
    stranger = {
        "id": 1,
        "name": QUEUED.name,
        "external_id": QUEUED.external_id,
        "annotations": [],
        "status": "queued",
        "conclusion": None,
        "output": {},
        "app": {"slug": "evil"},
    }
    app_site.server.checks[REPOSITORY, SHA] = [stranger]
    stranger_check = app_site.server.checks[REPOSITORY, SHA][0]
    await app_site.github.set_check(REPOSITORY, SHA, ended())
    assert stranger_check["status"] == "queued"
    assert len(checks(app_site)) == 2
    app_site.server.problems.clear()  # the server objects to two of one external id


async def test_a_check_run_that_github_deleted_is_made_anew(app_site):
    """More than a thousand of one name, and GitHub forgets the oldest."""
    await app_site.github.set_check(REPOSITORY, SHA, QUEUED)
    app_site.server.checks.clear()
    await app_site.github.set_check(REPOSITORY, SHA, ended())
    assert [check["conclusion"] for check in checks(app_site)] == ["failure"]


async def test_only_an_app_that_may_has_checks(app_site, site):
    """A personal token has none, and neither has an App that was not given the permission."""
    assert await app_site.github.has_checks(REPOSITORY)
    assert not await site.github.has_checks(REPOSITORY)
    app_site.server.granted = {"statuses": "write"}
    app_site.now += 3600
    assert not await app_site.github.has_checks(REPOSITORY)
    with pytest.raises(ForgeDenied, match="checks=read") as caught:
        await app_site.github.set_check(REPOSITORY, SHA, QUEUED)
    assert caught.value.permission == "Checks: write"
