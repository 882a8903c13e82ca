"""Behaviour of runnerd.forge.reports."""

from __future__ import annotations

import json

import pytest

from runnerd.forge.links import Links
from runnerd.forge.reports import comment_marker, comment_of, conclusion, local_report, status_of
from runnerd.model import Actor, Event, JobRecord, Outcome, Phase, Repository, RunRecord, StepResult


def make_event(**changes):
    return Event(**{
        "delivery": "d-1", "name": "pull_request", "action": "opened", "number": 7,
        "repository": Repository(id=1, full_name="octo-org/hello"), "sender": Actor(id=2, login="octocat"),
        "payload": {"secretish": "payload"},
        "sha": "e" * 40, "ref": "refs/pull/7/merge", "report_sha": "c" * 40,
        **changes,
    })  # fmt: skip


def make_run(**changes):
    return RunRecord(**{
        "id": 5, "delivery": "d-1", "repository": "octo-org/hello", "workflow_path": "ci.yml",
        "workflow_name": "CI", "title": "A change", "source": "0" * 64, "event": make_event(), "number": 3,
        "phase": Phase.DONE, "outcome": Outcome.SUCCESS, "started": 100.0, "ended": 112.0, **changes,
    })  # fmt: skip


def make_job(**changes):
    return JobRecord(**{
        "id": 9, "run": 5, "key": "build", "name": "build (ubuntu, 3.12)", "phase": Phase.DONE,
        "outcome": Outcome.SUCCESS, "started": 100.0, "ended": 112.0, **changes,
    })  # fmt: skip


def step(**changes):
    return StepResult(**{
        "number": 3, "id": "t", "name": "make test", "exit_code": 2,
        "outcome": Outcome.FAILURE, "conclusion": Outcome.FAILURE, **changes,
    })  # fmt: skip


@pytest.mark.parametrize(
    ("outcome", "word"),
    [
        (Outcome.SUCCESS, "success"),
        (Outcome.FAILURE, "failure"),
        (Outcome.CANCELLED, "cancelled"),
        (Outcome.SKIPPED, "skipped"),
        (Outcome.TIMED_OUT, "timed_out"),
        (Outcome.STARTUP_FAILURE, "failure"),
        (Outcome.LOST, "failure"),
        (Outcome.INFRA_ERROR, "failure"),
    ],
)
def test_an_outcome_keeps_its_name_where_github_has_one(outcome, word):
    """Our own faults are failures there, and nothing is ever neutral."""
    assert conclusion(outcome) == word


@pytest.mark.parametrize("outcome", list(Outcome))
def test_only_success_and_a_proper_skip_are_green(outcome):
    """A status says success for these two alone."""
    report = status_of(make_run(), make_job(outcome=outcome, reason="because"))
    assert (report.state == "success") == (outcome in (Outcome.SUCCESS, Outcome.SKIPPED))
    assert report.state in ("success", "failure")


@pytest.mark.parametrize(
    ("changes", "state", "description"),
    [
        ({"phase": Phase.QUEUED, "outcome": None}, "pending", "Queued"),
        ({"phase": Phase.WAITING, "outcome": None}, "pending", "Queued"),
        ({"phase": Phase.RUNNING, "outcome": None}, "pending", "Running"),
        ({}, "success", "Successful in 12s"),
        (
            {"outcome": Outcome.FAILURE, "steps": (step(),)},
            "failure",
            "Failed after 12s: step 3 (make test) exited with 2",
        ),
        (
            {"outcome": Outcome.TIMED_OUT, "ended": 460.0, "reason": "over 6 minutes"},
            "failure",
            "Timed out after 6m 0s: over 6 minutes",
        ),
        (
            {"outcome": Outcome.SKIPPED, "reason": "if was false", "started": None},
            "success",
            "Skipped: if was false",
        ),
        ({"outcome": Outcome.CANCELLED, "started": None}, "failure", "Cancelled"),
        (
            {"outcome": Outcome.LOST, "reason": "the machine died"},
            "failure",
            "Lost after 12s: the machine died",
        ),
        (
            {"outcome": Outcome.INFRA_ERROR, "reason": "no machine"},
            "failure",
            "Infrastructure error after 12s: no machine",
        ),
        (
            {"outcome": Outcome.STARTUP_FAILURE, "reason": "bad `if`", "started": None},
            "failure",
            "Could not start: bad `if`",
        ),
        (
            {"outcome": Outcome.FAILURE, "allowed_to_fail": True},
            "failure",
            "Allowed to fail. Failed after 12s",
        ),
    ],
)
def test_a_status_says_in_one_line_what_happened(changes, state, description):
    """State and description follow from the record alone."""
    report = status_of(make_run(), make_job(**changes))
    assert (report.state, report.description) == (state, description)
    assert report.context == "runnerd / CI / build (ubuntu, 3.12)"


def test_a_run_without_jobs_has_a_status_of_its_own():
    """A file that cannot be read is a failure under the workflow's name."""
    run = make_run(
        outcome=Outcome.STARTUP_FAILURE, reason="Invalid workflow file\nci.yml:1:1: no", started=None
    )
    report = status_of(run, None)
    assert (report.context, report.state) == ("runnerd / CI", "failure")
    assert report.description == "Could not start: Invalid workflow file ci.yml:1:1: no"


def test_a_status_fits_githubs_limits():
    """Description and context are cut by the strictest count, and two long names stay two."""
    reports = [
        status_of(
            make_run(workflow_name="w" * 300 + tail),
            make_job(outcome=Outcome.FAILURE, reason="😀" * 300 + "\x1b[31m", name="n\n" * 100),
        )
        for tail in "ab"
    ]
    for report in reports:
        assert len(report.description.encode("utf-16-le")) // 2 <= 140
        assert len(report.context) <= 255
        assert report.description.endswith("…")
    assert reports[0].context != reports[1].context


def test_an_address_is_given_only_where_people_can_reach_it():
    """A status links to its job, or to its run where it has none."""
    links = Links(public_url="https://ci.example/", key=b"k" * 32)
    assert status_of(make_run(), make_job()).target_url == ""
    assert status_of(make_run(), make_job(), links=links).target_url == links.of(5, 9)
    assert status_of(make_run(), None, links=links).target_url == links.of(5, None)


def test_a_comment_shows_every_job_and_why_one_failed():
    """A table of jobs with times, then for each failure its step, its reason and the end of its log."""
    failed = make_job(
        id=10, name="test", outcome=Outcome.FAILURE, steps=(step(),), reason="step 3 failed", ended=103.25
    )
    runs = [(make_run(outcome=Outcome.FAILURE), [make_job(), failed])]
    tails = {10: "\n".join(f"line {n}" for n in range(100))}
    marker, text = comment_of(make_event(), runs, tails=tails)
    assert text.startswith(marker + "\n### runnerd: failed\n")
    assert "| ✅ | CI | build &#40;ubuntu, 3.12&#41; | Successful | 12s |" in text
    assert "| ❌ | CI | test | Failed | 3.2s |" in text
    assert "Step 3, make test: exit status 2" in text
    assert "line 99" in text
    assert "line 79\n" not in text
    assert "secretish" not in text


def test_a_comments_marker_is_that_of_its_pull_request():
    """Another pull request, or another repository, has another comment."""
    other = make_event(repository=Repository(id=2, full_name="octo-org/hello"))
    assert (
        len({comment_marker(make_event()), comment_marker(make_event(number=8)), comment_marker(other)}) == 3
    )


def test_strangers_text_cannot_leave_its_place():
    """Names from a branch or a workflow bring no table cell, no mention, no HTML and no code fence."""
    evil = "x|y`<img>@octocat\n\n# [link](http://evil) <!-- -->"
    job = make_job(name=evil, outcome=Outcome.FAILURE, reason=evil, steps=(step(name=evil),))
    run = make_run(workflow_name=evil, outcome=Outcome.FAILURE, event=make_event(ref=f"refs/heads/{evil}"))
    tail = "```\n</details>\n@octocat"
    for text in (
        comment_of(run.event, [(run, [job])], tails={9: tail})[1],
        local_report(run, [job], tails={9: tail})[1],
    ):
        outside = text.replace("````text\n```\n</details>\n@octocat\n````", "")
        assert outside != text
        assert "<img" not in outside
        assert "@octocat" not in outside
        assert "http://" not in outside
        rows = [line for line in outside.splitlines() if line.startswith("| ❌")]
        assert [row.count("|") for row in rows] == [6]


def test_a_comment_never_exceeds_githubs_limit():
    """Hundreds of failed jobs with long logs are cut with a note, and no block stays open."""
    jobs = [make_job(id=n, name=f"job {n}", outcome=Outcome.FAILURE) for n in range(300)]
    tails = dict.fromkeys(range(300), "é" * 4000)
    _, text = comment_of(make_event(), [(make_run(outcome=Outcome.FAILURE), jobs)], tails=tails)
    assert 60_000 < len(text.encode()) <= 65_536
    assert text.rstrip().endswith("whole._")
    assert text.count("```") % 2 == 0
    assert text.count("<details>") == text.count("</details>")


@pytest.mark.parametrize(
    ("outcomes", "headline"),
    [
        ([], "nothing to run"),
        ([None, Outcome.FAILURE], "running"),
        ([Outcome.SUCCESS, Outcome.SKIPPED], "successful"),
        ([Outcome.SKIPPED], "all skipped"),
        ([Outcome.CANCELLED, Outcome.SUCCESS], "cancelled"),
        ([Outcome.CANCELLED, Outcome.FAILURE], "failed"),
        ([Outcome.LOST], "lost"),
    ],
)
def test_the_headline_is_the_worst_of_the_runs(outcomes, headline):
    """One look says whether all is well."""
    _, text = comment_of(make_event(), [(make_run(outcome=outcome), []) for outcome in outcomes])
    assert f"### runnerd: {headline}\n" in text


def test_a_local_report_is_what_github_would_get():
    """The JSON has the statuses, the comment and the records; the payload is left out."""
    job = make_job(boot_id="b-1", machine_id="m-1")
    data, markdown = local_report(make_run(), [job])
    report = json.loads(data)
    assert report["conclusion"] == "success"
    assert report["sha"] == "c" * 40
    assert report["statuses"][0] == {
        "context": "runnerd / CI / build (ubuntu, 3.12)",
        "state": "success",
        "description": "Successful in 12s",
        "target_url": "",
    }
    assert report["comment"].startswith("<!-- runnerd:v1")
    assert report["jobs"][0]["boot_id"] == "b-1"
    assert "secretish" not in data.decode()
    assert markdown.startswith("# CI #3: successful\n")


def test_a_local_report_of_a_push_has_no_comment():
    """Only pull requests are commented on; a run without jobs still has its status."""
    run = make_run(event=make_event(name="push", number=None), outcome=Outcome.STARTUP_FAILURE, reason="no")
    report = json.loads(local_report(run, [])[0])
    assert report["comment"] is None
    assert [status["state"] for status in report["statuses"]] == ["failure"]


def test_a_repeated_body_that_nobody_confirmed_is_said():
    """What ran without the forge's word says so in its status and its comment, whatever came of it."""
    remark = "its body came before, as delivery d-0"
    run = make_run(event=make_event(remark=remark))
    assert status_of(run, make_job()).description == f"Successful in 12s. Unconfirmed: {remark}"
    assert f"**CI** is unconfirmed: {remark}." in comment_of(run.event, [(run, [make_job()])])[1]
    assert "nconfirmed" not in comment_of(make_event(), [(make_run(), [make_job()])])[1]
